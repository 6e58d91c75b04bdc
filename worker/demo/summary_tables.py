"""Tables of a demo's summary."""

from collections import Counter
from collections.abc import Sequence

import click

from schemas import Notice, Reply
from worker.bootstrap import Application, utc_now
from worker.cli.holdings import show_holds, show_lots
from worker.cli.output import is_terminal, show_table
from worker.cli.times import moment
from worker.deadletters.models import StoredDeadLetter
from worker.demo.scenario import DemoMessage
from worker.demo.statistics import OutcomeCount, distinct_replies
from worker.ledger.queries import Balance, Reader

_DEAD_LETTERS_SHOWN = 5
_BODY_CHARACTERS = 60


def show_heading(title: str) -> None:
    """Show a heading in a pipe, where tables have no titles."""
    click.echo() if is_terminal() else click.echo(f"\n# {title}")


def show_outcomes(title: str, rows: Sequence[OutcomeCount]) -> None:
    """Show counts of outcomes; failures have their reason code."""
    show_heading(title)
    show_table(
        title,
        ("type", "status", "code", "first", "again"),
        [
            (
                row.type or "(unreadable)",
                row.status,
                row.code if row.reason is None else f"{row.code}: {row.reason}",
                row.first,
                row.again,
            )
            for row in rows
        ],
    )


def show_notices(notices: Sequence[Notice]) -> None:
    """Show the count of each type of notice, with an example."""
    counts = Counter(notice.type for notice in notices)
    examples = {notice.type: notice for notice in notices}
    title = f"Notices: {len(notices)}, by type"
    show_heading(title)
    show_table(
        title,
        ("type", "count", "for example"),
        [(type_, count, _sentence(examples[type_])) for type_, count in counts.most_common()],
    )


def _sentence(notice: Notice) -> str:
    if notice.type == "credit.expiring":
        tokens, expiry = notice.tokens or 0, moment(notice.expires_at)
        return f"{tokens:,} tokens of {notice.user_id} expire on {expiry} ({notice.reference_id})"
    available, mark = notice.available or 0, notice.mark or 0
    return f"{notice.user_id} has {available:,} available, at most {mark:,} ({notice.reference_id})"


def show_balances(application: Application, users: Sequence[str]) -> None:
    """Show the balances of some users, and the lots and the open holds of those who have any."""
    reader, catalog, now = Reader(application.engine), application.catalog, utc_now()
    balances = [reader.balance(user, now, catalog) for user in users]
    title = "Some balances"
    show_heading(title)
    show_table(
        title,
        ("user", "tier", "balance", "held", "available", "debt", "used", "expired", "reversed", "lots"),
        [_balance_row(balance) for balance in balances],
    )
    for balance in balances:
        if balance.lots:
            title = f"Lots of {balance.user_id}"
            show_heading(title)
            show_lots(title, reader.lots(balance.user_id, now, catalog).lots)
        if balance.held:
            title = f"Holds of {balance.user_id}"
            show_heading(title)
            show_holds(title, reader.holds(balance.user_id, now, catalog).holds)


def _balance_row(balance: Balance) -> Sequence[object]:
    return (
        balance.user_id,
        balance.subscription.tier,
        balance.balance,
        balance.held,
        balance.available,
        balance.debt,
        balance.used,
        balance.expired,
        balance.reversed,
        ", ".join(f"{source} {tokens:,}" for source, tokens in balance.lots.items() if tokens),
    )


def show_replies(user: str, replies: Sequence[tuple[DemoMessage, Reply]], most: int) -> None:
    """Show the first reply of each kind to a user."""
    shown = distinct_replies(replies, most)
    title = f"Replies to {user}: {len(shown)} of {len(replies)}"
    show_heading(title)
    show_table(
        title,
        ("sent", "status", "amount", "balance", "message"),
        [
            (message.kind, _status(reply), reply.amount, reply.balance_after, reply.message)
            for message, reply in shown
        ],
    )


def _status(reply: Reply) -> str:
    return f"{reply.status}, again" if reply.duplicate else str(reply.status)


def show_dead_letters(dead_letters: Sequence[StoredDeadLetter]) -> None:
    """Show the count of each reason code with an example, and some dead letters."""
    counts = Counter(dead_letter.reason for dead_letter in dead_letters)
    examples = {dead_letter.reason: dead_letter for dead_letter in dead_letters}
    title = f"Dead letters: {len(dead_letters)}, by reason code"
    show_heading(title)
    if not dead_letters:
        click.echo("none")
        return
    show_table(
        title,
        ("code", "count", "for example"),
        [(reason, count, examples[reason].message) for reason, count in counts.most_common()],
    )
    some = list(examples.values())[:_DEAD_LETTERS_SHOWN]
    title = f"{len(some)} of the dead letters"
    show_heading(title)
    show_table(
        title,
        ("number", "code", "reference", "tries", "body"),
        [
            (
                dead_letter.number,
                dead_letter.reason,
                dead_letter.reference_id,
                dead_letter.attempts,
                _beginning(dead_letter.body),
            )
            for dead_letter in some
        ],
    )


def _beginning(body: bytes) -> str:
    """Return the first characters of a body, in printable form."""
    if not body:
        return "(empty)"
    text = body[:_BODY_CHARACTERS].decode("utf-8", "backslashreplace")
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return shown + ("" if len(body) <= _BODY_CHARACTERS else f"… ({len(body):,} bytes)")
