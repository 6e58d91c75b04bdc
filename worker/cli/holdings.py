"""Parts of a balance: ``lots``, ``holds``, ``expiring``."""

from collections.abc import Iterable
from typing import Any

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import reader_of, with_application
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_wide
from worker.cli.output import show_json, show_json_stream, show_long_table, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment
from worker.ledger.queries import Expiring, ExpiringPage, HoldView, LotView
from worker.ledger.queries.expiring import EXPIRING_LIMIT_MAX


@click.command()
@click.argument("user")
@click.option("--all", "used_up", is_flag=True, help="List lots with nothing left as well, at the end.")
@limit_option(None, "Lots")
@cursor_option(click.INT)
@with_wide
@with_application("database_url", "catalog")
@as_json
def lots(
    application: Application,
    *,
    user: str,
    used_up: bool,
    limit: int | None,
    cursor: int | None,
    as_json: bool,
) -> None:
    """List a user's lots: each credit with what is left of it, the next to be spent first.

    Lots that are only held, or take effect later, come behind them. The cursor is the number of the last lot
    of a page.

    \b
    Example:
      billing-worker lots ada --all
    """
    reader, now = reader_of(application), utc_now()
    view = reader.lots(user, now, application.catalog, used_up=used_up, limit=limit, behind=cursor)
    next_ = view.lots[-1].number if view.has_more else None
    if as_json:
        show_json({**view.to_dict(), "next": next_})
        return
    show_lots(f"Lots of {user}: {len(view.lots)}", view.lots)
    show_next(next_)


_LOTS = (
    Column("lot"),
    Column("source", 2),
    Column("granted", 4),
    Column("left"),
    Column("held", 3),
    Column("later", 6),
    Column("priority", 5),
    Column("effective", 7),
    Column("expires", 1),
    Column("reference"),
)


def show_lots(title: str, shown: Iterable[LotView]) -> None:
    """Show lots to people."""
    show_table(
        title,
        _LOTS,
        [
            (
                lot.number,
                lot.source if lot.parent is None else f"{lot.source} of {lot.parent}",
                lot.granted,
                lot.remaining,
                lot.held,
                lot.pending,
                lot.priority,
                moment(lot.effective_at),
                moment(lot.expires_at),
                lot.reference_id if lot.is_booked else "(due, not posted yet)",
            )
            for lot in shown
        ],
    )


@click.command()
@click.argument("user")
@click.option("--all", "ended", is_flag=True, help="List holds that have ended as well, the newest first.")
@limit_option(100, "Ended holds")
@cursor_option()
@with_wide
@with_application("database_url", "catalog")
@as_json
def holds(
    application: Application, *, user: str, ended: bool, limit: int, cursor: str | None, as_json: bool
) -> None:
    """List a user's holds: tokens kept for work to come, and how those that ended did.

    The open ones are on the first page. The cursor is the reference of the last hold of a page.

    \b
    Example:
      billing-worker holds ada --all --limit 20
    """
    reader, now = reader_of(application), utc_now()
    view = reader.holds(user, now, application.catalog, ended=ended, limit=limit, behind=cursor)
    next_ = view.holds[-1].reference_id if view.has_more else None
    if as_json:
        show_json({**view.to_dict(), "next": next_})
        return
    show_holds(f"Holds of {user}: {len(view.holds)}", view.holds)
    show_next(next_)


_HOLDS = (
    Column("reference"),
    Column("state"),
    Column("amount"),
    Column("captured", 2),
    Column("lots", 6, text=True),
    Column("opened", 5),
    Column("expires", 1),
    Column("closed", 4),
    Column("by", 3),
)


def show_holds(title: str, shown: Iterable[HoldView]) -> None:
    """Show holds to people."""
    show_table(
        title,
        _HOLDS,
        [
            (
                hold.reference_id,
                hold.state,
                hold.amount,
                hold.captured,
                ", ".join(f"{part.lot}: {part.tokens}" for part in hold.parts),
                moment(hold.opened_at),
                moment(hold.expires_at),
                moment(hold.closed_at),
                hold.closed_by,
            )
            for hold in shown
        ],
    )


@click.command()
@click.argument("user", required=False)
@click.option("--days", type=int, default=30, show_default=True, help="Days ahead, at most 3660.")
@limit_option(None, "Lots")
@cursor_option()
@with_wide
@with_application("database_url", "catalog")
@as_json
def expiring(
    application: Application,
    *,
    user: str | None,
    days: int,
    limit: int | None,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List credit that will expire soon if nobody uses it: of USER, or of everybody.

    The list of everybody goes account by account, the one with something due next first, and is written
    while it is read. Credit that rolls over into the next period isn't lost, and not listed. The tokens of
    USER are added up over all pages.

    \b
    Examples:
      billing-worker expiring ada --days 7
      billing-worker expiring --days 30 > expiring.tsv
    """
    reader, now = reader_of(application), utc_now()
    if limit is not None or cursor is not None:
        most = EXPIRING_LIMIT_MAX if limit is None else limit
        page = reader.expiring_page(user, now, days, application.catalog, most, cursor)
        _show_page(user, days, page, as_json=as_json)
    elif user is not None:
        found = reader.expiring(user, now, days, application.catalog)
        page = ExpiringPage(found, sum(lot.tokens for lot in found), next_cursor=None)
        _show_page(user, days, page, as_json=as_json)
    else:
        _show_everybody(days, reader.all_expiring(now, days, application.catalog), as_json=as_json)


_EXPIRING = (Column("user"), Column("lot", 1), Column("source", 2), Column("tokens"), Column("expires"))


def _show_page(user: str | None, days: int, page: ExpiringPage, *, as_json: bool) -> None:
    if as_json:
        whose = {"days": days} if user is None else {"userId": user, "days": days, "tokens": page.tokens}
        listed = [lot.to_dict() for lot in page.expiring]
        show_json({**whose, "expiring": listed, "next": page.next_cursor})
        return
    title = _title(days) if user is None else f"Expiring of {user} within {days} days: {page.tokens:,}"
    show_table(title, _EXPIRING, map(_expiring_row, page.expiring))
    show_next(page.next_cursor)


def _show_everybody(days: int, found: Iterable[Expiring], *, as_json: bool) -> None:
    if as_json:
        show_json_stream("expiring", (lot.to_dict() for lot in found), lambda: {"days": days, "next": None})
    else:
        show_long_table(_title(days), _EXPIRING, map(_expiring_row, found))


def _title(days: int) -> str:
    return f"Expiring within {days} days"


def _expiring_row(lot: Expiring) -> tuple[Any, ...]:
    return (lot.user_id, lot.lot, lot.source, lot.tokens, moment(lot.expires_at))
