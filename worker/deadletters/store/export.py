"""Dead letters as lines of JSON: exported from one ledger's database, imported into another's, or back."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from sqlalchemy import Engine

from schemas.fields import UtcTimestamp
from worker.catalog import Catalog
from worker.deadletters.fingerprints import fingerprint_of
from worker.deadletters.models import DeadLetterStatus, Imported, StoredDeadLetter
from worker.deadletters.store import queries, tables
from worker.deadletters.store.activity_log import actor_named
from worker.deadletters.store.encoding import clean, indexable, restored
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, described
from worker.deadletters.store.group_changes import LatestFailure
from worker.deadletters.store.ingest import inserted
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.deadletters.tokens import tokens_affected
from worker.errors import BadLineError
from worker.ledger.bulk import Keys, select_rows
from worker.ledger.queries import snapshot
from worker.messages.dead_letters import EPOCH, UNKNOWN_ORIGIN, identities_in

FORMAT = "billing-dead-letter/1"
_CHUNK = 500
_SMALL_MAX = 2**15 - 1

#: Columns that are carried as they are; bodies are encoded, and counts are counted anew.
_PLAIN = (
    "letter_id",
    "status",
    "reason",
    "message",
    "field",
    "traceback",
    "queue",
    "exchange",
    "routing_key",
    "attempts",
    "first_failed_at",
    "last_failed_at",
    "type",
    "reference_id",
    "user_id",
    "worker_version",
    "schema_version",
    "properties",
    "note",
)
_TIMES = ("first_failed_at", "last_failed_at")


class _Line(BaseModel):
    """One dead letter on one line. A body is text where it is UTF-8, base64 where not."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, validate_by_alias=True)

    format: str
    number: int
    letter_id: str = Field(min_length=1, max_length=200)
    status: DeadLetterStatus
    reason: str
    message: str
    field: str | None = None
    traceback: str | None = None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    attempts: int | None = Field(ge=1, le=2**31 - 1)
    first_failed_at: UtcTimestamp | None
    last_failed_at: UtcTimestamp | None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None
    worker_version: str | None
    schema_version: int | None = Field(ge=0, le=_SMALL_MAX)
    properties: dict[str, Any]
    note: str | None = None
    body: str | None = None
    body_base64: str | None = None
    edited_body: str | None = None
    edited_body_base64: str | None = None

    @model_validator(mode="after")
    def _can_be_kept(self) -> "_Line":
        if self.format != FORMAT:
            raise ValueError(f"the format is {self.format!r}, this version reads {FORMAT!r}")
        if (self.body is None) == (self.body_base64 is None):
            raise ValueError("a dead letter has either body or bodyBase64")
        _refuse_unusable(self.properties)
        return self

    def row(self, catalog: Catalog | None) -> dict[str, Any]:
        """Return the row; a dead letter that was under way when it was exported waits here."""
        values = indexable({name: clean(getattr(self, name)) for name in _PLAIN})
        # Earlier versions export an unknown time as the beginning of 1970.
        values |= {name: None for name in _TIMES if values[name] == EPOCH}
        values |= {name: value for name, value in UNKNOWN_ORIGIN.items() if values[name] is None}
        body = _bytes(self.body, self.body_base64)
        values |= identities_in(body)
        edited = None
        if self.edited_body is not None or self.edited_body_base64 is not None:
            edited = _bytes(self.edited_body, self.edited_body_base64)
        status = DeadLetterStatus.PARKED if self.status is DeadLetterStatus.REPLAYING else self.status
        return values | {
            "status": status.value,
            "body": body,
            "edited_body": edited,
            "fingerprint": fingerprint_of(
                values["reason"], values["type"], values["field"], values["message"], values["traceback"]
            ),
            "tokens_at_stake": tokens_affected(body if edited is None else edited, catalog),
        }


def export(engine: Engine, now: datetime, dead_letters: DeadLetterSelection, actor: str) -> Iterator[str]:
    """Yield the dead letters as lines, newest first, without line ends; the activity log names actor and set.

    Raises NotFoundError before the first line.
    """
    who = actor_named(actor)
    if isinstance(dead_letters, DeadLetterFilter):
        _record(engine, now, who, dead_letters)
        with snapshot(engine) as connection:
            for dead_letter in queries.every_dead_letter(connection, dead_letters):
                yield line_of(dead_letter)
        return
    with snapshot(engine) as connection:
        found = [queries.dead_letter(connection, number) for number in dict.fromkeys(dead_letters)]
    _record(engine, now, who, dead_letters)
    yield from map(line_of, found)


@in_transaction
def _record(transaction: DeadLetterTransaction, actor: str, dead_letters: DeadLetterSelection) -> None:
    transaction.record(actor, "export", described(dead_letters))


def line_of(dead_letter: StoredDeadLetter) -> str:
    """Return one dead letter on one line."""
    fields: dict[str, Any] = {"format": FORMAT, "number": dead_letter.number}
    for name in _PLAIN:
        value = getattr(dead_letter, name)
        fields[to_camel(name)] = value.isoformat() if isinstance(value, datetime) else value
    fields |= _body_fields("body", dead_letter.body)
    if dead_letter.edited_body is not None:
        fields |= _body_fields("editedBody", dead_letter.edited_body)
    return json.dumps(fields, ensure_ascii=False)


def _body_fields(name: str, body: bytes) -> dict[str, str]:
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(body).decode()}


def _bytes(text: str | None, encoded: str | None) -> bytes:
    if text is not None:
        return text.encode("utf-8", "surrogatepass")
    return base64.b64decode(encoded or "", validate=True)


def import_lines(
    engine: Engine, now: datetime, lines: Iterable[str], actor: str, catalog: Catalog | None
) -> Imported:
    """Add the dead letters that are not here yet, five hundred a transaction; the others stay as they are.

    Raises BadLineError for the first line that is no dead letter: the lines before it are in, and don't
    disturb when the file is mended and comes again.
    """
    who, added, known = actor_named(actor), 0, 0
    for chunk in _in_chunks(lines, catalog):
        new = _add(engine, now, chunk, who)
        added += new
        known += len(chunk) - new
    return Imported(added, known)


_Row = tuple[_Line, dict[str, Any]]


def _in_chunks(lines: Iterable[str], catalog: Catalog | None) -> Iterator[Sequence[_Row]]:
    chunk: list[_Row] = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = _read(line, catalog)
        except BadLineError as error:
            if chunk:
                yield chunk
            raise BadLineError(f"line {place}: {error}") from error
        chunk.append(read)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read(line: str, catalog: Catalog | None) -> _Row:
    try:
        read = _Line.model_validate_json(line)
        return read, read.row(catalog)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadLineError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    except (ValueError, ArithmeticError, RecursionError, TypeError) as error:
        raise BadLineError(f"is no dead letter: {error}") from None


def _refuse_unusable(properties: Any) -> None:
    """Raise an error for properties that no database keeps, or of which no replay makes a message."""
    _refuse_unkept(properties)
    value = restored(properties)
    parts = [value.get(part, {}) for part in ("properties", "headers")] if isinstance(value, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError("properties hold properties and headers, by their names")


def _refuse_unkept(value: Any) -> None:
    match value:
        case dict():
            for name, item in value.items():
                _refuse_unkept(name)
                _refuse_unkept(item)
        case list():
            for item in value:
                _refuse_unkept(item)
        case str() if value != clean(value):
            raise ValueError("properties hold text that can't be stored")
        case float() if not isfinite(value):
            raise ValueError("properties hold a number that is none")


@in_transaction
def _add(transaction: DeadLetterTransaction, chunk: Sequence[_Row], actor: str) -> int:
    """Add those that are not here yet; returns how many."""
    rows = {row["letter_id"]: (line, row) for line, row in chunk}
    keys = Keys(sorted(rows))
    here = select_rows(transaction.connection, tables.dead_letters, ("letter_id",), "letter_id", keys)
    for known in here:
        del rows[known.letter_id]
    if not rows:
        return 0
    # The oldest first, as they came: an export is newest first.
    new = sorted(rows.values(), key=lambda pair: pair[0].number)
    numbers = inserted(transaction.connection, [row for _, row in new])
    for line, row in new:
        _add_events(transaction, numbers[row["letter_id"]], line, row, actor)
    transaction.record(actor, "import", described(list(numbers.values())), detail={"count": len(new)})
    return len(new)


def _add_events(
    transaction: DeadLetterTransaction, number: int, line: _Line, row: dict[str, Any], actor: str
) -> None:
    transaction.add(row)
    transaction.set_latest(row["fingerprint"], LatestFailure.of(number, row, row["first_failed_at"]))
    # Or the same failure would count once more if its message is drained here as well.
    failed_at = row["last_failed_at"]
    transaction.add_event(number, "failed", at=failed_at, text=row["message"], reason=row["reason"])
    transaction.add_event(number, "imported", actor=actor, was=line.number, status=line.status.value)
