"""``history``: a user's entries, newest first."""

import click

from worker.bootstrap import Application
from worker.cli.application import reader_of, with_application
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_wide
from worker.cli.output import show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import shown_id
from worker.cli.times import moment
from worker.ledger.queries import History


@click.command()
@click.argument("user")
@limit_option(20, "Entries")
@cursor_option()
@click.option("--offset", type=int, default=0, hidden=True, help="Newer entries to leave out.")
@with_wide
@with_application("database_url")
@as_json
def history(
    application: Application, *, user: str, limit: int, offset: int, cursor: str | None, as_json: bool
) -> None:
    """List a user's entries, newest first.

    An entry says which tokens moved and of which lot, and when they fell due, where time brought it about.
    Pages stay in order while entries are written.

    \b
    Example:
      billing-worker history ada --limit 50
    """
    page = reader_of(application).history(user, limit, offset, cursor)
    if as_json:
        show_json({**page.to_dict(), "next": page.next_cursor})
        return
    show_history(page)
    show_next(page.next_cursor)


_HISTORY = (
    Column("#"),
    Column("time", 1),
    Column("type", 3),
    Column("counter", 2),
    Column("amount"),
    Column("before", 5),
    Column("after", 1),
    Column("lot", 6),
    Column("due", 8),
    Column("feature", 7, text=True),
    Column("reference"),
)


def show_history(page: History) -> None:
    """Show a page of history to people."""
    first = page.offset + 1 if page.transactions else 0
    last = page.offset + len(page.transactions)
    show_table(
        f"History of {shown_id(page.user_id)}: {first}–{last} of {page.total}",
        _HISTORY,
        [
            (
                entry.sequence,
                moment(entry.occurred_at),
                entry.type,
                entry.counter,
                entry.amount,
                entry.balance_before,
                entry.balance_after,
                entry.lot,
                moment(entry.due_at),
                entry.feature,
                entry.reference_id,
            )
            for entry in page.transactions
        ],
    )
