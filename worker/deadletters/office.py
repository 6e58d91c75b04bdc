"""The dead-letter office: letters drained from their queue into a table, where looking disturbs nothing.

A letter is acknowledged in the queue only after its row is committed; the same letter parked twice is one
row with one more attempt. A replay goes through the front door, to the exchange and key it first came by,
so that everything the ledger knows of its reference holds.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import Engine, Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from schemas.dead_letter import HEADER_PREFIX
from worker.broker import Delivery, Link, Outgoing
from worker.deadletters.letters import letter_in
from worker.errors import BrokerUnavailableError, NotFoundError
from worker.ledger.engine import translated_errors
from worker.ledger.tables import dead_letters

PARKED, REPLAYED, DISCARDED = "parked", "replayed", "discarded"
_BATCH = 200


@dataclass(frozen=True, slots=True)
class ParkedLetter:
    """One dead letter as it is kept: why, whence, when, how often, and the message itself."""

    number: int
    status: str
    reason: str
    message: str
    field: str | None
    traceback: str | None
    queue: str
    exchange: str
    routing_key: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    type: str | None
    reference_id: str | None
    user_id: str | None
    worker_version: str
    schema_version: int
    body: bytes
    properties: Mapping[str, Any]
    note: str | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """The letter of a row of the table."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


class DeadLetterOffice:
    """Dead letters in the ledger's database. Numbers are those that ``list`` shows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def park(self, link: Link, *, wait_s: float = 0.2) -> int:
        """Drain the dead-letter queue that ``link`` consumes; returns how many letters came."""
        parked = 0
        while deliveries := link.receive(_BATCH, wait_s):
            with translated_errors(), self._engine.begin() as connection:
                for delivery in deliveries:
                    connection.execute(_upsert(connection.dialect.name, _row(delivery)))
            link.acknowledge(deliveries)
            parked += len(deliveries)
        return parked

    def letters(
        self, *, status: str | None = PARKED, reason: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[list[ParkedLetter], int]:
        """A page of letters, newest first, and how many there are in all."""
        where = [
            column == value
            for column, value in ((dead_letters.c.status, status), (dead_letters.c.reason, reason))
            if value is not None
        ]
        page = (
            select(dead_letters)
            .where(*where)
            .order_by(dead_letters.c.number.desc())
            .limit(limit)
            .offset(offset)
        )
        with translated_errors(), self._engine.connect() as connection:
            total = connection.execute(
                select(func.count()).select_from(dead_letters).where(*where)
            ).scalar_one()
            return [ParkedLetter.from_row(row) for row in connection.execute(page)], total

    def letter(self, number: int) -> ParkedLetter:
        """One letter; raises NotFoundError."""
        with translated_errors(), self._engine.connect() as connection:
            row = connection.execute(
                select(dead_letters).where(dead_letters.c.number == number)
            ).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no dead letter {number}; see `billing-worker dead-letters list`")
        return ParkedLetter.from_row(row)

    def replay(self, link: Link, numbers: Sequence[int]) -> int:
        """Send the letters back to where they first came from; returns how many were sent.

        Raises BrokerUnavailableError where one reaches no queue; it stays parked then.
        """
        for number in numbers:
            letter = self.letter(number)
            if link.publish([replay_of(letter)]):
                raise BrokerUnavailableError(
                    f"dead letter {number} reached no queue: "
                    f"{letter.exchange or 'the default exchange'} has no route for {letter.routing_key!r}"
                )
            self._mark(number, REPLAYED, None)
        return len(numbers)

    def discard(self, numbers: Sequence[int], note: str) -> int:
        """Take the letters out of the way, for the reason in ``note``; they are kept."""
        for number in numbers:
            self.letter(number)
            self._mark(number, DISCARDED, note)
        return len(numbers)

    def _mark(self, number: int, status: str, note: str | None) -> None:
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(
                update(dead_letters).where(dead_letters.c.number == number).values(status=status, note=note)
            )


def replay_of(letter: ParkedLetter) -> Outgoing:
    """The message as it first came, without what was said about it since."""
    kept = letter.properties
    headers = {
        name: _restored(value)
        for name, value in kept.get("headers", {}).items()
        if not name.startswith(HEADER_PREFIX) and not name.startswith("x-")
    }
    return Outgoing(
        body=letter.body,
        exchange=letter.exchange,
        routing_key=letter.routing_key,
        properties={name: _restored(value) for name, value in kept.get("properties", {}).items()},
        headers=headers,
    )


def _upsert(dialect: str, row: Mapping[str, Any]) -> Any:
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(dead_letters).values(**row)
    latest = ("reason", "message", "field", "traceback", "last_failed_at", "worker_version", "schema_version")
    return insert.on_conflict_do_update(
        index_elements=["letter_id"],
        set_={
            "status": PARKED,
            "attempts": dead_letters.c.attempts + insert.excluded.attempts,
            **{name: insert.excluded[name] for name in latest},
        },
    )


def _row(delivery: Delivery) -> dict[str, Any]:
    letter = letter_in(delivery)
    fields = letter.model_dump(exclude={"headers_omitted"})
    properties = {
        name: value
        for name, value in delivery.properties.items()
        if name
        not in {"application_headers", "delivery_mode", "delivery_info", "body_encoding", "delivery_tag"}
    }
    return {
        **{name: _clean(value) for name, value in fields.items()},
        "status": PARKED,
        "body": delivery.body,
        "properties": _kept({"properties": properties, "headers": dict(delivery.headers)}),
    }


def _clean(value: Any) -> Any:
    """Text that PostgreSQL can store: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _kept(value: Any) -> Any:
    """``value`` as JSON that says what it was, where JSON has no such kind."""
    match value:
        case Mapping():
            return {_clean(str(name)): _kept(item) for name, item in value.items()}
        case list() | tuple():
            return [_kept(item) for item in value]
        case str() if value != _clean(value):
            return {"$bytes": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(bytes(value)).decode()}
        case datetime():
            return {"$time": value.isoformat()}
        case Decimal():
            return {"$decimal": str(value)}
        case float() if value != value or value in (float("inf"), float("-inf")):
            return {"$float": str(value)}
        case _:
            return value


def _restored(value: Any) -> Any:
    match value:
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$time": text}:
            return datetime.fromisoformat(text)
        case {"$decimal": text}:
            return Decimal(text)
        case {"$float": text}:
            return float(text)
        case dict():
            return {name: _restored(item) for name, item in value.items()}
        case list():
            return [_restored(item) for item in value]
        case _:
            return value
