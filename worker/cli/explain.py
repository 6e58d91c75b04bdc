"""``explain``: one reference on one screen."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.panel import Panel
from rich.text import Text

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.holdings import show_holds, show_lots
from worker.cli.options import as_json, with_wide
from worker.cli.output import console, is_terminal, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import printable, shown_id
from worker.cli.times import moment
from worker.deadletters.explain import ReferenceExplanation
from worker.ledger.queries import PostedEntry
from worker.ledger.queries.payment_views import AwaitedView
from worker.runtime.shown_money import shown_money

_ENTRIES_SHOWN = 20


@click.command()
@click.argument("reference")
@with_wide
@with_application("database_url", "catalog")
@as_json
def explain(application: Application, *, reference: str, as_json: bool) -> None:
    """Explain one REFERENCE: what was asked, its result, and what followed.

    Shows the command with its price and the catalog it was judged with, its attempts, the entries and lots it
    moved, its hold, its payment and the events of that payment, refunds, notices, dead letters that have been
    drained, and the reply.

    \b
    Examples:
      billing-worker explain job-1
      billing-worker explain job-1 --json | jq .reply
    """
    application.require_usable_schema()
    view = application.service().explain(reference)
    if as_json:
        show_json(view.to_dict())
    else:
        show_explanation(view)


def show_explanation(view: ReferenceExplanation) -> None:
    """Show an explanation to people: a panel and tables on a terminal, sections of lines in a pipe."""
    _show_panel(shown_id(view.reference_id), _asked(view), lead="")
    _show_outcomes(view)
    _show_entries(view.entries)
    if view.lots:
        _section("Lots it opened, as they are now")
        show_lots("Lots it opened, as they are now", view.lots)
    if view.hold is not None:
        _section("Its hold")
        show_holds("Its hold", [view.hold])
    _show_payment(view)
    _show_rows(
        "Refunded by",
        ("reference", "tokens", "posted", Column("reverse run", 1)),
        (
            (refund.reference_id, refund.tokens, moment(refund.recorded_at), refund.reverse_run)
            for refund in view.refunds
        ),
    )
    _show_rows("Notices", (Column("notice", text=True),), ((_compact(notice),) for notice in view.notices))
    _show_rows(
        "Dead letters",
        (
            "number",
            "status",
            "code",
            Column("message", 1, text=True),
            Column("tries", 3),
            Column("last failed", 2),
        ),
        (
            (
                dead_letter.number,
                dead_letter.status,
                dead_letter.reason,
                dead_letter.message,
                dead_letter.attempts,
                moment(dead_letter.last_failed_at),
            )
            for dead_letter in view.dead_letters
        ),
    )
    if view.reply is not None:
        _show_panel("Reply", [("", _compact(view.reply))])


def _asked(view: ReferenceExplanation) -> list[tuple[str, str]]:
    asked, original = view.asked, view.original
    if asked is None:
        return [("known only by", _known_by(view))]
    sender, catalog = view.outcomes[-1].sender, view.outcomes[-1].catalog
    rows = [
        ("type", asked.type),
        ("user", asked.user_id),
        ("content", _compact(asked.content)),
        ("occurred", moment(asked.occurred_at)),
        ("description", asked.description),
        ("metadata", None if asked.metadata is None else _compact(asked.metadata)),
        ("sender", None if sender is None else str(sender)),
        ("price", None if view.price is None else view.price.text),
        ("catalog", None if catalog is None else str(catalog)),
    ]
    if original is not None:
        known = "unknown" if original.type is None else f"{original.type}, {original.status}, {original.code}"
        rows.append(("original", f"{shown_id(original.reference_id)} ({known})"))
    return [(name, value) for name, value in rows if value is not None]


def _known_by(view: ReferenceExplanation) -> str:
    if view.payment is not None:
        return f"the payment {shown_id(view.payment.reference_id)}, of which it is a name"
    return "dead letters" if view.dead_letters else "events that wait for their payment"


def _show_outcomes(view: ReferenceExplanation) -> None:
    # Owner of each row, where the reference has changed hands; sender and catalog, where there are several.
    is_taken = len({(outcome.type, outcome.user_id) for outcome in view.outcomes}) > 1
    by_several = len({outcome.sender for outcome in view.outcomes}) > 1
    with_several = len({outcome.catalog for outcome in view.outcomes}) > 1
    _show_rows(
        "Outcomes, the last one in force",
        (
            *((Column("type", 6), Column("user", 4)) if is_taken else ()),
            *("attempt", "status", "code", "amount"),
            *(Column("before", 5), Column("after", 1), Column("posted", 2)),
            *((Column("sender", 4, text=True),) if by_several else ()),
            *((Column("catalog", 6),) if with_several else ()),
            Column("message", 3, text=True),
        ),
        (
            (
                *((outcome.type, outcome.user_id) if is_taken else ()),
                outcome.attempt,
                outcome.status,
                outcome.code,
                outcome.amount,
                outcome.balance_before,
                outcome.balance_after,
                moment(outcome.recorded_at),
                *((outcome.sender,) if by_several else ()),
                *((outcome.catalog and outcome.catalog.short,) if with_several else ()),
                outcome.message,
            )
            for outcome in view.outcomes
        ),
    )


def _show_entries(entries: Sequence[PostedEntry]) -> None:
    shown = entries[:_ENTRIES_SHOWN] if is_terminal() else entries
    _show_rows(
        "Entries",
        (
            "#",
            "counter",
            "amount",
            Column("before", 4),
            Column("after"),
            Column("lot", 1),
            Column("source", 2),
            Column("feature", 3, text=True),
            Column("due", 5),
        ),
        (
            (
                entry.sequence,
                entry.counter,
                entry.amount,
                entry.balance_before,
                entry.balance_after,
                entry.lot,
                entry.source,
                entry.feature,
                moment(entry.due_at),
            )
            for entry in shown
        ),
    )
    if len(shown) < len(entries):
        click.echo(f"and {len(entries) - len(shown)} more; --json has them all")


def _show_payment(view: ReferenceExplanation) -> None:
    if view.awaited is not None:
        _show_panel("Came before its payment", _awaited(view.awaited))
    payment = view.payment
    if payment is not None:
        _show_panel(
            f"Payment {shown_id(payment.reference_id)}",
            [
                ("package", payment.package_id) if payment.package_id else ("tier", payment.tier or ""),
                ("paid", shown_money(payment.amount_minor, payment.currency)),
                ("bought", f"{payment.base_tokens} + {payment.bonus_tokens} bonus"),
                ("taken back", f"{payment.collected}, written off {payment.uncollected}"),
                ("provider", payment.provider or "not named"),
                ("names", ", ".join(payment.names)),
            ],
        )
    _show_rows(
        "Events of the payment",
        (
            "reference",
            "event",
            Column("state", 2),
            Column("dispute", 5),
            Column("money", 3),
            Column("taken back", 1),
            Column("written off", 6),
            Column("posted by", 7),
            Column("posted", 2),
        ),
        (
            (
                event.reference_id,
                event.happened,
                event.state,
                event.dispute_id,
                None if event.amount_minor is None else shown_money(event.amount_minor, event.currency),
                event.collected,
                event.uncollected,
                event.posted_by,
                moment(event.posted_at),
            )
            for event in view.payment_events
        ),
    )


def _awaited(awaited: AwaitedView) -> list[tuple[str, str]]:
    """Return what an event waits for, or what took it in, in words."""
    rows = [("payment", awaited.name), ("since", moment(awaited.since) or "")]
    if awaited.taken_in_by is not None:
        return [*rows, ("taken in by", f"{awaited.taken_in_by}, {moment(awaited.taken_in_at)}")]
    if awaited.payment_reference_id is not None and awaited.state != "waiting":
        return [*rows, ("can't count", awaited.state.replace("_", " "))]
    return [*rows, ("overdue", f"from {moment(awaited.overdue_at)} on, where it still waits then")]


# -- sections ---------------------------------------------------------------------------------------------


def _show_rows(title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table, if there is anything in it."""
    if found := list(rows):
        _section(title)
        show_table(title, columns, found)


def _section(title: str) -> None:
    """Show a heading in a pipe, where tables have no titles."""
    if not is_terminal():
        click.echo(f"\n# {title}")


def _show_panel(title: str, fields: Sequence[tuple[str, str]], *, lead: str = "\n") -> None:
    if not is_terminal():
        click.echo(f"{lead}# {printable(title)}")
        for name, value in fields:
            click.echo(f"{name}\t{printable(value)}" if name else printable(value))
        return
    lines = Text("\n").join(_field_lines(fields))
    console().print(Panel(lines, title=Text(title), title_align="left", box=box.ROUNDED))


def _field_lines(fields: Sequence[tuple[str, str]]) -> Iterator[Text]:
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        yield Text.assemble((f"{name:<{width}}  " if width else "", "dim"), printable(value))


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
