"""Output of results: tables and colours on a terminal, tab-separated lines in a pipe, JSON on demand."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Justify = Literal["left", "right"]

#: Rows of one table, where there may be many more.
_AT_ONCE = 500


def is_terminal() -> bool:
    """Return True where a person is likely to look at standard output."""
    return sys.stdout.isatty()


def console() -> Console:
    """Return standard output as a rich console."""
    return Console(highlight=False)


def show_json(value: Any) -> None:
    """Print one JSON document, camelCase as on the wire."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if is_terminal() else None))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table: with a title on a terminal; in a pipe a line of names and a line a row, tab-separated."""
    shown = [[_cell(value) for value in row] for row in rows]
    if not is_terminal():
        click.echo("\t".join(columns))
        for row in shown:
            click.echo("\t".join(row))
        return
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(shown) and all(_is_number(row[index]) for row in shown)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def show_long_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table in pieces, and hold no more than is shown: tables on a terminal, lines in a pipe."""
    if not is_terminal():
        for line in tab_separated(columns, rows):
            click.echo(line)
        return
    left = iter(rows)
    show_table(title, columns, list(islice(left, _AT_ONCE)))
    while more := list(islice(left, _AT_ONCE)):
        show_table("", columns, more)


def tab_separated(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a line of names and a line a row, for a pipe or a file; a producer's text breaks no line."""
    yield "\t".join(columns)
    for row in rows:
        yield "\t".join("" if value is None else printable(str(value)) for value in row)


def show_fields(title: str, fields: Sequence[tuple[str, Any]]) -> None:
    """Show names and values, one a line."""
    if not is_terminal():
        for name, value in fields:
            click.echo(f"{name}\t{_cell(value)}")
        return
    table = Table(title=title, box=None, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, Text(_cell(value)))
    console().print(table)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Progress]:
    """Show a progress bar on standard error, where it is a terminal; nothing elsewhere."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bar:
        bar.add_task(description, total=total)
        yield bar


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–" if is_terminal() else ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if is_terminal() else str(value)
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Return ``text`` as one line that a terminal shows and doesn't obey: a producer may send anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.replace(",", "").lstrip("-").isdigit()
