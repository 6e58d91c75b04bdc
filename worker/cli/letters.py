"""Dead letters, in their plain first form: ``dead-letters list|show|replay|discard``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from pydantic.alias_generators import to_camel

from worker.bootstrap import Application
from worker.broker import BILLING, Link
from worker.cli.options import as_json, sender_of, with_application
from worker.cli.output import printable, show_fields, show_json, show_table
from worker.deadletters.office import PARKED, DeadLetterOffice, ParkedLetter


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not be applied: see them, send them again, put them away.

    Each command first drains the dead-letter queue into the ledger's database, where looking at a letter
    disturbs nothing and nothing expires.
    """


@contextmanager
def _office(application: Application) -> Iterator[tuple[DeadLetterOffice, Link]]:
    """The office, after it has drained the queue, and a link to publish with."""
    application.require_newest_schema()
    office = DeadLetterOffice(application.engine)
    link = application.link()
    try:
        if waiting := link.depth(BILLING.dead.name):
            _park(application, office, waiting)
        yield office, link
    finally:
        link.close()


def _park(application: Application, office: DeadLetterOffice, waiting: int) -> None:
    consumer = application.link(consume=[BILLING.dead.name])
    try:
        office.park(consumer, expected=waiting, wait_s=0.02)
    finally:
        consumer.close()


_Number = click.IntRange(1, 2**63 - 1)


@dead_letters.command("list")
@click.option(
    "--status",
    type=click.Choice(["parked", "replayed", "discarded", "all"]),
    default=PARKED,
    show_default=True,
    help="Only letters that wait, were sent again, or were put away.",
)
@click.option("--reason", help="Only letters with this reason, such as unknown_type.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Letters a page.")
@click.option("--offset", type=click.IntRange(0, 2**31), default=0, help="Newer letters to leave out.")
@with_application("broker_url", "database_url")
@as_json
def list_letters(
    application: Application, *, status: str, reason: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """The letters, newest first."""
    with _office(application) as (office, _):
        letters, total = office.letters(
            status=None if status == "all" else status, reason=reason, limit=limit, offset=offset
        )
    if as_json:
        show_json({"total": total, "letters": [_as_dict(letter) for letter in letters]})
        return
    show_letters(letters, total)


def show_letters(letters: list[ParkedLetter], total: int) -> None:
    """A page of letters for people."""
    show_table(
        f"Dead letters: {len(letters)} of {total}",
        ("number", "status", "reason", "message", "reference", "user", "tries", "last failed"),
        [
            (
                letter.number,
                letter.status,
                letter.reason,
                letter.message,
                letter.reference_id,
                letter.user_id,
                letter.attempts,
                f"{letter.last_failed_at:%Y-%m-%d %H:%M:%S}Z",
            )
            for letter in letters
        ],
    )


@dead_letters.command()
@click.argument("number", type=_Number)
@with_application("broker_url", "database_url")
@as_json
def show(application: Application, *, number: int, as_json: bool) -> None:
    """One letter whole: why, whence, when, and the message itself."""
    with _office(application) as (office, _):
        letter = office.letter(number)
    if as_json:
        show_json(_as_dict(letter))
        return
    fields = [(name.replace("_", " "), value) for name, value in asdict(letter).items() if name not in _LONG]
    show_fields(f"Dead letter {number}", [(name, value) for name, value in fields if value is not None])
    if letter.traceback:
        click.echo(f"\n{_lines(letter.traceback.rstrip())}")
    click.echo(f"\nproperties {_lines(json.dumps(letter.properties, indent=2, ensure_ascii=False))}")
    click.echo(f"\nbody, {len(letter.body)} bytes\n{_readable(letter.body)}")


@dead_letters.command()
@click.argument("numbers", type=_Number, nargs=-1, required=True)
@with_application("broker_url", "database_url")
def replay(application: Application, *, numbers: tuple[int, ...]) -> None:
    """Send letters back to where they first came from, through the front door.

    What the ledger knows of a reference holds: nothing is applied twice. A letter that fails again is
    the same letter with one more try.
    """
    with _office(application) as (office, link):
        sent = office.replay(link, list(dict.fromkeys(numbers)), sent_as=sender_of(application))
    click.echo(f"replayed {sent}")


@dead_letters.command()
@click.argument("numbers", type=_Number, nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; kept with the letter.")
@with_application("broker_url", "database_url")
def discard(application: Application, *, numbers: tuple[int, ...], reason: str) -> None:
    """Put letters away; they are kept and can be listed."""
    with _office(application) as (office, _):
        done = office.discard(list(dict.fromkeys(numbers)), reason)
    click.echo(f"discarded {done}")


_LONG = {"body", "properties", "traceback"}


def _as_dict(letter: ParkedLetter) -> dict[str, Any]:
    fields = {to_camel(name): value for name, value in asdict(letter).items()}
    for name in ("firstFailedAt", "lastFailedAt"):
        fields[name] = fields[name].isoformat()
    try:
        return fields | {"body": letter.body.decode()}
    except UnicodeDecodeError:
        return {name: value for name, value in fields.items() if name != "body"} | {
            "bodyHex": letter.body.hex()
        }


def _readable(body: bytes) -> str:
    """Pretty where that hides nothing, as text where it is text, hexadecimal where not."""
    try:
        return _lines(json.dumps(_exactly(body), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        pass
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text and text.isprintable() else body[:4096].hex(" ", 2)


def _exactly(body: bytes) -> Any:
    """The JSON of ``body``; raises ValueError where writing it anew would show something else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    def as_written(number: str) -> float:
        if str(float(number)) != number:
            raise ValueError("a number would look different")
        return float(number)

    return json.loads(body, object_pairs_hook=unique, parse_float=as_written)


def _lines(text: str) -> str:
    """Several lines that a terminal shows and doesn't obey."""
    return "\n".join(map(printable, text.split("\n")))
