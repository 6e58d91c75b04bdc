"""``publish``: messages from a file or a stream, each confirmed by the broker."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, get_args

import click
from rich.progress import Progress

from schemas import (
    DeadLetterReason,
    Limits,
    Malformed,
    Message,
    WantedReplies,
    decode,
    first_malformed,
    routing_key_of,
)
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Outgoing, Publishes
from worker.cli.application import sender_of, with_application
from worker.cli.options import as_json, with_actor
from worker.cli.output import progress, show_json
from worker.cli.publish_log import PublishLog
from worker.errors import ConfigurationError
from worker.ledger.known_ids import known_ids
from worker.messages.known_ids import KnownIds, decoded
from worker.messages.outgoing import OutgoingCommand

_CHUNK = 500
_NAME_MAX_BYTES = 255
_NO_TYPE = "usage.unknown"  # leads what names no type to a worker, which says so


@click.command()
@click.argument("source", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@with_application("broker_url", "database_url")
@click.option("--type", "type_", help="The type of lines that name none, such as usage.deduct.")
@click.option(
    "--reply-to", help="The queue of the replies: billing.replies.USER, of the URL's user, or that and more."
)
@click.option(
    "--lane",
    type=click.Choice(["interactive", "bulk"]),
    default="interactive",
    show_default=True,
    help="bulk is served last: for usage that nobody waits for.",
)
@click.option(
    "--replies",
    type=click.Choice(get_args(WantedReplies)),
    help="The replies wanted for lines that don't say it.",
)
@click.option("--reason", help="Why; kept in the activity log.")
@with_actor
@click.option("--unchecked", is_flag=True, help="Send lines as they are, also those the worker will refuse.")
@as_json
def publish(
    application: Application,
    *,
    source: Path,
    type_: str | None,
    reply_to: str | None,
    lane: str,
    replies: str | None,
    reason: str | None,
    actor: str,
    unchecked: bool,
    as_json: bool,
) -> None:
    """Publish a file of JSON lines, one message a line; each is confirmed by the broker.

    Lines that the worker would refuse are reported with their number and not sent; exit 1 then. After an
    interruption the same call goes on where it stopped: FILE.published remembers how far the broker
    confirmed. The last chunk may be sent again, with the same message ids; the references in it are
    applied once.

    The activity log has who published it, with the file's SHA-256 and how many lines it has.

    With --lane bulk a large file delays nobody: other messages go first. That lane takes usage.* alone. With
    --replies none it doesn't fill the reply queue.
    """
    for option, name in (("--type", type_), ("--reply-to", reply_to)):
        if name is not None and len(name.encode()) > _NAME_MAX_BYTES:
            raise click.UsageError(f"{option}: a name on the broker has at most {_NAME_MAX_BYTES} bytes")
    mark = None if str(source) == "-" else PublishPosition.of(source)
    lines = _lines(sys.stdin.buffer, 0) if mark is None else _lines_of(source, mark.lines)
    total = None if mark is None else mark.total
    application.require_usable_schema()
    log, name = PublishLog(application.service(), actor, reason), _name_of(source)
    link = application.link()
    try:
        log.begin(name, {**_identity_of(mark), "lane": lane, "type": type_, "unchecked": unchecked or None})
        with progress("publishing", total) as bar:
            form = _Form(
                type_,
                reply_to,
                unchecked,
                application.policy_of_commands.limits,
                partial(known_ids, application.engine),
                sender_of(application),
                replies,
                is_bulk=lane == "bulk",
                partitions=application.settings.partitions,
            )
            sender = _Sender(link, bar, form)
            if mark is not None:
                bar.advance(bar.task_ids[0], mark.lines)
            while chunk := list(islice(lines, _CHUNK)):
                sender.send(chunk)
                if mark is not None:
                    mark.advance(len(chunk), sender.not_taken)
    finally:
        link.close()
    if mark is not None:
        mark.remove()
    not_taken_before = 0 if mark is None else mark.not_taken_before
    counts = {"published": sender.published, "refused": sender.refused, "unroutable": sender.unroutable}
    log.end(name, {"sha256": sender.sha256 if mark is None else mark.identity, **counts})
    if as_json:
        show_json({**counts, "notTakenBefore": not_taken_before})
    else:
        click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
    if not_taken_before:
        click.echo(f"before the interruption {not_taken_before} lines were not taken", err=True)
    sys.exit(1 if sender.not_taken or not_taken_before else 0)


def _name_of(source: Path) -> str:
    return "standard input" if str(source) == "-" else source.name


def _identity_of(mark: "PublishPosition | None") -> dict[str, str | int | None]:
    """Return what tells a file from others; nothing is known of a stream yet."""
    return {} if mark is None else {"sha256": mark.identity, "lines": mark.total, "after": mark.lines or None}


@dataclass(slots=True)
class PublishPosition:
    """Position up to which a file has been published, kept beside the file until it is done."""

    path: Path
    identity: str
    total: int
    lines: int = 0
    not_taken_before: int = 0

    @classmethod
    def of(cls, source: Path) -> "PublishPosition":
        """Return the position in ``source``; that of a file which has changed since is ignored."""
        digest, total = hashlib.sha256(), 0
        try:
            with source.open("rb") as file:
                for line in file:
                    digest.update(line)
                    total += 1
        except OSError as error:
            raise ConfigurationError(f"{source} can't be read: {error.strerror}") from error
        path = source.with_name(source.name + ".published")
        mark = cls(path, digest.hexdigest(), total)
        with _writable(path):
            match path.read_text(errors="replace").split() if path.exists() else []:
                case [mark.identity, lines, not_taken] if lines.isdecimal() and not_taken.isdecimal():
                    mark.lines, mark.not_taken_before = int(lines), int(not_taken)
        return mark

    def advance(self, lines: int, not_taken: int) -> None:
        """Store that ``lines`` more are confirmed; ``not_taken`` counts this call's lines without a queue."""
        self.lines += lines
        fresh = self.path.with_name(self.path.name + ".new")
        with _writable(self.path):
            fresh.write_text(f"{self.identity} {self.lines} {self.not_taken_before + not_taken}")
            fresh.replace(self.path)

    def remove(self) -> None:
        """Remove the file of the position: all is published."""
        with _writable(self.path):
            self.path.unlink(missing_ok=True)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path}, which remembers how far the file is published, can't be kept: {error.strerror}; "
            "publish from standard input to do without it"
        ) from error


@dataclass(frozen=True, slots=True)
class _Form:
    type: str | None
    reply_to: str | None
    unchecked: bool
    limits: Limits
    known_ids: KnownIds
    sent_as: str | None
    replies: str | None
    is_bulk: bool
    partitions: int


class _Sender:
    def __init__(self, link: Publishes, bar: Progress, form: _Form) -> None:
        self._link, self._bar, self._form = link, bar, form
        self.published = self.refused = self.unroutable = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all lines that were sent, or refused."""
        return self._digest.hexdigest()

    @property
    def not_taken(self) -> int:
        """Number of lines that reached no queue."""
        return self.refused + self.unroutable

    def send(self, chunk: list[tuple[int, bytes]]) -> None:
        self._digest.update(b"".join(line for _, line in chunk))
        numbered = [(number, self._message(number, line)) for number, line in chunk if line.strip()]
        messages = {message: number for number, message in numbered if message is not None}
        result = self._link.publish(list(messages))
        result.raise_if_refused()
        for message in result.returned:
            click.echo(f"line {messages[message]}: no queue takes {message.routing_key!r}", err=True)
        self.unroutable += len(result.returned)
        self.published += len(result.accepted)
        self._bar.advance(self._bar.task_ids[0], len(chunk))

    def _message(self, number: int, line: bytes) -> Outgoing | None:
        body = _completed(line.strip(), {"type": self._form.type, "replies": self._form.replies})
        message = self._decoded(body)
        refused = first_malformed(message) or self._in_wrong_lane(message)
        if refused is None or self._form.unchecked:
            return self._outgoing(body, self._key_of(message))
        self.refused += 1
        click.echo(f"line {number}: {refused.reason}: {refused.message}", err=True)
        return None

    def _decoded(self, body: bytes) -> Message | Malformed:
        """Return the message as a worker would take it."""
        if self._form.unchecked:
            return decode(body, now=utc_now(), limits=self._form.limits)
        return decoded(body, utc_now(), self._form.limits, self._form.known_ids)

    def _in_wrong_lane(self, message: Message | Malformed) -> Malformed | None:
        if not self._form.is_bulk or message.type is None or BILLING.bulk.takes(message.type):
            return None
        text = f"the bulk lane takes {', '.join(BILLING.bulk.routing_keys)}, not {message.type}"
        return Malformed(DeadLetterReason.WRONG_LANE, text, "type")

    def _key_of(self, message: Message | Malformed) -> str:
        """Return the routing key: what is no command waits where there is no partition."""
        if not isinstance(message, Malformed):
            return routing_key_of(message, self._form.partitions)
        type_ = message.type or self._form.type or _NO_TYPE
        return type_ if len(type_.encode()) <= _NAME_MAX_BYTES else _NO_TYPE

    def _outgoing(self, body: bytes, key: str) -> Outgoing:
        return OutgoingCommand.of(
            key,
            body,
            message_id=hashlib.blake2b(body, digest_size=16).hexdigest(),
            app_id="billing-worker publish",
            sent_as=self._form.sent_as,
            reply_to=self._form.reply_to,
            exchange=BILLING.bulk_exchange if self._form.is_bulk else BILLING.exchange,
            at=utc_now(),
        )


def _completed(line: bytes, fields: Mapping[str, str | None]) -> bytes:
    """Return the line with those of ``fields`` that are given, where it is an object without them."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        data = json.loads(line) if given else None
    except (ValueError, RecursionError):
        return line
    if not isinstance(data, dict) or not (missing := given.keys() - data.keys()):
        return line
    # Not written anew from ``data``: that would repair what the worker refuses, a name given twice.
    rest = line.lstrip()[1:]
    comma = b", " if data else b""
    first = ", ".join(f"{json.dumps(name)}: {json.dumps(given[name])}" for name in fields if name in missing)
    return b"{" + first.encode() + comma + rest


def _lines_of(source: Path, done: int) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        yield from islice(_lines(file, 0), done, None)


def _lines(file: IO[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    yield from enumerate(file, start + 1)
