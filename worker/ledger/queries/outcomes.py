"""Stored outcomes of references."""

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import Connection

from schemas import slot_of
from worker.core import Outcome
from worker.ledger.loading import judged_under
from worker.ledger.references import references_of
from worker.ledger.slots import is_slot_by_slot


def stored_outcomes(connection: Connection, references: Collection[str]) -> dict[str, Outcome]:
    """Return the outcomes in force of those ``references`` that have one, by reference.

    One statement; where a statement may touch one slot alone, one for the owners and one a slot.
    """
    if not is_slot_by_slot(connection):
        return judged_under(connection, references, None).outcomes
    by_slot: dict[int, list[str]] = defaultdict(list)
    for reference_id, owner in references_of(connection).owners(connection, references).items():
        by_slot[slot_of(owner.user_id)].append(reference_id)
    found: dict[str, Outcome] = {}
    for slot, own in by_slot.items():
        found |= judged_under(connection, own, slot).outcomes
    return found
