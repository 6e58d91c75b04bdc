"""CSV file of a usage trace, one request a row; errors name file, line and column."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from worker.errors import ConfigurationError

TIMESTAMP, CONTEXT, GENERATED = COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DIGITS_MAX = 12
_GENERATED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of the trace; ``line`` is its line in the file."""

    line: int
    at: datetime
    context_tokens: int
    generated_tokens: int

    @property
    def tokens(self) -> int:
        """Price of the request."""
        return self.context_tokens + self.generated_tokens

    @property
    def held_tokens(self) -> int:
        """Tokens held for the request before its generated tokens are known."""
        return self.context_tokens + _GENERATED_MAX


def rows_in(content: bytes, name: str) -> Iterator[TraceRow]:
    """Yield the rows of a CSV file; ``name`` is the file's name in errors."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}, line {line}: is not UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ConfigurationError(
                f"{name}, line 1: the column {missing[0]} is missing; a trace has {', '.join(COLUMNS)}"
            )
        for fields in reader:
            yield _row(fields, f"{name}, line {reader.line_num}", reader.line_num)
    except csv.Error as error:
        raise ConfigurationError(f"{name}, line {reader.reader.line_num}: is not CSV: {error}") from error


def trace_bytes(path: Path) -> bytes:
    """Return the content of the file. Raises ConfigurationError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error


def _row(fields: Mapping[str, str | None], where: str, line: int) -> TraceRow:
    for column in COLUMNS:
        if fields[column] is None:
            raise ConfigurationError(f"{where}, column {column}: is missing")
    return TraceRow(
        line,
        _moment(fields[TIMESTAMP] or "", f"{where}, column {TIMESTAMP}"),
        _count(fields[CONTEXT] or "", f"{where}, column {CONTEXT}"),
        _count(fields[GENERATED] or "", f"{where}, column {GENERATED}"),
    )


def _moment(text: str, where: str) -> datetime:
    """Return a time; one without an offset is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: {text[:40]!r} is no time such as 2023-11-16 18:17:03.98"
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        raise ConfigurationError(
            f"{where}: {text[:40]!r} is no whole number from 0 to {10**_DIGITS_MAX - 1:,}"
        )
    return int(text)
