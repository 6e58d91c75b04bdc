"""Log lines of a process: text or JSON, on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from worker import __version__
from worker.runtime.identity import process_name
from worker.runtime.log_fields import fields_of
from worker.runtime.printable import printable


def configure_logging(level: str, form: str) -> None:
    """Log to standard error, one line a record, as ``text`` or ``json``; no bodies, values or passwords."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter()
        if form == "json"
        else _TextFormatter("%(asctime)s %(levelname)-7s %(name)s [%(process)d] %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("amqp", "kombu", "alembic", "sqlalchemy", "pika"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _TextFormatter(logging.Formatter):
    """Form of lines for people: what a sender wrote is shown, and looks like no other line.

    The lines of a traceback are indented.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name of logging
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {printable(line)}" for line in lines)


class _JsonFormatter(logging.Formatter):
    """Form of lines for machines; ``log_fields`` names all that may be in one."""

    def __init__(self) -> None:
        super().__init__()
        self._process = {"worker": process_name(), "version": __version__}

    def format(self, record: logging.LogRecord) -> str:
        given = dict(fields_of(record))
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "event": given.pop("event"),
            **self._process,
            **given,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
