"""``statement``: entries posted to an account in a time, for people, spreadsheets and programs.

An account may have millions of entries: no form holds more of them than it writes at once.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import reader_of, with_application
from worker.cli.csv_cells import csv_line
from worker.cli.options import as_json, time_option, with_timezone, with_wide
from worker.cli.output import echo_json, is_terminal, show_fields, show_long_table, tab_separated
from worker.cli.table_width import Column
from worker.cli.text import shown_id
from worker.cli.times import TimeText, moment, month_of, stamp, time_range
from worker.errors import ConfigurationError
from worker.ledger.queries import PostedEntry, Statement, day_start, zone_of

WriteLine = Callable[[str], Any]


@click.command()
@click.argument("user")
@time_option("--from", "start", "First time: a day, a time, 3d ago; by default the first of the month.")
@time_option("--to", "end", "End, itself left out; by default the first of the next month.")
@with_timezone
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="For people, spreadsheets or programs.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, whole or not at all.",
)
@with_wide
@with_application("database_url")
@as_json
def statement(
    application: Application,
    *,
    user: str,
    start: TimeText | None,
    end: TimeText | None,
    timezone: str,
    form: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write a user's statement: opening balance, each entry, the sums, closing balance.

    Entries count by the time they were posted, so that a statement never changes once its time is over, and
    the next one opens with the balance at which it closed. Tokens that are due and not posted yet are not in
    it.

    \b
    Examples:
      billing-worker statement ada
      billing-worker statement ada --from 2026-11-01 --to 2026-12-01 --tz Europe/Berlin \\
          --format csv --output ada-2026-11.csv
    """
    form = "json" if as_json else form
    zone, now = zone_of(timezone), utc_now()
    first, next_first = month_of(now.astimezone(zone).date())
    begin, until = time_range(start, end, now, zone)
    begin, until = begin or day_start(first, zone), until or day_start(next_first, zone)
    with reader_of(application).statement(user, begin, until) as found:
        if form == "table" and output is None and is_terminal():
            show_statement(found)
            return
        with _destination(output, form) as write:
            for piece in _FORMS[form](found):
                write(piece)


@contextmanager
def _destination(path: Path | None, form: str) -> Iterator[WriteLine]:
    if path is None:
        yield partial(echo_json if form == "json" else click.echo, nl=False)
        return
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("w", encoding="utf-8", newline="") as file:
            yield file.write
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


# -- for people -------------------------------------------------------------------------------------------

_COLUMNS = (
    Column("#"),
    Column("posted", 1),
    Column("type", 4),
    Column("counter", 3),
    Column("amount"),
    Column("before", 7),
    Column("after", 2),
    Column("lot", 8),
    Column("source", 9),
    Column("feature", 6, text=True),
    Column("reference"),
    Column("description", 5, text=True),
)


def _row(entry: PostedEntry) -> tuple[Any, ...]:
    return (
        entry.sequence,
        moment(entry.recorded_at),
        entry.type,
        entry.counter,
        entry.amount,
        entry.balance_before,
        entry.balance_after,
        entry.lot,
        entry.source,
        entry.feature,
        entry.reference_id,
        entry.description,
    )


def show_statement(found: Statement) -> None:
    """Show a statement on a terminal."""
    summary = found.summary
    show_fields(
        f"Statement of {shown_id(summary.user_id)}",
        [
            ("from", moment(summary.start)),
            ("until before", moment(summary.end)),
            ("opening balance", summary.opening_balance),
        ],
    )
    show_long_table("", _COLUMNS, map(_row, found.transactions))
    show_fields("", _ending(found))


def _ending(found: Statement) -> list[tuple[str, int]]:
    summary = found.summary
    return [
        *((f"total {counter}", tokens) for counter, tokens in summary.totals.items()),
        ("entries", summary.entries),
        ("closing balance", summary.closing_balance),
    ]


def as_lines(found: Statement) -> Iterator[str]:
    """Yield tab-separated lines, for a pipe or a file."""
    yield f"opening balance\t{found.summary.opening_balance}\n"
    for line in tab_separated([column.name for column in _COLUMNS], map(_row, found.transactions)):
        yield f"{line}\n"
    for name, value in _ending(found):
        yield f"{name}\t{value}\n"


# -- for spreadsheets -------------------------------------------------------------------------------------

_CSV = (
    "row", "sequence", "recordedAt", "occurredAt", "dueAt", "type", "referenceId", "description", "counter",
    "feature", "lot", "source", "amount", "balanceBefore", "balanceAfter",
)  # fmt: skip


def as_csv(found: Statement) -> Iterator[str]:
    """Yield RFC 4180 in UTF-8. The column ``row`` tells entries from opening, totals and closing."""
    summary = found.summary
    yield csv_line(_CSV)
    yield csv_line(
        _plain_row("opening", recordedAt=stamp(summary.start), balanceAfter=summary.opening_balance)
    )
    for entry in found.transactions:
        yield csv_line(_csv_row(entry))
    for counter, tokens in summary.totals.items():
        yield csv_line(_plain_row("total", counter=counter, amount=tokens))
    yield csv_line(_plain_row("closing", recordedAt=stamp(summary.end), balanceAfter=summary.closing_balance))


def _csv_row(entry: PostedEntry) -> list[Any]:
    return [
        "entry",
        entry.sequence,
        stamp(entry.recorded_at),
        stamp(entry.occurred_at),
        stamp(entry.due_at),
        entry.type,
        entry.reference_id,
        entry.description,
        entry.counter,
        entry.feature,
        entry.lot,
        entry.source,
        entry.amount,
        entry.balance_before,
        entry.balance_after,
    ]


def _plain_row(kind: str, **cells: int | str | None) -> list[Any]:
    return [kind, *(cells.get(name) for name in _CSV[1:])]


# -- for programs -----------------------------------------------------------------------------------------


def as_json_lines(found: Statement) -> Iterator[str]:
    """Yield one JSON object, the entries between its other fields, one a line."""
    fields = found.summary.to_dict()
    totals, closing = fields.pop("totals"), fields.pop("closingBalance")
    count = fields.pop("entries")
    yield f'{_dumped(fields)[:-1]}, "entries": ['
    separator = "\n"
    for entry in found.transactions:
        yield f"{separator}{_dumped(entry.to_dict())}"
        separator = ",\n"
    ending = _dumped({"count": count, "totals": totals, "closingBalance": closing})
    yield f"\n], {ending[1:]}\n"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_FORMS: dict[str, Callable[[Statement], Iterator[str]]] = {
    "table": as_lines,
    "csv": as_csv,
    "json": as_json_lines,
}
