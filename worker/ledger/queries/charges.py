"""Charges: applied usage that a refund may give back, with what earlier refunds have left of it."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from schemas import Code, Status
from schemas.fields import INT64_MAX
from worker.catalog import FREE_UPLOAD
from worker.core import Outcome
from worker.core.rules.credit import REFUNDABLE, free_units_of
from worker.ledger import rows
from worker.ledger.bulk import among
from worker.ledger.queries.bounded import bounded_reading
from worker.ledger.queries.features import feature_in
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_walk import walk
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import operations, usage_refunds

#: Operations that are read at once.
_PAGE = 5_000
#: Key in a refund's metadata: the number of the run that reversed a charge by it.
RUN_KEY = "reverse_run"


def reverse_run_in(metadata: Mapping[str, Any] | None) -> int | None:
    """Return the number of the run that sent a refund with this metadata; None where none did."""
    number = (metadata or {}).get(RUN_KEY)
    return number if type(number) is int and 0 < number <= INT64_MAX else None


class ChargeKey(NamedTuple):
    """Key of a charge: of its operation."""

    slot: int
    operation_id: int


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge: tokens and free units that a usage took, and what ``refunds`` earlier refunds gave back."""

    key: ChargeKey
    usage: Outcome
    refunds: int
    tokens_back: int
    free_back: int

    @property
    def tokens(self) -> int:
        """Tokens that it took."""
        return 0 if self.usage.code is Code.FREE_UPLOAD_COUNTED else self.usage.amount or 0

    @property
    def tokens_left(self) -> int:
        """Tokens that no refund has given back."""
        return self.tokens - self.tokens_back

    @property
    def free_left(self) -> int:
        """Free units that no refund has given back."""
        return free_units_of(self.usage) - self.free_back

    @property
    def is_given_back(self) -> bool:
        """True where nothing is left of it."""
        return not self.tokens_left and not self.free_left

    @property
    def feature(self) -> str | None:
        """The feature, or the meter, that it names; None for one that names neither."""
        if self.usage.code is Code.FREE_UPLOAD_COUNTED:
            return FREE_UPLOAD
        return feature_in(self.usage.content)


@dataclass(frozen=True, slots=True)
class MatchingOperations:
    """Operations that match a filter: all counted by type and status, and keys of charges, oldest first."""

    kinds: Mapping[tuple[str, str], int]
    charges: Sequence[ChargeKey]


def matching_operations(connection: Connection, wanted: OperationFilter) -> MatchingOperations:
    """Return the operations that match.

    Raises NotFoundError for a user of whom nothing is known, and QueryError for a sender that has sent
    nothing, and where the database takes too long.
    """
    kinds: Counter[tuple[str, str]] = Counter()
    keys: list[ChargeKey] = []
    with bounded_reading(connection):
        for row in _every_row(connection, wanted):
            kinds[row.type, row.status] += 1
            if row.type in REFUNDABLE and row.status == Status.APPLIED.value:
                keys.append(ChargeKey(row.slot, row.operation_id))
    return MatchingOperations(kinds, keys[::-1])


def _every_row(connection: Connection, wanted: OperationFilter) -> Iterator[Row[Any]]:
    """Yield the operations that match, newest first, read a page at a time."""
    cursor: str | None = None
    while True:
        found = walk(connection, wanted, _PAGE, cursor)
        yield from found.rows
        if (cursor := found.next_cursor) is None:
            return


def charges_of(connection: Connection, keys: Collection[ChargeKey]) -> dict[ChargeKey, Charge]:
    """Return these charges, with the refunds that this transaction sees."""
    found: dict[ChargeKey, Charge] = {}
    for slots in parts_of(connection):
        ids = [key.operation_id for key in keys if key.slot in slots.each]
        if ids:
            refunded = _refunded(connection, slots, ids)
            for row in _operations(connection, slots, ids):
                key = ChargeKey(row.slot, row.operation_id)
                found[key] = Charge(key, rows.outcome(row), *refunded.get(row.operation_id, (0, 0, 0)))
    return found


def _operations(connection: Connection, slots: Slots, ids: Sequence[int]) -> Iterable[Row[Any]]:
    operation = operations.c
    is_asked = among(connection, operation.operation_id, ids)
    statement = select(operations).where(in_slots(operation.slot, slots), is_asked)
    return connection.execute(statement.order_by(operation.operation_id))


def _refunded(connection: Connection, slots: Slots, ids: Sequence[int]) -> Mapping[int, tuple[int, int, int]]:
    """Return number, tokens and free units of the refunds of each charge that has any."""
    refund = usage_refunds.c
    sums = (func.count(), func.sum(refund.tokens), func.sum(refund.free_quantity))
    statement = (
        select(refund.original_id, *sums)
        .where(in_slots(refund.slot, slots), among(connection, refund.original_id, ids))
        .group_by(refund.original_id)
    )
    return {
        original: (int(count), int(tokens), int(free))
        for original, count, tokens, free in connection.execute(statement)
    }
