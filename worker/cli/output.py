"""Output of results: tables and colours on a terminal, tab-separated lines in a pipe, JSON on demand."""

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cli.table_width import Column, fitted
from worker.cli.text import printable, shown_id
from worker.cli.work_progress import WorkProgress

#: Rows of one table, where there may be many more.
_AT_ONCE = 500
#: Columns and fields that hold ids, by the names that people see.
_IDS = frozenset({"user", "reference", "payment", "package", "tier", "names", "closed by"})
#: Columns that hold balances.
_BALANCES = frozenset({"balance", "before", "after", "opening", "closing"})
#: Key in a context's ``meta`` that says that tables show all columns.
SHOWS_ALL = "worker.cli.shows_all"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Value that somebody should see: red on a terminal, its plain form in a pipe."""

    text: str
    plain: str


def is_terminal() -> bool:
    """Return True where a person is likely to look at standard output."""
    return sys.stdout.isatty()


def console(width: int | None = None) -> Console:
    """Return standard output as a rich console."""
    return Console(highlight=False, width=width)


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def echo_json(text: str, *, nl: bool = True) -> None:
    """Print JSON; on a stream that isn't UTF-8 with escapes, so that it stays JSON."""
    is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    click.echo(text if is_utf8 else _NOT_ASCII.sub(lambda char: json.dumps(char[0])[1:-1], text), nl=nl)


def show_json(value: dict[str, Any]) -> None:
    """Print one JSON object, camelCase as on the wire."""
    echo_json(json.dumps(value, ensure_ascii=False, indent=2 if is_terminal() else None))


def show_json_stream(
    name: str, items: Iterable[dict[str, Any]], fields: Callable[[], dict[str, Any]]
) -> None:
    """Print one JSON object of a list, an item a line, and of fields that are known at its end.

    One item is held at a time.
    """
    echo_json(f'{{"{name}": [', nl=False)
    separator = "\n"
    for item in items:
        echo_json(f"{separator}{json.dumps(item, ensure_ascii=False)}", nl=False)
        separator = ",\n"
    echo_json(f"\n], {json.dumps(fields(), ensure_ascii=False)[1:]}")


def show_table(title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table: fitted to a terminal, with a title; whole in a pipe, a line a row, tab-separated."""
    named = [Column(column) if isinstance(column, str) else column for column in columns]
    names = [column.name for column in named]
    shown = [[_cell(value, name) for name, value in zip(names, row, strict=True)] for row in rows]
    if not is_terminal():
        click.echo("\t".join(column.name for column in named))
        for row in shown:
            click.echo("\t".join(row))
        return
    _show_fitted(title, named, shown)


def _show_fitted(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    fit = fitted(columns, rows, None if _shows_all() else console().width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, width in fit.widths.items():
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        justify: Literal["right", "left"] = "right" if numeric else "left"
        table.add_column(columns[index].name, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(_shown(row[index], columns[index].name) for index in fit.widths))
    screen = console(max(console().width, fit.width))
    if title:
        screen.print(Text(title, style="bold"))
    screen.print(table)
    if fit.dropped:
        names = ", ".join(columns[index].name for index in fit.dropped)
        console().print(Text(f"not shown: {names} (--wide shows all)", style="dim"))
    click.echo()


def _shown(cell: str, name: str) -> Text:
    """Return a cell as it is shown: a balance below zero is a debt, and red."""
    return Text(cell, style="red" if name in _BALANCES and cell.startswith("-") else "")


def _shows_all() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(SHOWS_ALL))


def show_long_table(title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table in pieces, and hold no more than is shown: tables on a terminal, lines in a pipe."""
    if not is_terminal():
        for line in tab_separated([str(column) for column in columns], rows):
            click.echo(line)
        return
    left = iter(rows)
    show_table(title, columns, list(islice(left, _AT_ONCE)))
    while more := list(islice(left, _AT_ONCE)):
        show_table("", columns, more)


def tab_separated(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a line of names, then one for each row; a producer's text breaks no line."""
    yield "\t".join(columns)
    for row in rows:
        yield "\t".join("" if value is None else printable(str(value)) for value in row)


def show_fields(title: str, fields: Sequence[tuple[str, Any]]) -> None:
    """Show names and values, one a line."""
    if not is_terminal():
        for name, value in fields:
            click.echo(f"{name}\t{_cell(value, name)}")
        return
    table = Table(title=title, box=None, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        is_owed = "balance" in name and isinstance(value, int) and value < 0
        style = "red" if is_owed or isinstance(value, Alarm) else ""
        table.add_row(name, Text(_cell(value, name), style=style))
    console().print(table)


def counted(counts: Mapping[str, int]) -> str:
    """Return the number of items in each state, for people."""
    shown = [f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if count]
    return ", ".join(shown) or "nothing yet"


def show_text(text: str) -> None:
    """Show a paragraph beside a result, on a terminal alone."""
    if is_terminal():
        console().print(Text(text, style="dim"))


@contextmanager
def waiting_for(description: str) -> Iterator[None]:
    """Show on standard error what is waited for, where it is a terminal, until it is there."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    with screen.status(description):
        yield


@contextmanager
def progress(description: str, total: int | None) -> Iterator[WorkProgress]:
    """Show the progress of one task on standard error: a bar on a terminal, lines elsewhere."""
    # Lines for a pipe would go to standard error.
    with WorkProgress(redirect_stdout=is_terminal()) as bar:
        bar.add_task(description, total=total)
        yield bar


def _cell(value: Any, name: str) -> str:
    match value:
        case str() if name in _IDS:
            return shown_id(value)
        case None:
            return "–" if is_terminal() else ""
        case bool():
            return "yes" if value else "no"
        case Alarm():
            return value.text if is_terminal() else value.plain
        case int():
            return f"{value:,}" if is_terminal() else str(value)
        case _:
            return printable(str(value))


_NUMBER = re.compile(r"–|-?[\d,]+(\.\d+)?( [A-Z]{3})?", re.ASCII)


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None
