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
from math import isfinite
from typing import Any, Self

from sqlalchemy import Engine, Row, and_, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.broker import Delivery, Link, Outgoing
from worker.deadletters.letters import EPOCH, encodable, is_brokers_own, letter_in
from worker.errors import BrokerUnavailableError, NotFoundError
from worker.ledger.engine import translated_errors
from worker.ledger.tables import dead_letters

PARKED, REPLAYED, DISCARDED = "parked", "replayed", "discarded"
_BATCH = 200
_LEVELS_MAX = 32
_PATIENCE_S = 5.0

#: What a producer says in the properties and may say again. Not ``user_id``, which must name the connection
#: that publishes; not ``expiration``, which would end a replayed message's life; not the transport's own.
_SENT_AGAIN = {
    "content_type",
    "content_encoding",
    "priority",
    "correlation_id",
    "reply_to",
    "message_id",
    "timestamp",
    "type",
    "app_id",
}


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

    def park(self, link: Link, *, expected: int = 0, wait_s: float = 0.2) -> int:
        """Drain the dead-letter queue that ``link`` consumes; returns how many letters came.

        Waits ``wait_s`` for one more, and some seconds as long as fewer than ``expected`` have come.
        """
        parked = 0
        while deliveries := link.receive(_BATCH, wait_s if parked >= expected else _PATIENCE_S):
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

    def replay(self, link: Link, numbers: Sequence[int], *, sent_as: str | None = None) -> int:
        """Send the letters back to where they first came from; returns how many were sent.

        ``sent_as`` is the broker user of ``link``: who sent a letter first can't be claimed by another, and
        rules about senders judge a replay by who replays. Raises NotFoundError before any is sent, and
        BrokerUnavailableError where one reaches no queue; it stays parked then, the ones before it don't.
        """
        for letter in [self.letter(number) for number in numbers]:
            if link.publish([replay_of(letter, sent_as)]):
                raise BrokerUnavailableError(
                    f"dead letter {letter.number} reached no queue: "
                    f"{letter.exchange or 'the default exchange'} has no route for {letter.routing_key!r}"
                )
            self._mark(letter, REPLAYED, None)
        return len(numbers)

    def discard(self, numbers: Sequence[int], note: str) -> int:
        """Take the letters out of the way, for the reason in ``note``; they are kept.

        Raises NotFoundError before any is put away.
        """
        for letter in [self.letter(number) for number in numbers]:
            self._mark(letter, DISCARDED, note)
        return len(numbers)

    def _mark(self, letter: ParkedLetter, status: str, note: str | None) -> None:
        """Unless it has failed and been parked again since it was read: then it stays in sight."""
        seen = (
            dead_letters.c.number == letter.number,
            dead_letters.c.attempts == letter.attempts,
            dead_letters.c.last_failed_at == letter.last_failed_at,
        )
        with translated_errors(), self._engine.begin() as connection:
            values = {"status": status} if note is None else {"status": status, "note": _clean(note)}
            connection.execute(update(dead_letters).where(*seen).values(values))


def replay_of(letter: ParkedLetter, sent_as: str | None = None) -> Outgoing:
    """The message as it first came, without what was said about it since, sent by ``sent_as``."""
    properties = _restored(letter.properties.get("properties", {}))
    headers = _restored(letter.properties.get("headers", {}))
    again = {name: value for name, value in properties.items() if name in _SENT_AGAIN}
    return Outgoing(
        body=letter.body,
        exchange=letter.exchange,
        routing_key=letter.routing_key,
        properties=again | {"user_id": sent_as},
        headers={name: value for name, value in headers.items() if not is_brokers_own(str(name))},
    )


def _upsert(dialect: str, row: Mapping[str, Any]) -> Any:
    """A new row, or what is newest about the letter in its old one: it is to be looked at again.

    The same failure may come twice, when a crash follows the commit: its tries are counted once.
    """
    insert = (postgresql if dialect == "postgresql" else sqlite).insert(dead_letters).values(**row)
    latest = ("reason", "message", "field", "traceback", "last_failed_at", "worker_version", "schema_version")
    seen = and_(
        dead_letters.c.last_failed_at == insert.excluded.last_failed_at,
        dead_letters.c.last_failed_at != EPOCH,
    )
    attempts = case((seen, dead_letters.c.attempts), else_=dead_letters.c.attempts + insert.excluded.attempts)
    return insert.on_conflict_do_update(
        index_elements=["letter_id"],
        set_={
            "status": PARKED,
            "attempts": attempts,
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
    return encodable(value).replace("\0", "\\x00")


def _kept(value: Any, levels: int = _LEVELS_MAX) -> Any:
    """``value`` as JSON that says what it was, where JSON has no such kind or PostgreSQL can't store it.

    What is nested deeper than ``levels`` is left out: one letter must not close the office.
    """
    if levels == 0:
        return {"$left_out": "nested too deeply"}
    match value:
        case Mapping() if all(isinstance(name, str) and _is_plain(name) for name in value):
            return {name: _kept(item, levels - 1) for name, item in value.items()}
        case Mapping():
            return {"$table": [[_kept(name), _kept(item, levels - 1)] for name, item in value.items()]}
        case list() | tuple():
            return [_kept(item, levels - 1) for item in value]
        case str() if value != _clean(value):
            return {"$text": _base64(value.encode("utf-8", "surrogatepass"))}
        case bytes() | bytearray() | memoryview():
            return {"$bytes": _base64(bytes(value))}
        case datetime():
            return {"$time": value.isoformat()}
        case Decimal():
            return {"$decimal": str(value)}
        case float() if not isfinite(value):
            return {"$float": str(value)}
        case _:
            return value


def _is_plain(name: str) -> bool:
    return name == _clean(name) and not name.startswith("$")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _restored(value: Any) -> Any:
    match value:
        case {"$table": pairs}:
            return {_restored(name): _restored(item) for name, item in pairs}
        case {"$text": text}:
            return base64.b64decode(text).decode("utf-8", "surrogatepass")
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
