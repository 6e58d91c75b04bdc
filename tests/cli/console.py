"""The command line in this process: arguments in, exit code and both streams out, as a user meets them."""

import csv
import io
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command, OpenAccount
from tests.support.apply_commands import applied
from worker.catalog import load_catalog
from worker.cli import main
from worker.ledger.senders import UNNAMED, Sender
from worker.runtime.stop import SignalStop


@dataclass(frozen=True)
class Ended:
    """Result of one call: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        """Everything the user saw."""
        return self.out + self.err

    @property
    def lines(self) -> list[str]:
        """Standard output, line by line."""
        return self.out.splitlines()

    @property
    def rows(self) -> list[list[str]]:
        """Standard output, line by line, split at tabs."""
        return list(csv.reader(self.lines, delimiter="\t", quoting=csv.QUOTE_NONE))

    @property
    def json(self) -> Any:
        """Standard output, parsed; it must be one JSON document."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The only line on standard error, which must be an error; without its prefix."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: "), line
        return line.removeprefix("error: ")


class Stream(io.TextIOWrapper):
    """A standard stream in memory; a terminal if ``terminal`` is set."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False, encoding: str = "utf-8") -> None:
        self.kept = io.BytesIO(content)
        self._terminal = terminal
        super().__init__(self.kept, encoding=encoding, newline="", write_through=True)

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        return self.kept.getvalue().decode(self.encoding)


class Cli:
    """Call ``billing-worker`` with ``environment`` and no other BILLING_… variable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
        self._monkeypatch = monkeypatch
        self.environment = dict(environment)

    def __call__(
        self,
        *arguments: str,
        stdin: bytes = b"",
        terminal: bool = False,
        encoding: str = "utf-8",
        **variables: str,
    ) -> Ended:
        out, err = (Stream(terminal=terminal, encoding=encoding) for _ in range(2))
        handlers = list(logging.root.handlers)
        with self._monkeypatch.context() as patch:
            patch.setattr(SignalStop, "install", lambda _stop: None)  # the signals are the test run's
            patch.setattr(sys, "argv", ["billing-worker", *arguments])
            patch.setattr(sys, "stdin", Stream(stdin, terminal=terminal))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setenv("COLUMNS", "200")
            patch.setenv("TERM", "xterm")
            patch.delenv("NO_COLOR", raising=False)
            for name in [name for name in os.environ if name.startswith("BILLING_")]:
                patch.delenv(name)
            for name, value in {**self.environment, **variables}.items():
                patch.setenv(name, value)
            try:
                main()
                code: Any = 0
            except SystemExit as ended:
                code = ended.code or 0
            finally:
                logging.root.handlers[:] = handlers
        assert isinstance(code, int), code
        assert "Traceback" not in err.text
        return Ended(code, out.text, err.text)


class FilledLedger:
    """Ledger that a test fills for the commands that read it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def apply(self, *commands: Command, sender: Sender = UNNAMED) -> Sequence[str]:
        """Apply commands in one transaction and return the codes of their outcomes."""
        answers = applied(self.engine, load_catalog(), *commands, sender=sender)
        return [str(answer.outcome.code) for answer in answers if hasattr(answer, "outcome")]

    def open(self, user: str, tier: str = "free") -> None:
        self.apply(OpenAccount(reference_id=f"open-{user}", user_id=user, tier=tier))
