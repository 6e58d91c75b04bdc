"""Charges: applied usage that a refund may give back, with what earlier refunds have left of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, func, select
from sqlalchemy.sql import ColumnElement

from schemas import Code, Status
from worker.catalog import FREE_UPLOAD
from worker.core import Outcome
from worker.core.rules.credit import REFUNDABLE, free_units_of
from worker.ledger import rows
from worker.ledger.bulk import among
from worker.ledger.queries.features import feature_in
from worker.ledger.queries.operation_filter import OperationFilter, conditions
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import operations, usage_refunds


class ChargeKey(NamedTuple):
    """Key of a charge: of its operation."""

    slot: int
    operation_id: int


@dataclass(frozen=True, slots=True)
class KindCount:
    """Number of operations of a type and a status."""

    type: str
    status: str
    count: int


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
    """Operations that match a filter: all of them counted, and the keys of the charges, oldest first."""

    kinds: tuple[KindCount, ...]
    charges: tuple[ChargeKey, ...]

    @property
    def total(self) -> int:
        """Number of operations."""
        return sum(kind.count for kind in self.kinds)


def matching_operations(connection: Connection, wanted: OperationFilter) -> MatchingOperations:
    """Return the operations that match. Raises QueryError for a sender that has sent nothing."""
    where = conditions(connection, wanted)
    operation = operations.c
    counts: dict[tuple[str, str], int] = {}
    keys: list[ChargeKey] = []
    for slots in parts_of(connection):
        own = [in_slots(operation.slot, slots), *where]
        kinds = select(operation.type, operation.status, func.count()).where(*own)
        for type_, status, count in connection.execute(kinds.group_by(operation.type, operation.status)):
            counts[type_, status] = counts.get((type_, status), 0) + count
        charged = select(operation.slot, operation.operation_id).where(*own, _is_charge())
        keys += [ChargeKey(*row) for row in connection.execute(charged.order_by(operation.operation_id))]
    return MatchingOperations(tuple(KindCount(*kind, count) for kind, count in counts.items()), tuple(keys))


def _is_charge() -> ColumnElement[bool]:
    operation = operations.c
    return and_(operation.type.in_(sorted(REFUNDABLE)), operation.status == Status.APPLIED.value)


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
