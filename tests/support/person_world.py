"""World by chance in which one id is everywhere: in references, texts, bodies and logs, also of others."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Engine, text

from schemas import NO_USER, Command
from tests.deadletters.parts import World
from tests.support.apply_commands import applied
from tests.support.forms import AFTER_ALL, settle_awaited
from tests.support.in_world import in_world
from tests.support.strategies import SMALL_CATALOG
from tests.support.worlds import USERS, day_of
from worker.broker import BILLING
from worker.deadletters.body_fields import BodyChanges
from worker.ledger.operator_pauses import PauseKind, begin_pause
from worker.ledger.queries import snapshot
from worker.ledger.queries.charges import matching_operations
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.senders import Sender
from worker.ledger.store import Ledger
from worker.ledger.tables import metadata
from worker.reversing import store as runs
from worker.reversing.models import ReverseRequest
from worker.reversing.selection import selection_text

PREFIX = 70_000_000
#: The person, and somebody else.
PERSON, OTHER = (f"{PREFIX}-{user}" for user in USERS[:2])
_NAME = re.compile(rf'"({PREFIX}-[^"]*)"')


def person_days(seed: int) -> list[tuple[datetime, list[Command]]]:
    """Return a world's batches with their times; every other reference holds the id of its user."""
    days = [(now, [in_world(PREFIX, command) for command in batch]) for now, batch in day_of(seed)]
    owners: dict[str, str] = {}
    for command in (command for _, batch in days for command in batch):
        if command.user_id != NO_USER:
            owners.setdefault(command.reference_id, command.user_id)
    return [(now, [_renamed(command, owners) for command in batch]) for now, batch in days]


def _renamed(command: Command, owners: dict[str, str]) -> Command:
    def name(found: re.Match[str]) -> str:
        owner = owners.get(found[1])
        is_odd = found[1][-1:] in "13579"
        return found[0] if owner is None or is_odd else f'"{found[1]}:{owner}"'

    texts = {"description": f"for {command.user_id}", "metadata": {"whose": command.user_id, "part": 1}}
    fresh = command.model_copy(update=texts)
    renamed = _NAME.sub(name, fresh.model_dump_json(by_alias=True, exclude_none=True))
    return type(command).model_validate_json(renamed)


def fill(engine: Engine, seed: int) -> list[tuple[datetime, list[Command]]]:
    """Fill the ledger with a world, and what lies beside it with the person's id; return the world."""
    days = person_days(seed)
    for now, batch in days:
        applied(engine, SMALL_CATALOG, *batch, now=now, sender=Sender("app", f"client-of-{PERSON}"))
    settle_awaited(Ledger(engine), engine, SMALL_CATALOG)
    _fill_beside(engine)
    return days


def _fill_beside(engine: Engine) -> None:
    world = World(engine)
    usage = {"type": "usage.deduct", "tokens": 5}
    numbers = world.park_failed(
        {**usage, "referenceId": f"lost-1:{PERSON}", "userId": PERSON},
        {**usage, "referenceId": "lost-2", "userId": PERSON},
        {**usage, "referenceId": "lost-3", "userId": OTHER, "metadata": {"friend": PERSON}},
        {**usage, "referenceId": "lost-4", "userId": OTHER},
        {**usage, "referenceId": "lost-5", "userId": OTHER},
    )
    service = world.service
    service.note(numbers[0], f"{PERSON} called twice", "ann")
    body = service.dead_letter(numbers[1]).body
    service.edit(numbers[1], body.replace(b"5", b"6"), f"{PERSON} said so", "ann", instead_of=body)
    service.record("ann", "adjust", "adjust-1", f"a gift for {PERSON}", {"user": PERSON, "tokens": 5})
    service.record("ann", "publish", f"file of {PERSON}.jsonl", None, {"lines": 3})
    service.record("ann", "sign-in", "console")
    changes = BodyChanges.read(sets=[f"metadata.friend={PERSON}"])
    service.edit_set([numbers[4]], changes, f"{PERSON} asked for it", "ann")
    with snapshot(engine) as connection:
        charges = matching_operations(connection, wanted := OperationFilter(user_id=PERSON)).charges
    if charges:
        request = ReverseRequest(f"{PERSON} was charged twice", "ann", selection_text(wanted))
        runs.create(engine, AFTER_ALL, charges, request)
    with engine.begin() as connection:
        why = f"{PERSON} is charged twice"
        begin_pause(
            connection, BILLING.bulk.name, None, PauseKind.PAUSE, reason=why, actor="ann", now=AFTER_ALL
        )


def everything(engine: Engine) -> Iterator[tuple[str, str]]:
    """Yield every row of every table as text, with the table; bytes are text where they are."""
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(text(f"SELECT * FROM {table.name}")):  # noqa: S608
                yield table.name, " ".join(map(_shown, row))


def _shown(value: object) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview | bytes) else str(value)


def tables_with(engine: Engine, id_: str) -> set[str]:
    """Return the tables that hold the id anywhere."""
    return {table for table, row in everything(engine) if id_ in row}


def commands_of(days: Sequence[tuple[datetime, list[Command]]], user_id: str) -> list[Command]:
    """Return the commands of a world that name the user."""
    return [command for _, batch in days for command in batch if command.user_id == user_id]


__all__ = [
    "AFTER_ALL",
    "OTHER",
    "PERSON",
    "commands_of",
    "everything",
    "fill",
    "person_days",
    "tables_with",
]
