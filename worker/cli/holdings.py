"""Parts of a balance: ``lots``, ``holds``, ``expiring``."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from worker.bootstrap import Application, utc_now
from worker.cli.asking import moment, reader_of
from worker.cli.options import as_json, with_application
from worker.cli.output import is_terminal, show_json, show_long_table, show_table
from worker.ledger.queries import Expiring, HoldView, LotView


@click.command()
@click.argument("user")
@click.option("--all", "used_up", is_flag=True, help="Also lots with nothing left, at the end.")
@with_application("database_url", "catalog")
@as_json
def lots(application: Application, *, user: str, used_up: bool, as_json: bool) -> None:
    """A user's lots: each credit with what is left of it, in the order in which they are spent.

    What is only held, or takes effect later, stands behind them.

    \b
    Example:
      billing-worker lots ada --all
    """
    view = reader_of(application).lots(user, utc_now(), application.catalog, used_up=used_up)
    if as_json:
        show_json(view.to_dict())
    else:
        show_lots(f"Lots of {user}: {len(view.lots)}", view.lots)


def show_lots(title: str, shown: Iterable[LotView]) -> None:
    """Show lots to people."""
    show_table(
        title,
        (
            "lot",
            "source",
            "granted",
            "left",
            "held",
            "later",
            "priority",
            "effective",
            "expires",
            "reference",
        ),
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
                lot.reference_id if lot.is_booked else "(due, not booked yet)",
            )
            for lot in shown
        ],
    )


@click.command()
@click.argument("user")
@click.option("--all", "ended", is_flag=True, help="Also holds that have ended, the newest first.")
@click.option("--limit", type=int, default=100, show_default=True, help="Ended holds, at most 1000.")
@with_application("database_url", "catalog")
@as_json
def holds(application: Application, *, user: str, ended: bool, limit: int, as_json: bool) -> None:
    """A user's holds: tokens kept for work to come, and how those that ended did.

    \b
    Example:
      billing-worker holds ada --all --limit 20
    """
    view = reader_of(application).holds(user, utc_now(), application.catalog, ended=ended, limit=limit)
    if as_json:
        show_json(view.to_dict())
        return
    show_holds(f"Holds of {user}: {len(view.holds)}", view.holds)
    if view.has_more and is_terminal():
        click.echo(f"there are older ones: --limit {min(2 * limit, 1000)}")


def show_holds(title: str, shown: Iterable[HoldView]) -> None:
    """Show holds to people."""
    show_table(
        title,
        ("reference", "state", "amount", "captured", "lots", "opened", "expires", "closed", "by"),
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
@click.option("--days", type=int, default=30, show_default=True, help="How far ahead, at most 3660.")
@with_application("database_url", "catalog")
@as_json
def expiring(application: Application, *, user: str | None, days: int, as_json: bool) -> None:
    """Credit that will expire soon if nobody uses it: of USER, or of everybody.

    Of everybody it is told account by account, where something is due next first; with --json one object a
    line then. What rolls over into the next period isn't lost, and not listed.

    \b
    Examples:
      billing-worker expiring ada --days 7
      billing-worker expiring --days 30 > expiring.tsv
    """
    reader, now = reader_of(application), utc_now()
    if user is not None:
        _show_expiring(user, days, reader.expiring(user, now, days, application.catalog), as_json=as_json)
        return
    found = reader.all_expiring(now, days, application.catalog)
    if as_json:
        for lot in found:
            click.echo(json.dumps(lot.to_dict(), ensure_ascii=False))
    else:
        show_long_table(f"Expiring within {days} days", _EXPIRING, map(_expiring_row, found))


_EXPIRING = ("user", "lot", "source", "tokens", "expires")


def _show_expiring(user: str, days: int, found: Sequence[Expiring], *, as_json: bool) -> None:
    total = sum(lot.tokens for lot in found)
    if as_json:
        lots_ = [lot.to_dict() for lot in found]
        show_json({"userId": user, "days": days, "tokens": total, "expiring": lots_})
    else:
        title = f"Expiring of {user} within {days} days: {total:,}"
        show_table(title, _EXPIRING, list(map(_expiring_row, found)))


def _expiring_row(lot: Expiring) -> tuple[Any, ...]:
    return (lot.user_id, lot.lot, lot.source, lot.tokens, moment(lot.expires_at))
