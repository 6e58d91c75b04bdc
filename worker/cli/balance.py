"""``balance`` and ``can-afford``: what a user has, and whether it is enough."""

import sys
from collections.abc import Iterator

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import reader_of, with_application
from worker.cli.options import as_json, time_option
from worker.cli.output import Alarm, show_fields, show_json
from worker.cli.text import shown_id
from worker.cli.times import TimeText, moment
from worker.ledger.queries import Balance
from worker.runtime.shown_balance import owed_text


@click.command()
@click.argument("user")
@time_option("--at", "at", "Show the balance of that time: yesterday, 2h, 2026-11-26 11:03 (UTC).")
@with_application("database_url", "catalog")
@as_json
def balance(application: Application, *, user: str, at: TimeText | None, as_json: bool) -> None:
    """Show a user's balance, its parts, the subscription, and the period's quotas.

    Everything that has fallen due counts, posted or not. Before the account was opened there is no balance:
    exit 4.

    \b
    Examples:
      billing-worker balance ada
      billing-worker balance ada --at 2026-11-01
      billing-worker balance ada --at 2h
    """
    reader, now = reader_of(application), utc_now()
    if at is None:
        view = reader.balance(user, now, application.catalog)
    else:
        view = reader.balance_at(user, at.at(now), application.catalog)
    if as_json:
        show_json(view.to_dict())
    else:
        show_balance(view)


def show_balance(view: Balance) -> None:
    """Show a balance to people."""
    subscription, unsettled = view.subscription, view.unsettled
    show_fields(
        f"Balance of {shown_id(view.user_id)} at {moment(view.at)}",
        [
            *_debt_fields(view),
            ("balance", view.balance),
            ("held", view.held),
            ("available", view.available),
            ("debt", view.debt),
            *((f"of {source.replace('_', ' ')}", tokens) for source, tokens in view.lots.items()),
            ("takes effect later", view.pending),
            ("allocated", view.allocated),
            ("purchased", view.purchased),
            ("bonus", view.bonus),
            ("refunded", view.refunded),
            ("adjusted", view.adjusted),
            ("used", view.used),
            ("expired", view.expired),
            ("reversed", view.reversed),
            ("tier", subscription.tier),
            ("period", f"{moment(subscription.period_start)} to {moment(subscription.period_end)}"),
            ("granted until", moment(subscription.granted_until)),
            ("ends", moment(subscription.ends_at)),
            *([] if view.frozen_at is None else [("frozen since", moment(view.frozen_at))]),
            *_quota_fields(view),
            ("due, not posted yet", unsettled.tokens),
            ("entries", view.sequence),
            ("opened", moment(view.opened_at)),
            ("updated", moment(view.updated_at)),
        ],
    )


def _debt_fields(view: Balance) -> Iterator[tuple[str, Alarm]]:
    owed = owed_text(view.available, view.debt)
    if owed is not None:
        yield "in debt", Alarm(owed, owed)


def _quota_fields(view: Balance) -> Iterator[tuple[str, int | None]]:
    for quota in view.quotas:
        name = quota.name.replace("_", " ")
        yield f"{name} used ({quota.unit})", quota.used
        yield f"{name} left ({quota.unit})", quota.remaining


@click.command("can-afford")
@click.argument("user")
@click.argument("tokens", type=int)
@with_application("database_url", "catalog")
@as_json
def can_afford(application: Application, *, user: str, tokens: int, as_json: bool) -> None:
    """Tell whether a deduction of TOKENS would be applied now. Exit 0 for yes, 1 for no.

    \b
    Example:
      billing-worker can-afford ada 5000 && ./start-the-job
    """
    view = reader_of(application).can_afford(user, tokens, utc_now(), application.catalog)
    if as_json:
        show_json(view.to_dict())
    else:
        no = f"no, {view.shortfall} short" if view.shortfall else f"no, {view.code.replace('_', ' ')}"
        answer = "yes" if view.can_afford else no
        click.echo(f"{answer}: {view.required} required, {view.available} available")
    sys.exit(0 if view.can_afford else 1)
