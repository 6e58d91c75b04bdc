"""A demo's output for people, while it runs and after it; the same as JSON for scripts."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import click

from schemas import Notice, Reply
from worker.bootstrap import Application, utc_now
from worker.cli.history import show_history
from worker.cli.holdings import show_holds, show_lots
from worker.cli.output import is_terminal, progress, show_json, show_table
from worker.cli.times import moment
from worker.cli.totals import show_audit
from worker.cli.usage import show_usage
from worker.deadletters.models import StoredDeadLetter
from worker.demo.noticed import Noticed
from worker.demo.script import DemoMessage, Script
from worker.demo.tally import OutcomeCount, Tally, handful
from worker.ledger.audit import AuditReport
from worker.ledger.queries import Reader
from worker.settings import Settings, redacted

_LINE_EVERY_S = 2.0
_REPLIES = 14
_ENTRIES = 12
_DAYS = 14
_DEAD_LETTERS = 5
_MISSING = 20
_BODY = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """All results of a demo, from which it is judged."""

    tally: Tally
    report: AuditReport
    noticed: Sequence[Noticed]
    exit_codes: dict[str, int | None]
    seconds: float

    def problems(self) -> list[str]:
        """Return the failures of the demo, one line each; none after a success."""
        lines = [f"{_named(*item)}: neither answered nor a dead letter" for item in self.tally.missing()]
        lines += [f"{_named(*item)}: its dead letter is missing" for item in self.tally.without_dead_letter()]
        lines += [f"{type_} of {reference}: the notice was not heard" for reference, type_ in self.unheard()]
        lines += [f"the {name} ended with {code}" for name, code in self.exit_codes.items() if code != 0]
        if not self.report.is_clean:
            lines.append("the audit does not hold")
        return lines

    def unheard(self) -> list[Noticed]:
        """Return the notices that are stored with their outcomes and came to no queue."""
        heard = [(notice.reference_id, str(notice.type)) for notice in self.tally.notices.values()]
        return sorted((Counter(self.noticed) - Counter(heard)).elements())


# -- while it plays ---------------------------------------------------------------------------------------


class Listener(Protocol):
    """Callbacks of a demo: an act begins, by its name, and answers may have come."""

    def __call__(self, act: str | None = None) -> None: ...


@contextmanager
def listener(tally: Tally) -> Iterator[Listener]:
    """Yield a listener on standard error: a bar on a terminal, a line now and then in a pipe."""
    if not sys.stderr.isatty():
        yield _Lines(tally)
        return
    with progress("", len(tally.sent)) as bar:

        def listen(act: str | None = None) -> None:
            (task,) = bar.task_ids
            bar.update(task, completed=len(tally.replies))
            if act is not None:
                bar.update(task, description=f"{act:<15}")

        yield listen


class _Lines:
    def __init__(self, tally: Tally) -> None:
        self._tally, self._act, self._told = tally, "", monotonic()

    def __call__(self, act: str | None = None) -> None:
        now = monotonic()
        if act is None and now - self._told < _LINE_EVERY_S:
            return
        self._act, self._told = act or self._act, now
        click.echo(f"{self._act}: {len(self._tally.replies)} of {len(self._tally.sent)} answered", err=True)


def show_place(settings: Settings, script: Script, folder: Path | None, *, kept: bool) -> None:
    """Show the servers or the folder, and the notes and counts of the script."""
    if folder is not None:
        click.echo(f"embedded in {folder}" + ("" if kept else ", which is removed at the end"))
    else:
        click.echo(f"on {redacted(settings.broker_url)} and {redacted(settings.database_url)}")
    for note in script.notes:
        click.echo(note)
    counts = ", ".join(f"{len(act.messages):,} {act.name}" for act in script.acts)
    click.echo(f"{len(script.messages):,} messages: {counts}")


# -- when it has ended ------------------------------------------------------------------------------------


def show_ended(application: Application, script: Script, ended: Ended) -> None:
    """Show outcomes, notices, some balances, one user's history, the dead letters, the audit, the result."""
    del script
    tally = ended.tally
    _show_outcomes("Outcomes by type", tally.outcomes())
    if items := tally.item_outcomes():
        _show_outcomes("Outcomes of items in batches", items)
    _show_notices(tally)
    _show_balances(application, tally.with_something_special())
    if (user := tally.protagonist()) is not None:
        _show_user(application, user, tally)
    _show_dead_letters(list(tally.dead_letters.values()))
    _heading("Audit")
    show_audit(ended.report)
    click.echo(_speed(ended))
    _show_problems(ended.problems())


def show_ended_as_json(application: Application, script: Script, ended: Ended) -> None:
    """Show the same as one JSON document."""
    tally = ended.tally
    user = tally.protagonist()
    show_json(
        {
            "ok": not ended.problems(),
            **script.facts,
            "messages": len(tally.sent),
            "answered": len(tally.replies),
            "seconds": round(ended.seconds, 2),
            "sent": dict(Counter(message.kind for message in tally.sent.values())),
            "outcomes": [asdict(row) for row in tally.outcomes()],
            "batchItems": [asdict(row) for row in tally.item_outcomes()],
            "notices": dict(Counter(notice.type for notice in tally.own_notices())),
            "balances": _balances_as_dicts(application, tally.with_something_special()),
            "deadLetters": dict(Counter(dead_letter.reason for dead_letter in tally.dead_letters.values())),
            "user": None if user is None else _user_as_dict(application, user, tally),
            "audit": ended.report.to_dict(),
            "problems": ended.problems(),
        }
    )


def _show_outcomes(title: str, rows: Sequence[OutcomeCount]) -> None:
    _heading(title)
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


def _show_notices(tally: Tally) -> None:
    notices = tally.own_notices()
    counts = Counter(notice.type for notice in notices)
    examples = {notice.type: notice for notice in notices}
    title = f"Notices: {len(notices)}, by type"
    _heading(title)
    show_table(
        title,
        ("type", "count", "for example"),
        [(type_, count, _in_words(examples[type_])) for type_, count in counts.most_common()],
    )


def _in_words(notice: Notice) -> str:
    if notice.type == "credit.expiring":
        tokens, end = notice.tokens or 0, moment(notice.expires_at)
        return f"{tokens:,} tokens of {notice.user_id} end on {end} ({notice.reference_id})"
    left, mark = notice.available or 0, notice.mark or 0
    return f"{notice.user_id} has {left:,} left, at most {mark:,} ({notice.reference_id})"


def _show_balances(application: Application, users: Sequence[str]) -> None:
    """Show some users' balances by part, and the lots and the open holds of those who have any."""
    reader, catalog, now = Reader(application.engine), application.catalog, utc_now()
    views = [reader.balance(user, now, catalog) for user in users]
    title = "Some balances"
    _heading(title)
    show_table(
        title,
        ("user", "tier", "balance", "held", "available", "debt", "used", "expired", "reversed", "made of"),
        [
            (
                view.user_id,
                view.subscription.tier,
                view.balance,
                view.held,
                view.available,
                view.debt,
                view.used,
                view.expired,
                view.reversed,
                ", ".join(f"{source} {tokens:,}" for source, tokens in view.lots.items() if tokens),
            )
            for view in views
        ],
    )
    for view in views:
        if view.lots:
            title = f"Lots of {view.user_id}"
            _heading(title)
            show_lots(title, reader.lots(view.user_id, now, catalog).lots)
        if view.held:
            title = f"Holds of {view.user_id}"
            _heading(title)
            show_holds(title, reader.holds(view.user_id, now, catalog).holds)


def _show_user(application: Application, user: str, tally: Tally) -> None:
    replies = tally.of_user(user)
    shown = handful(replies, _REPLIES)
    title = f"Replies to {user}: {len(shown)} of {len(replies)}"
    _heading(title)
    show_table(
        title,
        ("sent", "status", "amount", "balance", "message"),
        [
            (message.kind, _status(reply), reply.amount, reply.balance_after, reply.message)
            for message, reply in shown
        ],
    )
    reader = Reader(application.engine)
    _heading(f"History of {user}")
    show_history(reader.history(user, _ENTRIES))
    _heading(f"Usage of {user}")
    show_usage(reader.usage(user, utc_now(), application.catalog, _DAYS))


def _status(reply: Reply) -> str:
    return f"{reply.status.value}, again" if reply.duplicate else reply.status.value


def _show_dead_letters(dead_letters: list[StoredDeadLetter]) -> None:
    counts = Counter(dead_letter.reason for dead_letter in dead_letters)
    examples = {dead_letter.reason: dead_letter for dead_letter in dead_letters}
    title = f"Dead letters: {len(dead_letters)}, by reason"
    _heading(title)
    if not dead_letters:
        click.echo("none")
        return
    show_table(
        title,
        ("reason", "count", "for example"),
        [(reason, count, examples[reason].message) for reason, count in counts.most_common()],
    )
    some = list(examples.values())[:_DEAD_LETTERS]
    title = f"{len(some)} of them"
    _heading(title)
    show_table(
        title,
        ("number", "reason", "reference", "tries", "body"),
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
    """Return enough of a body to recognise it, in printable characters."""
    if not body:
        return "(empty)"
    text = body[:_BODY].decode("utf-8", "backslashreplace")
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return shown + ("" if len(body) <= _BODY else f"… ({len(body):,} bytes)")


def _speed(ended: Ended) -> str:
    answered, dead_letters = len(ended.tally.replies), len(ended.tally.dead_letters)
    return (
        f"{answered:,} of {len(ended.tally.sent):,} messages answered, "
        f"{dead_letters:,} of them dead letters, "
        f"{len(ended.tally.own_notices()):,} notices, "
        f"in {ended.seconds:.1f} s from the first answer to the last"
    )


def _show_problems(problems: list[str]) -> None:
    for line in problems[:_MISSING]:
        click.echo(f"{click.style('problem', fg='red')}: {line}")
    if len(problems) > _MISSING:
        click.echo(f"and {len(problems) - _MISSING} more")
    if not problems:
        click.echo(click.style("every message has its answer or its dead letter", fg="green"))


def _named(correlation_id: str, message: DemoMessage) -> str:
    reference = "" if message.reference_id is None else f" {message.reference_id}"
    return f"{message.kind}{reference} (correlation id {correlation_id})"


def _heading(title: str) -> None:
    """Show a heading in a pipe, where tables have no titles."""
    click.echo() if is_terminal() else click.echo(f"\n# {title}")


def _user_as_dict(application: Application, user: str, tally: Tally) -> dict[str, Any]:
    reader = Reader(application.engine)
    return {
        "userId": user,
        "replies": [
            {"sent": message.kind, **reply.model_dump(mode="json", exclude_none=True)}
            for message, reply in handful(tally.of_user(user), _REPLIES)
        ],
        "history": reader.history(user, _ENTRIES).to_dict(),
        "usage": reader.usage(user, utc_now(), application.catalog, _DAYS).to_dict(),
    }


def _balances_as_dicts(application: Application, users: Sequence[str]) -> list[dict[str, Any]]:
    reader, catalog, now = Reader(application.engine), application.catalog, utc_now()
    return [
        {
            **reader.balance(user, now, catalog).to_dict(),
            "lots": reader.lots(user, now, catalog).to_dict()["lots"],
            "holds": reader.holds(user, now, catalog).to_dict()["holds"],
        }
        for user in users
    ]
