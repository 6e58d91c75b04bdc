"""Log lines on standard error."""

import json
import logging
from datetime import datetime

import pytest

from worker.runtime.logging import configure_logging


def test_json_record_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    try:
        dict[str, str]()["ü"]
    except KeyError:
        logging.getLogger("worker.test").exception("a %s\nof two lines", "fault")
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == (
        "ERROR",
        "worker.test",
        "a fault\nof two lines",
    )
    assert "KeyError: 'ü'" in fields["traceback"]
    assert datetime.fromisoformat(fields["time"]).tzinfo is not None
    assert isinstance(fields["process"], int)


def test_text_record_names_its_logger_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("worker.test").warning("careful")
    assert "WARNING worker.test" in capsys.readouterr().err


def test_level_is_a_bound_and_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("worker.test").debug("details")
    logging.getLogger("pika").info("a page about a connection")
    assert capsys.readouterr().err == ""
