"""``recover``: after a restore of the ledger, what the journal keeps goes through the queues again."""

import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
from rich.progress import Progress

from schemas import commands_of
from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json, time_option, with_actor
from worker.cli.output import progress, show_json_stream
from worker.cli.rates import RATE
from worker.cli.text import printable
from worker.cli.times import TimeText, moment, stamp
from worker.errors import NotPossibleError
from worker.ledger.recoveries import Recoveries, Recovery
from worker.messages.dead_letters import Failure
from worker.recovery.checking import CheckCounts, Lacking, lacking_commands
from worker.recovery.judging import Handling, JudgedMessage
from worker.recovery.run import RecoveryControls, RecoveryResources, RecoveryRun, judged_messages
from worker.recovery.span import Span, span_since
from worker.runtime.stop import SignalStop

_RATE = 1_000.0
#: How the uses of messages are counted, and in which order.
_COUNTED = {
    "published": (Handling.COMMAND,),
    "deadLetters": (Handling.DEAD_LETTER,),
    "refused": (Handling.REFUSED,),
    "skipped": (Handling.COPY, Handling.KNOWN),
}


@click.command()
@time_option("--since", "since", "Recover what was sent since then: the time of the restore, and a margin.")
@click.option("--resume", "number", type=click.IntRange(1), help="Go on with this recovery.")
@click.option("--dry-run", "dry", is_flag=True, help="Judge the messages, and publish nothing.")
@click.option("--check", "checks", is_flag=True, help="List the commands that have no outcome in the ledger.")
@click.option("--rate", type=RATE, default=_RATE, show_default="1000/s", help="Messages a second at most.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def recover(
    application: Application,
    *,
    since: TimeText | None,
    number: int | None,
    dry: bool,
    checks: bool,
    rate: float,
    actor: str,
    as_json: bool,
) -> None:
    """Publish again what the journal has kept since a time, after the ledger was restored to it.

    The journal is a stream that `topology declare --journal` makes. Each message is judged by the sender that
    the broker vouched for and the rules of today: what it refuses is listed and not published. The rest goes
    through the queues, without replies and deadlines; references make duplicates of what the ledger has.
    Dead letters come again, but for those that the ledger still has. What operators sent is listed; their
    edits, notes and discards are in no journal.

    It stops at the message that was the last one at its start. After an interruption `recover --resume 1`
    goes on; the place is in the ledger's database. The user of the broker's URL must be one of
    BILLING_WORKER_USERS, and may read the journal.

    \b
    Examples:
      billing-worker recover --check --since 2026-11-26T11:03:00Z
      billing-worker recover --dry-run --since 2026-11-26T11:03:00Z
      billing-worker recover --since 2026-11-26T11:03:00Z --rate 500/s

    Exit codes: 0 all of it is published, or has its outcome; 1 something is refused or lacking, the journal
    doesn't reach back so far, or the recovery was stopped.
    """
    if (since is None) == (number is None):
        raise click.UsageError("give --since TIME, or --resume NUMBER to go on with a recovery")
    if dry and checks:
        raise click.UsageError("--dry-run and --check exclude each other")
    if number is not None and (dry or checks):
        raise click.UsageError(
            "--resume goes on with a recovery; for --dry-run and --check give --since TIME"
        )
    application.require_usable_schema()
    if not dry and not checks:
        _waiting(application)  # raises where a queue is missing: the journal alone would take its messages
    with ExitStack() as open_parts:
        resources = application.recovery_resources()
        open_parts.callback(resources.link.close)
        open_parts.callback(resources.journal.close)
        if number is not None:
            recovery = _recovery_to_resume(resources, number)
            _run(application, resources, recovery, rate, actor, is_covered=True, as_json=as_json)
            return
        assert since is not None  # noqa: S101 - seen above
        at = since.at(application.clock())
        span = span_since(resources.journal, at)
        is_covered = span is None or _is_covered(resources, span)
        if checks:
            _check(application, resources, span, at, is_covered=is_covered, as_json=as_json)
        elif dry or span is None:
            _rehearse(resources, span, is_covered=is_covered, as_json=as_json)
        else:
            recovery = Recoveries(resources.engine).begin(
                actor, at, span.first, span.last, application.clock()
            )
            _run(application, resources, recovery, rate, actor, is_covered=is_covered, as_json=as_json)


def _recovery_to_resume(resources: RecoveryResources, number: int) -> Recovery:
    """Return the recovery. Raises NotFoundError, and NotPossibleError where its journal is another one."""
    recovery = Recoveries(resources.engine).get(number)
    kept = resources.journal.offsets()
    if not recovery.is_done and (kept is None or kept.last < recovery.last):
        raise NotPossibleError(
            f"recovery {number} ends at offset {recovery.last}, and the journal has "
            f"{'nothing' if kept is None else f'offsets to {kept.last}'}: it was declared anew since"
        )
    if kept is not None and kept.first > recovery.next:
        raise NotPossibleError(
            f"recovery {number} goes on at offset {recovery.next}, and the journal's limits have dropped "
            f"what was before {kept.first}: begin anew with --since for what is left"
        )
    return recovery


def _is_covered(resources: RecoveryResources, span: Span) -> bool:
    """Say what the journal keeps; return False where it doesn't reach back so far."""
    since = span.since
    click.echo(f"journal: offsets {span.first} to {span.last} since {moment(since)}", err=True)
    begins_at = resources.journal.begins_at(span.kept, resources.clock())
    if not span.is_covered:
        click.echo(
            f"the journal begins at {moment(begins_at)}, and its limits have dropped what was before: "
            f"messages between {moment(since)} and then are not in it",
            err=True,
        )
    elif begins_at is not None and begins_at > since:
        click.echo(f"the journal was empty before {moment(begins_at)}", err=True)
    return span.is_covered


# -- recovering -------------------------------------------------------------------------------------------


def _run(
    application: Application,
    resources: RecoveryResources,
    recovery: Recovery,
    rate: float,
    actor: str,
    *,
    is_covered: bool,
    as_json: bool,
) -> None:
    """Publish; exit 1 where something is refused or left."""
    click.echo(f"recovery {recovery.number}", err=True)
    detail = {"since": stamp(recovery.since), "from": recovery.next, "to": recovery.last}
    application.service().record(actor, "recover", f"recovery {recovery.number}", None, detail)
    stop = SignalStop()
    stop.install()
    controls = RecoveryControls(stop, lambda text: click.echo(printable(text), err=True))
    run = RecoveryRun(resources, recovery, controls, rate)
    try:
        with progress(f"recovery {recovery.number}", recovery.last - recovery.first + 1) as bar:
            messages = _advancing(bar, run.messages(), recovery.first)
            _show(messages, lambda: _as_dict(run.recovery), as_json=as_json)
    finally:
        if not run.recovery.is_done:
            click.echo(f"go on with: billing-worker recover --resume {recovery.number}", err=True)
    done = run.recovery
    if not as_json:
        click.echo(_counted(_counts_of(done)))
    sys.exit(0 if done.is_done and not done.refused and is_covered else 1)


def _rehearse(resources: RecoveryResources, span: Span | None, *, is_covered: bool, as_json: bool) -> None:
    """Judge and count, and publish nothing."""
    used: Tally[Handling] = Tally()

    def messages() -> Iterator[JudgedMessage]:
        if span is None:
            return
        for chunk in judged_messages(resources, span.since, span.offsets):
            used.update(message.handling for message in chunk)
            yield from chunk

    def counts() -> dict[str, Any]:
        return {name: sum(used[one] for one in handlings) for name, handlings in _COUNTED.items()}

    first, length = (0, 0) if span is None else (span.first, span.length)
    with progress("judging", length) as bar:
        _show(
            _advancing(bar, messages(), first),
            lambda: {"span": _span_dict(span), **counts()},
            as_json=as_json,
        )
    if not as_json:
        nothing = ", nothing was sent since" if span is None else ", nothing was published"
        click.echo(f"{_counted(counts())}{nothing}")
    sys.exit(0 if is_covered and not used[Handling.REFUSED] else 1)


def _advancing(bar: Progress, messages: Iterable[JudgedMessage], first: int) -> Iterator[JudgedMessage]:
    for message in messages:
        bar.update(bar.task_ids[0], completed=message.offset - first + 1)
        yield message


_COLUMNS = ("use", "offset", "type", "reference", "user", "sender", "why")


def _show(messages: Iterable[JudgedMessage], fields: Callable[[], dict[str, Any]], *, as_json: bool) -> None:
    """Show the messages that somebody should know of, as they come: no command, or sent by an operator."""
    noted = (note for message in messages if (note := _note_of(message)) is not None)
    if as_json:
        show_json_stream("messages", (note.as_dict() for note in noted), fields)
        return
    _show_lines(_COLUMNS, (note.row for note in noted))


def _show_lines(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    is_first = True
    for row in rows:
        if is_first:
            click.echo("\t".join(columns))
            is_first = False
        click.echo("\t".join("" if cell is None else printable(str(cell)) for cell in row))


@dataclass(frozen=True, slots=True)
class _Note:
    """A message that somebody should know of."""

    message: JudgedMessage
    use: str
    why: str

    @property
    def row(self) -> tuple[Any, ...]:
        type_, reference, user = _identities(self.message)
        return self.use, self.message.offset, type_, reference, user, self.message.sender, self.why

    def as_dict(self) -> dict[str, Any]:
        type_, reference, user = _identities(self.message)
        found = self.message.found
        return {
            "use": self.use,
            "offset": self.message.offset,
            "type": type_,
            "referenceId": reference,
            "userId": user,
            "sender": self.message.sender,
            "reason": str(found.code) if isinstance(found, Failure) else None,
            "message": self.why,
            "body": self.message.delivery.body.decode("utf-8", "backslashreplace"),
        }


def _note_of(message: JudgedMessage) -> _Note | None:
    if message.is_discarded and not isinstance(message.found, Failure):
        return _Note(
            message, "discarded", "its dead letter was discarded: restore and replay it if it counts"
        )
    if message.handling in (Handling.COPY, Handling.KNOWN):
        return None
    if isinstance(message.found, Failure):
        use = "refused" if message.handling is Handling.REFUSED else "dead letter"
        return _Note(message, use, f"{message.found.code}: {message.found.message}")
    action = message.operators_action
    return None if action is None else _Note(message, "operator", action)


def _identities(message: JudgedMessage) -> tuple[str | None, str | None, str | None]:
    """Return type, reference and user, as far as the message names them."""
    found = message.found
    if isinstance(found, Failure):
        return found.type or message.delivery.routing_key, found.reference_id, found.user_id
    users = {command.user_id for command in commands_of(found)}
    return found.type, found.reference_id, users.pop() if len(users) == 1 else None


def _counts_of(recovery: Recovery) -> dict[str, int]:
    return {
        "published": recovery.published,
        "deadLetters": recovery.dead_letters,
        "refused": recovery.refused,
        "skipped": recovery.skipped,
    }


def _counted(counts: dict[str, Any]) -> str:
    return (
        f"published {counts['published']}, dead letters again {counts['deadLetters']}, "
        f"refused {counts['refused']}, skipped {counts['skipped']}"
    )


def _as_dict(recovery: Recovery) -> dict[str, Any]:
    return {
        "recovery": recovery.number,
        "since": stamp(recovery.since),
        "first": recovery.first,
        "next": recovery.next,
        "last": recovery.last,
        "isDone": recovery.is_done,
        **_counts_of(recovery),
    }


def _span_dict(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    return {
        "first": span.first,
        "last": span.last,
        "oldest": span.kept.first,
        "isCovered": span.is_covered,
    }


# -- checking ---------------------------------------------------------------------------------------------


def _check(
    application: Application,
    resources: RecoveryResources,
    span: Span | None,
    since: datetime,
    *,
    is_covered: bool,
    as_json: bool,
) -> None:
    """List the commands without an outcome; exit 1 where one is neither applied nor a dead letter."""
    counts, lacking = CheckCounts(), Tally[bool]()

    def listed() -> Iterator[Lacking]:
        if span is None:
            return
        for one in lacking_commands(resources, span.since, span.offsets, counts):
            lacking[one.dead_letter is not None] += 1
            yield one

    def fields() -> dict[str, Any]:
        return {
            "since": stamp(since),
            "span": _span_dict(span),
            "messages": counts.messages,
            "commands": counts.commands,
            "notCommands": counts.not_commands,
            "lackingCount": lacking[False],
            "deadLetterCount": lacking[True],
            "waiting": _waiting(application),
        }

    if as_json:
        show_json_stream("lacking", map(_lacking_dict, listed()), fields)
    else:
        _show_lines(_LACKING, (_lacking_row(one) for one in listed()))
        found = fields()
        click.echo(
            f"{counts.commands} commands in {counts.messages} messages: {lacking[False]} have no outcome, "
            f"{lacking[True]} are dead letters; {counts.not_commands} messages are no commands"
        )
        if found["waiting"]:
            waiting = ", ".join(f"{name} {depth}" for name, depth in found["waiting"].items())
            click.echo(f"messages wait in queues and may be among them: {waiting}", err=True)
    sys.exit(0 if is_covered and not lacking[False] else 1)


_LACKING = ("offset", "type", "reference", "user", "attempt", "sender", "dead letter")


def _lacking_row(one: Lacking) -> tuple[Any, ...]:
    return (
        one.offset,
        one.type,
        one.reference_id,
        one.user_id,
        one.attempt,
        one.sender,
        one.dead_letter,
    )


def _lacking_dict(one: Lacking) -> dict[str, Any]:
    return {
        "offset": one.offset,
        "type": one.type,
        "referenceId": one.reference_id,
        "userId": one.user_id,
        "attempt": one.attempt,
        "sender": one.sender,
        "deadLetter": one.dead_letter,
    }


def _waiting(application: Application) -> dict[str, int]:
    """Return the queues of work in which messages wait, with their numbers."""
    with closing(application.link()) as link:
        depths = {queue.name: link.depth(queue.name) for queue in application.topology.work_queues}
    return {name: depth for name, depth in depths.items() if depth}
