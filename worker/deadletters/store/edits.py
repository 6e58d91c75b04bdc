"""Edits of a dead letter's body; the original stays."""

from dataclasses import dataclass

from sqlalchemy import insert, update

from worker.catalog import Catalog
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.store import queries, tables
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.deadletters.store.filters import described
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.deadletters.tokens import tokens_affected
from worker.errors import NotPossibleError


@dataclass(frozen=True, slots=True)
class BodyChange:
    """A new body as an operator asks for it; ``instead_of`` is the body that the operator saw."""

    body: bytes
    instead_of: bytes
    reason: str
    actor: str


@in_transaction
def edit(
    transaction: DeadLetterTransaction, number: int, change: BodyChange, catalog: Catalog | None
) -> None:
    """Set the body that a replay sends; the original stays, and a body equal to it takes the edit back.

    Raises NotFoundError. Raises NotPossibleError where the dead letter is not parked, or its body is another
    one than the operator saw.
    """
    actor, why = actor_named(change.actor), reason_given(change.reason)
    dead_letter = queries.dead_letter(transaction.connection, number)
    _require_editable(dead_letter, change)
    body = None if change.body == dead_letter.body else change.body
    edited = insert(tables.dead_letter_edits).returning(tables.dead_letter_edits.c.edit_id)
    edit_id = transaction.connection.execute(
        edited,
        {
            "number": number,
            "at": transaction.now,
            "actor": actor,
            "reason": why,
            "before": dead_letter.current_body,
            "after": change.body,
        },
    ).scalar_one()
    transaction.connection.execute(
        update(tables.dead_letters).where(tables.dead_letters.c.number == number).values(edited_body=body)
    )
    transaction.change(
        transaction.dead_letters([number])[number], tokens_at_stake=tokens_affected(change.body, catalog)
    )
    transaction.add_event(
        number, "edited", actor=actor, text=why, edit=edit_id, taken_back=body is None or None
    )
    transaction.record(actor, "edit", described([number]), why, {"edit": edit_id})


def _require_editable(dead_letter: StoredDeadLetter, change: BodyChange) -> None:
    """Raise NotPossibleError where the edit is not possible."""
    name, status = f"dead letter {dead_letter.number}", dead_letter.status
    if status != DeadLetterStatus.PARKED:
        where = f"; see replay {dead_letter.replay_id}" if status == DeadLetterStatus.REPLAYING else ""
        raise NotPossibleError(f"{name} is {status}, and only a parked one can be edited{where}")
    if dead_letter.current_body != change.instead_of:
        raise NotPossibleError(f"{name} was edited by somebody else meanwhile: look at it again")
    if change.body == dead_letter.current_body:
        raise NotPossibleError(f"the body of {name} is that already: nothing to change")
