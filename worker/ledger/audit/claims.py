"""Checks of the claims of a distributed ledger: each operation has its reference by a claim.

A claim is committed before its operation, so that operations are read first. Claims and operations are never
joined: they are not distributed alike.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from schemas import Status
from worker.ledger.audit.report import Discrepancy
from worker.ledger.audit.scope import scope_of
from worker.ledger.audit.shares import SLOT_BY_SLOT
from worker.ledger.slots import Slots
from worker.ledger.tables import claims, operations

#: References that a statement looks up.
_PAGE = 5_000
#: Types in the index on commands about subscriptions, by user: imports are among them.
_ABOUT_SUBSCRIPTIONS = (
    "account.open",
    "subscription.change",
    "subscription.renew",
    "subscription.cancel",
    "account.import",
)


def differences(connection: Connection, slots: Slots, made_before: datetime) -> Iterator[Discrepancy]:
    """Find operations of a share without their claim, and claims of that age without their operation."""
    for slot in SLOT_BY_SLOT:
        if slots.first <= slot.first <= slots.last:
            yield from _unclaimed(connection, slot)
            yield from _unused(connection, slot, made_before)


def claimed_since(connection: Connection, references: Collection[str], moment: datetime) -> Iterator[str]:
    """Yield those of the references whose claim is of ``moment`` or later."""
    for some in pages(references):
        statement = select(claims.c.reference_id).where(
            claims.c.reference_id.in_(some), claims.c.claimed_at >= moment
        )
        yield from connection.execute(statement).scalars()


def pages(references: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield the references in lists that a statement can take."""
    in_order = sorted(references)
    for first in range(0, len(in_order), _PAGE):
        yield in_order[first : first + _PAGE]


def _unclaimed(connection: Connection, slot: Slots) -> Iterator[Discrepancy]:
    operation = operations.c
    statement = select(operation.reference_id, operation.user_id, operation.is_taken).where(
        scope_of(slot).of(operations)
    )
    for rows in _partitions(connection, slot, statement.order_by(operation.reference_id)):
        owners = _owners(connection, [row.reference_id for row in rows])
        for row in rows:
            user, taken_from = owners.get(row.reference_id, (None, None))
            if row.user_id != user and not (row.is_taken and row.user_id == taken_from):
                yield Discrepancy.of_reference("operation_without_claim", row.reference_id, row.user_id)


def _owners(connection: Connection, references: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return the user who has each reference, and the one from whom it was taken."""
    statement = select(claims.c.reference_id, claims.c.user_id, claims.c.taken_from).where(
        claims.c.reference_id.in_(references)
    )
    return {row.reference_id: (row.user_id, row.taken_from) for row in connection.execute(statement)}


def _unused(connection: Connection, slot: Slots, made_before: datetime) -> Iterator[Discrepancy]:
    claim = claims.c
    statement = select(claim.reference_id, claim.user_id).where(
        scope_of(slot).of(claims), claim.claimed_at < made_before
    )
    for rows in _partitions(connection, slot, statement.order_by(claim.reference_id)):
        used = _used(connection, slot, [row.reference_id for row in rows])
        unused = [row for row in rows if (row.reference_id, row.user_id) not in used]
        asked = _asked(connection, slot, {row.user_id for row in unused})
        for row in unused:
            if (row.reference_id, row.user_id) not in asked:
                yield Discrepancy.of_reference("claim_without_outcome", row.reference_id, row.user_id)


def _used(connection: Connection, slot: Slots, references: Sequence[str]) -> set[tuple[str, str]]:
    """Return the references that have an operation in the slot, each with its user."""
    operation = operations.c
    statement = select(operation.reference_id, operation.user_id).where(
        scope_of(slot).of(operations), operation.reference_id.in_(references)
    )
    return {(row.reference_id, row.user_id) for row in connection.execute(statement, slot._asdict())}


def _asked(connection: Connection, slot: Slots, users: Collection[str]) -> set[tuple[str, str]]:
    """Return the references of payments that rejected imports of ``users`` would have brought, with the user.

    The claim is the user's: a later import, or the payment itself, uses it.
    """
    operation = operations.c
    asked: set[tuple[str, str]] = set()
    for some in pages(users):
        statement = select(operation.user_id, operation.content).where(
            scope_of(slot).of(operations),
            operation.user_id.in_(some),
            operation.type.in_(_ABOUT_SUBSCRIPTIONS),
            operation.status == Status.REJECTED.value,
        )
        for row in connection.execute(statement, slot._asdict()):
            asked.update((one["referenceId"], row.user_id) for one in _payments_in(row.content))
    return asked


def _payments_in(content: str) -> list[dict[str, str]]:
    payments: list[dict[str, str]] = json.loads(content).get("payments", [])
    return payments


def _partitions(connection: Connection, slot: Slots, statement: Select[Any]) -> Iterator[Sequence[Any]]:
    """Yield the rows in lists of a page, as they come."""
    streamed = connection.execute(statement, slot._asdict(), execution_options={"yield_per": _PAGE})
    return streamed.partitions()
