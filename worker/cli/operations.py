"""``operations``: what was judged, applied or rejected, found by filters; and who spends most."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.csv_cells import csv_line
from worker.cli.operation_csv import HEAD, operation_line
from worker.cli.operation_options import with_operation_filters
from worker.cli.options import as_json, cursor_option, limit_option, require_one_form, show_next, with_wide
from worker.cli.output import is_terminal, progress, show_json, show_json_stream, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment, stamp
from worker.ledger.queries import snapshot
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_totals import Spenders, SpentBy, top_spenders
from worker.ledger.queries.operations import LIMIT_MAX, OperationLine, OperationPage, operation_page
from worker.runtime.shown_money import decimal_or_none

#: Pages that one call reads, where few operations are found on each.
_PAGES_MAX = 10


@click.command("operations")
@with_operation_filters
@click.option(
    "--top",
    type=click.Choice(["user", "feature", "sender"]),
    help="Show who spends most among them, instead of the operations.",
)
@limit_option(50, "Operations")
@click.option("--all", "is_all", is_flag=True, help="All that is found, however long it takes.")
@cursor_option()
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@with_wide
@with_application("database_url")
@as_json
def operations(
    application: Application,
    *,
    wanted: OperationFilter,
    top: SpentBy | None,
    limit: int,
    is_all: bool,
    cursor: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List operations, newest first: what was applied, and what was rejected and why.

    Users, rejected operations, types other than usage, and beginnings of references are found by indexes.
    Other filters read the newest operations first, a million a call at most: without --all the list may end
    early, and says how far it came; --from and --to make it short.

    \b
    Examples:
      billing-worker operations --status rejected --from today
      billing-worker operations --user ada --feature ocr --min-tokens 1000
      billing-worker operations --metadata job=17 --from 2h --csv > job-17.csv
      billing-worker operations --top sender --from 2026-11-01
      billing-worker operations --json | jq -r '.operations[].referenceId'
    """
    require_one_form(as_csv=as_csv, as_json=as_json)
    application.require_readable_schema()
    if top is not None:
        if cursor is not None or is_all:
            raise click.UsageError("--top is one page: leave --all and --cursor out")
        _show_top(application, wanted, top, limit, as_csv=as_csv, as_json=as_json)
        return
    pages = _Pages(application, wanted, LIMIT_MAX if is_all else limit, cursor, is_all=is_all)
    if as_csv:
        click.echo(HEAD, nl=False)
        for line in pages.lines():
            click.echo(operation_line(line), nl=False)
    elif as_json:
        show_json_stream("operations", (line.to_dict() for line in pages.lines()), pages.end)
    else:
        _show_operations(list(pages.lines()))
    pages.show_end()


class _Pages:
    """Pages of one call, each in a snapshot of its own."""

    def __init__(
        self,
        application: Application,
        wanted: OperationFilter,
        limit: int,
        cursor: str | None,
        *,
        is_all: bool,
    ) -> None:
        self._application, self._wanted, self._limit = application, wanted, limit
        self._is_all, self._cursor = is_all, cursor
        self._last = self._page(limit)  # what can't be asked is refused before anything is printed

    def lines(self) -> Iterator[OperationLine]:
        """Yield the operations, of which no more than a page is held."""
        left, pages = self._limit, 1
        with progress("operations", None) as bar:
            while True:
                found = self._last.operations
                yield from found
                bar.advance(bar.task_ids[0], len(found))
                left -= 0 if self._is_all else len(found)
                if self._cursor is None or left == 0 or (pages == _PAGES_MAX and not self._is_all):
                    return
                self._last, pages = self._page(left), pages + 1

    def _page(self, limit: int) -> OperationPage:
        with snapshot(self._application.engine) as connection:
            page = operation_page(connection, self._wanted, limit, self._cursor)
        self._cursor = page.next_cursor
        return page

    def end(self) -> dict[str, Any]:
        """Return where the pages end, for JSON."""
        return {"lookedBackTo": stamp(self._last.looked_back_to), "next": self._cursor}

    def show_end(self) -> None:
        """Show where the pages end, on standard error."""
        if self._last.looked_back_to is not None:
            reached = moment(self._last.looked_back_to)
            click.echo(
                f"looked at all operations back to {reached}; older ones may match: go on, or use --from",
                err=True,
            )
        show_next(self._cursor)


_COLUMNS = (
    Column("time"),
    Column("reference"),
    Column("type", 1),
    Column("user", 1),
    Column("code"),
    Column("tokens"),
    Column("after", 3),
    Column("feature", 4, text=True),
    Column("sender", 5, text=True),
    Column("amount", 6),
    Column("currency", 6),
    Column("status", 7),
)


def _show_operations(found: Sequence[OperationLine]) -> None:
    show_table(
        f"Operations: {len(found)}",
        _COLUMNS,
        [
            (
                moment(one.recorded_at),
                one.reference_id,
                one.type,
                one.user_id,
                one.code,
                one.tokens,
                one.balance_after,
                one.feature,
                one.sender,
                decimal_or_none(one.amount_minor, one.currency, grouped=is_terminal()),
                one.currency,
                one.status,
            )
            for one in found
        ],
    )


# -- who spends most --------------------------------------------------------------------------------------


def _show_top(
    application: Application,
    wanted: OperationFilter,
    by: SpentBy,
    limit: int,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    with snapshot(application.engine) as connection:
        found = top_spenders(connection, wanted, by, limit)
    rows = [(one.name, one.tokens, one.operations) for one in found.spenders]
    if as_json:
        show_json(found.to_dict())
    elif as_csv:
        click.echo("".join(map(csv_line, [(by, "tokens", "operations"), *rows])), nl=False)
    else:
        show_table(f"Tokens used by {by}", (by, "tokens", "operations"), rows)
    _say_if_estimated(found)


def _say_if_estimated(found: Spenders) -> None:
    if not found.is_counted:
        click.echo("estimated from a sample: there are too many to count; --from makes it exact", err=True)
