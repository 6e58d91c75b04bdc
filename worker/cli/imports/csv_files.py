"""CSV files, row by row: each fault has its file, line and column."""

import csv
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ConfigurationError

#: Longest field of a row, in characters.
_FIELD_MAX = 4_096


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Fault of a file: its line and column, where they are known, and a text with the way out."""

    file: str
    line: int | None
    column: str | None
    text: str

    def __str__(self) -> str:
        """Return the fault as one line."""
        line = "" if self.line is None else f" line {self.line}"
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.file}{line}{column}: {self.text}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a file: those that must be there, and all that may be."""

    required: frozenset[str]
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Row of a file: its line, and its fields by column, without empty ones."""

    line: int
    fields: Mapping[str, str]


class CsvFile:
    """CSV file in UTF-8 (with or without a byte order mark), with commas and a header."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path, self.name = path, path.name
        self._columns = columns

    def problem(self, line: int | None, column: str | None, text: str) -> FileProblem:
        """Return a fault of this file."""
        return FileProblem(self.name, line, column, text)

    def rows(self) -> Iterator[Row | FileProblem]:
        """Yield the rows and the faults, in order; after a fault of the whole file nothing more.

        Raises ConfigurationError where the file can't be read.
        """
        usual = csv.field_size_limit(_FIELD_MAX)  # of the whole process
        try:
            with self.path.open("rb") as file:
                yield from self._rows(_Lines(file))
        except OSError as error:
            raise ConfigurationError(f"{self.path} can't be read: {error.strerror}") from error
        finally:
            csv.field_size_limit(usual)

    def _rows(self, lines: "_Lines") -> Iterator[Row | FileProblem]:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, None)
            faults = list(self._faults_of(header))
            yield from faults
            if header is None or faults:
                return
            for values in reader:
                if values and values != [""]:
                    yield self._row(lines.number, header, values)
        except UnicodeDecodeError as error:
            yield self.problem(
                lines.number, None, f"is not UTF-8: bad byte at {error.start}; save it as UTF-8"
            )
        except csv.Error as error:
            yield self.problem(lines.number, None, f"is no CSV: {error}; is a quote left open?")

    def _faults_of(self, header: list[str] | None) -> Iterator[FileProblem]:
        known = self._columns.known
        if header is None:
            yield self.problem(None, None, f"is empty; it needs a header with {', '.join(known)}")
            return
        if len(header) == 1 and (found := next((mark for mark in ";\t|" if mark in header[0]), None)):
            yield self.problem(1, None, f"its columns are separated by {found!r}; separate them by commas")
            return
        for name in sorted({name for name in header if header.count(name) > 1}):
            yield self.problem(1, name, "is there twice")
        for name in header:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                way_out = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                yield self.problem(1, name[:80], f"is not known; {way_out}")
        for name in sorted(self._columns.required - set(header)):
            yield self.problem(1, name, "is missing in the header")

    def _row(self, line: int, header: list[str], values: list[str]) -> Row | FileProblem:
        if len(values) != len(header):
            return self.problem(line, None, f"has {len(values)} fields, and the header has {len(header)}")
        fields = {name: value for name, value in zip(header, values, strict=True) if value}
        for name in sorted(self._columns.required - fields.keys()):
            return self.problem(line, name, "is empty")
        return Row(line, fields)


class _Lines:
    """Lines of a file as text, and the number of the last one."""

    def __init__(self, file: Iterator[bytes]) -> None:
        self._file, self.number = file, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
