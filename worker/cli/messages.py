"""Messages by hand and by file: ``publish`` and ``replies``."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click
from rich.progress import Progress

from schemas import Limits, decode, first_malformed
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Delivery, Outgoing, Publishes
from worker.cli.options import sender_of, with_application
from worker.cli.output import progress
from worker.errors import ConfigurationError
from worker.messages.outgoing import OutgoingCommand

_CHUNK = 500
_LOOK = 20
_NAME_MAX_BYTES = 255
_NO_TYPE = "usage.unknown"  # leads what names no type to a worker, which says so


@click.command()
@click.argument("source", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@with_application("broker_url")
@click.option("--type", "type_", help="The type of lines that name none, such as usage.deduct.")
@click.option(
    "--reply-to", help="The queue of the replies: billing.replies.USER, of the URL's user, or that and more."
)
@click.option("--unchecked", is_flag=True, help="Send lines as they are, also those the worker will refuse.")
def publish(
    application: Application, *, source: Path, type_: str | None, reply_to: str | None, unchecked: bool
) -> None:
    """Publish a file of JSON lines, one message a line; each is confirmed by the broker.

    Lines that the worker would refuse are reported with their number and not sent; exit 1 then. After an
    interruption the same call goes on where it stopped: FILE.published remembers how far the broker
    confirmed. The last chunk may be sent again, with the same message ids; the references in it are
    applied once.
    """
    for option, name in (("--type", type_), ("--reply-to", reply_to)):
        if name is not None and len(name.encode()) > _NAME_MAX_BYTES:
            raise click.UsageError(f"{option}: a name on the broker has at most {_NAME_MAX_BYTES} bytes")
    mark = None if str(source) == "-" else PublishPosition.of(source)
    lines = _lines(sys.stdin.buffer, 0) if mark is None else _lines_of(source, mark.lines)
    total = None if mark is None else mark.total
    link = application.link()
    try:
        with progress("publishing", total) as bar:
            form = _Form(
                type_, reply_to, unchecked, application.settings.max_quantity, sender_of(application)
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
    click.echo(f"published {sender.published}, refused {sender.refused}, unroutable {sender.unroutable}")
    if mark is not None and mark.not_taken_before:
        click.echo(f"before the interruption {mark.not_taken_before} lines were not taken", err=True)
    sys.exit(1 if sender.not_taken or (mark is not None and mark.not_taken_before) else 0)


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
        """Return the mark of ``source``; a mark of a file that has changed since is ignored."""
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
        """Remove the mark: the file is published whole."""
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
    max_quantity: int
    sent_as: str | None


class _Sender:
    def __init__(self, link: Publishes, bar: Progress, form: _Form) -> None:
        self._link, self._bar, self._form = link, bar, form
        self.published = self.refused = self.unroutable = 0

    @property
    def not_taken(self) -> int:
        """Number of lines that reached no queue."""
        return self.refused + self.unroutable

    def send(self, chunk: list[tuple[int, bytes]]) -> None:
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
        body = _typed(line.strip(), self._form.type)
        decoded = decode(body, now=utc_now(), limits=Limits(max_quantity=self._form.max_quantity))
        refused = first_malformed(decoded)
        if refused is None or self._form.unchecked:
            type_ = decoded.type or self._form.type or _NO_TYPE
            return self._outgoing(body, type_ if len(type_.encode()) <= _NAME_MAX_BYTES else _NO_TYPE)
        self.refused += 1
        click.echo(f"line {number}: {refused.reason}: {refused.message}", err=True)
        return None

    def _outgoing(self, body: bytes, type_: str) -> Outgoing:
        return OutgoingCommand.of(
            type_,
            body,
            message_id=hashlib.blake2b(body, digest_size=16).hexdigest(),
            app_id="billing-worker publish",
            sent_as=self._form.sent_as,
            reply_to=self._form.reply_to,
        )


def _typed(line: bytes, type_: str | None) -> bytes:
    """Return the line, with ``type`` where it is an object that names none."""
    if type_ is None:
        return line
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(data, dict) or "type" in data:
        return line
    # Not written anew from ``data``: that would repair what the worker refuses, a name given twice.
    rest = line.lstrip()[1:]
    comma = b", " if data else b""
    return b'{"type": ' + json.dumps(type_).encode() + comma + rest


def _lines_of(source: Path, done: int) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        yield from islice(_lines(file, 0), done, None)


def _lines(file: IO[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    yield from enumerate(file, start + 1)


@click.command()
@with_application("broker_url")
@click.option("--queue", default=BILLING.replies.name, show_default=True, help="Where the replies wait.")
@click.option("--limit", type=click.IntRange(1), help="End after so many; 20 without --take.")
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C; with --take.")
@click.option("--take", is_flag=True, help="Remove what is shown; without it everything goes back.")
def replies(application: Application, *, queue: str, limit: int | None, follow: bool, take: bool) -> None:
    """Show the replies that wait in a queue, one JSON object a line.

    Without --take they go back to the queue when this ends, possibly in another order. Each look counts as a
    delivery then, and RabbitMQ drops a message after as many as its policy allows (20 from 4.0 on, unless the
    policy that `topology declare` prints is set).
    """
    if follow and not take:
        raise click.UsageError("--follow keeps what it shows from everybody else; say --take as well")
    left = limit if take or limit is not None else _LOOK
    # No more is held than is shown: a message that is only held counts as delivered, too.
    link = application.link(consume=[queue], prefetch=min(left or _CHUNK, _CHUNK))
    try:
        while left is None or left > 0:
            deliveries = link.receive(min(left or _CHUNK, _CHUNK), 1.0)
            if not deliveries and not follow:
                return
            for delivery in deliveries:
                click.echo(json.dumps(_reply_line(delivery), ensure_ascii=False))
            if take:
                link.acknowledge(deliveries)
            left = None if left is None else left - len(deliveries)
            link.keep_alive()
    except KeyboardInterrupt:
        return
    finally:
        link.close()


def _reply_line(delivery: Delivery) -> dict[str, Any]:
    try:
        reply = json.loads(delivery.body)
    except (ValueError, RecursionError):
        reply = {"unreadable": delivery.body[:200].hex()}
    fields = reply if isinstance(reply, dict) else {"body": reply}
    return {"correlationId": delivery.text("correlation_id"), **fields}
