"""Check of references that were taken: another command has each of them, perhaps in another slot."""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from worker.core.superseded import TAKES_FROM_USAGE
from worker.ledger.audit.claims import claimed_since, pages
from worker.ledger.audit.report import Discrepancy
from worker.ledger.audit.scope import scope_of
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.slots import Slots
from worker.ledger.tables import operations

_TAKERS = [name for name in IDENTIFIERS["type"] if name.startswith(TAKES_FROM_USAGE)]


def without_taker(
    connection: Connection,
    slots: Slots,
    divisions: Sequence[Slots],
    begin: Callable[[Connection], None],
    claims_before: datetime | None,
) -> Iterator[Discrepancy]:
    """Find each taken reference of ``slots`` that no command has which may take one.

    Takers are looked for in all ``divisions``, each in the snapshot that ``begin`` begins. In a distributed
    ledger one may not be there yet: a reference that was claimed since ``claims_before`` is no finding.
    """
    operation = operations.c
    statement = (
        select(operation.reference_id, operation.user_id)
        .where(scope_of(slots).of(operations), operation.is_taken)
        .order_by(operation.slot, operation.operation_id)
    )
    taken = connection.execute(statement, slots._asdict()).all()
    left = {row.reference_id for row in taken}
    for division in divisions:
        begin(connection)
        left.difference_update(_takers(connection, division, left))
    if claims_before is not None:
        left.difference_update(claimed_since(connection, left, claims_before))
    for row in taken:
        if row.reference_id in left:
            yield Discrepancy.of_reference("taken_without_taker", row.reference_id, row.user_id)


def _takers(connection: Connection, slots: Slots, references: Collection[str]) -> Iterator[str]:
    operation = operations.c
    for some in pages(references):
        statement = select(operation.reference_id).where(
            scope_of(slots).of(operations),
            ~operation.is_taken,
            operation.reference_id.in_(some),
            operation.type.in_(_TAKERS),
        )
        yield from connection.execute(statement, slots._asdict()).scalars()
