"""Log lines on standard error."""

import inspect
import json
import logging
from datetime import datetime
from typing import Any

import pytest

from schemas.trace import trace_in
from worker import __version__
from worker.runtime import log_fields
from worker.runtime.identity import process_name
from worker.runtime.log_fields import COMMON, OPTIONAL, LogEvent
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
    assert datetime.fromisoformat(fields["ts"]).tzinfo is not None
    assert (fields["event"], fields["worker"], fields["version"]) == ("other", process_name(), __version__)
    assert set(fields) == {*COMMON, "traceback"}


def fail(text: str) -> None:
    raise ValueError(text)


def test_text_of_a_sender_looks_like_no_other_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    forged = "r-1\n2026-11-27 10:00:00,000 CRITICAL worker.ledger [1] the ledger is lost\x1b[2J\u202e"
    log = logging.getLogger("worker.test")
    log.warning("refused %s", forged)
    try:
        fail(forged)
    except ValueError:
        log.exception("a fault")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [lines[0], lines[1]]
    assert "worker.test" in lines[0]
    assert lines[1].endswith("a fault")
    assert lines[0].endswith(r"the ledger is lost\x1b[2J\u202e")
    assert all(line.isprintable() for line in lines)
    assert lines[-1].startswith("    ")


def test_json_record_has_the_fields_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    trace = trace_in("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    extra = log_fields.fields(
        LogEvent.MESSAGE, reference_id="r", user_id=None, duplicate=False, count=0, trace=trace
    )
    logging.getLogger("worker.test").info("a message", extra=extra)
    fields = json.loads(capsys.readouterr().err)
    assert {name: value for name, value in fields.items() if name not in COMMON} == {
        "referenceId": "r",
        "duplicate": False,
        "count": 0,
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
    }
    assert fields["event"] == "message"


def test_names_of_fields_are_those_that_a_call_can_give() -> None:
    given: dict[str, Any] = {
        name: "x"
        for name in inspect.signature(log_fields.fields).parameters
        if name not in ("event", "trace")
    }
    trace = trace_in("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    record = logging.makeLogRecord(log_fields.fields(LogEvent.OTHER, trace=trace, **given))
    assert set(log_fields.fields_of(record)) == {*OPTIONAL, "event"} - {"traceback"}


def test_text_record_names_its_logger_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("worker.test").warning("careful")
    assert "WARNING worker.test" in capsys.readouterr().err


def test_level_is_a_bound_and_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("worker.test").debug("details")
    logging.getLogger("pika").info("a page about a connection")
    assert capsys.readouterr().err == ""
