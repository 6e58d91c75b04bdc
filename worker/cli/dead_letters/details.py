"""``dead-letters show``: one dead letter whole."""

import json
from datetime import datetime
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.bodies import lines, readable
from worker.cli.dead_letters.forms import DROPPED, details_as_dict, moment
from worker.cli.dead_letters.options import Number, service_of
from worker.cli.options import as_json, with_wide
from worker.cli.output import is_terminal, show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import printable
from worker.deadletters.models import APPLIED, BodyConflict, DeadLetterDetails, Event, StoredDeadLetter


@click.command()
@click.argument("number", type=Number)
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def show(application: Application, *, number: int, as_json: bool) -> None:
    """Show one dead letter whole.

    The reason, the origin, the times, the message itself, its history, and the ledger's rows under its
    references.

    \b
    Example:
      billing-worker dead-letters show 7
    """
    details = service_of(application).details(number)
    if as_json:
        show_json(details_as_dict(details))
        return
    _show_details(details)


_APPLIED = "the ledger has its operation, with the same content"
_CONFIRM = "billing-worker dead-letters resolve --applied"
_ORIGIN = ("queue", "exchange", "routing_key", "attempts", "worker_version", "schema_version", "sender")
_LONG = ("body", "edited_body", "properties", "traceback")


def _show_details(details: DeadLetterDetails) -> None:
    dead_letter = details.dead_letter
    show_fields(f"Dead letter {dead_letter.number}", _fields(details))
    if dead_letter.traceback:
        click.echo(f"\n{lines(dead_letter.traceback.rstrip())}")
    properties = json.dumps(dead_letter.properties, indent=2, ensure_ascii=False)
    click.echo(f"\nproperties {lines(properties)}")
    if dead_letter.edited_body is not None:
        edited = dead_letter.edited_body
        click.echo(f"\nedited body, {len(edited)} bytes\n{readable(edited)}")
    click.echo(f"\nbody, {len(dead_letter.body)} bytes\n{readable(dead_letter.body)}")
    click.echo()
    show_table(
        "History",
        (
            "when",
            "event",
            Column("actor", 2),
            Column("replay", 3),
            Column("text", 1, text=True),
        ),
        [
            (moment(event.at), event.kind.replace("_", " "), event.actor, event.replay_id, _text_of(event))
            for event in details.events
        ],
    )
    if details.ledger:
        if not is_terminal():
            click.echo()
        show_table(
            "Ledger",
            (
                "reference",
                "status",
                "code",
                Column("same content", 1),
                Column("message", 2, text=True),
            ),
            [
                (line.reference_id, line.status or "nothing", line.code, line.agrees, line.message)
                for line in details.ledger
            ],
        )
    for conflict in details.conflicts:
        _show_conflict(conflict)


def _text_of(event: Event) -> str | None:
    """Return the text of an event, with the edit of a set that it is of."""
    if (edit := event.detail.get("set_edit")) is None:
        return event.text
    undoes = event.detail.get("undoes")
    what = f"edit {edit} of a set" + (f", which undoes {undoes}" if undoes else "")
    return f"{what}: {event.text}"


def _show_conflict(conflict: BodyConflict) -> None:
    """Show both sides of a conflict, a field a line."""
    click.echo()
    show_table(
        f"Conflict of {printable(conflict.reference_id)}, stored {moment(conflict.recorded_at)}",
        ("differs", "field", Column("stored", 1, text=True), Column("came", 1, text=True)),
        [(field.differs, field.name, _side(field.stored), _side(field.came)) for field in conflict.fields],
    )


def _side(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _fields(details: DeadLetterDetails) -> list[tuple[str, Any]]:
    dead_letter = details.dead_letter
    fields = []
    for name in StoredDeadLetter.__slots__:
        value = getattr(dead_letter, name)
        if name in _ORIGIN and value is None:
            fields.append((_label(name), "unknown"))
        elif name not in _LONG and value is not None:
            fields.append((_label(name), moment(value) if isinstance(value, datetime) else value))
    if not dead_letter.is_origin_known:
        fields.append(("origin", "unknown: no worker published it, and its headers count for nothing"))
    if details.is_applied:
        fields.append(("applied", f"{_APPLIED}; {_CONFIRM}"))
    elif dead_letter.state == APPLIED:
        fields.append(("confirm it", _CONFIRM))
    if details.past_deadline is not None:
        fields.append(("valid until", f"{moment(details.past_deadline)}, which has passed; {DROPPED}"))
    if details.problem is not None:
        fields.append(("a worker would refuse it", f"{details.problem.code}: {details.problem.way_out}"))
    return fields


_LABELS = {
    "letter_id": "id",
    "reason": "code",
    "attempts": "tries",
    "tokens_at_stake": "tokens affected",
    "replay_id": "replay",
    "sender": "sent by",
    "applied_at": "found applied",
}


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))
