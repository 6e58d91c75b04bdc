"""Other slots: what a transaction of one slot must know of references that users of other slots have.

It is found before the transaction begins. A reference that a command takes from a usage of another slot is
marked there first, in a transaction of that slot: from then on the usage can't be judged anew. Only then is
the claim bound to the taker. A crash between the steps leaves a reference that nobody has, and the taker's
message, which comes again.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, update

from schemas import Code, Command, Status, slot_of
from worker.core.needs import needs_of, references_of
from worker.core.outcomes import Outcome
from worker.core.plan import Plan
from worker.core.superseded import ATTEMPTS_AHEAD_MAX, may_supersede, takes_from_usage
from worker.errors import ContentionError
from worker.ledger.loading import judged_under
from worker.ledger.references import ABANDONED_AFTER, AWAITED_FOR, Owner, References
from worker.ledger.tables import operations


def _by_slot(users: Iterable[tuple[str, str]]) -> dict[int, set[str]]:
    """Return references, which are given with users, by the users' slots."""
    found: dict[int, set[str]] = {}
    for reference, user_id in users:
        found.setdefault(slot_of(user_id), set()).add(reference)
    return found


class OtherSlots:
    """References between slots, each step in a transaction of its own.

    ``beside`` has the claims, which may lie in another database than the ledger's ``engine``.
    """

    def __init__(self, engine: Engine, references: References, beside: Engine) -> None:
        self._engine, self._references, self._beside = engine, references, beside

    def judged(self, commands: Sequence[Command], slot: int, now: datetime) -> dict[str, Outcome]:
        """Claim the references of ``commands``, and return the outcomes under those that other slots have.

        What a command takes from a usage of another slot is taken here. Raises ContentionError where another
        worker is at such a reference.
        """
        named = needs_of(commands).references
        by_reference = {
            reference: command for command in reversed(commands) for reference in references_of(command)
        }
        # One that is too far ahead makes no operation, and would keep others from the reference.
        users = {
            reference: command.user_id
            for command in commands
            if _is_first(command)
            for reference in references_of(command)
        }
        with self._beside.begin() as connection:
            self._references.claim(connection, users, now)
            owners = self._references.owners(connection, named)
            self._references.renew(connection, _own_old(owners, users, now), now)
        others = (
            (reference, owner.user_id)
            for reference, owner in owners.items()
            if slot_of(owner.user_id) != slot or users.get(reference, owner.user_id) != owner.user_id
        )
        found: dict[str, Outcome] = {}
        for other, references in sorted(_by_slot(others).items()):
            with self._engine.begin() as connection:
                judged = judged_under(connection, references, other)
            lost = {outcome.reference_id: outcome for outcome in judged.taken}
            for reference in sorted(references):
                stored = judged.outcomes.get(reference) or lost.get(reference)
                is_taken = reference not in judged.outcomes
                command = by_reference.get(reference)
                if command is None:
                    if stored is not None and not is_taken:
                        found[reference] = stored
                elif stored is None:
                    self._take_abandoned(reference, command, owners[reference], now, found)
                elif other == slot and not is_taken:
                    pass  # the transaction reads it itself, under the locks of its accounts
                elif may_supersede(command.type, stored) and (is_taken or _is_first(command)):
                    self._take(stored, command, now, is_taken=is_taken)
                else:
                    found[reference] = stored
        return found

    def take(self, plan: Plan, now: datetime) -> None:
        """Bind the references that ``plan`` takes to their takers.

        They are of usage of the same slot. One of another slot is marked with the plan, where the taker's
        attempt is so high that ``decide`` must see the stored one.
        """
        takers = {outcome.reference_id: outcome.user_id for outcome in plan.outcomes}
        for lost in plan.taken:
            with self._beside.begin() as connection:
                self._references.take(
                    connection, lost.reference_id, lost.user_id, takers[lost.reference_id], now
                )

    def _take(self, stored: Outcome, taker: Command, now: datetime, *, is_taken: bool) -> None:
        if not is_taken:
            with self._engine.begin() as connection:
                _mark(connection, stored)
        with self._beside.begin() as connection:
            if not self._references.take(connection, stored.reference_id, stored.user_id, taker.user_id, now):
                raise ContentionError(f"another worker has taken the reference {stored.reference_id!r}")

    def _take_abandoned(
        self, reference: str, command: Command, owner: Owner, now: datetime, found: dict[str, Outcome]
    ) -> None:
        """Take a claim without an operation once it is old; until then it is its owner's."""
        with self._beside.begin() as connection:
            before = now - ABANDONED_AFTER
            taker = command.user_id
            if self._references.take(connection, reference, owner.user_id, taker, now, before=before):
                return
        if (
            owner.claimed_at is not None
            and now < owner.claimed_at + AWAITED_FOR
            and takes_from_usage(command.type)
        ):
            raise ContentionError(f"the operation of the claim to {reference!r} is to come")
        found[reference] = Outcome(
            reference,
            command.type,
            owner.user_id,
            attempt=1,
            content="{}",
            status=Status.APPLIED,
            code=Code.UNPROCESSABLE,
            recorded_at=now,
        )


def _is_first(command: Command) -> bool:
    """Return True where nothing need be stored before the command: else it is known by what is stored."""
    return command.attempt <= ATTEMPTS_AHEAD_MAX


def _own_old(owners: Mapping[str, Owner], users: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return the claims of these users that another one could soon take over, by reference."""
    old = now - ABANDONED_AFTER / 2
    return {
        reference: owner.user_id
        for reference, owner in owners.items()
        if owner.claimed_at is not None and owner.claimed_at < old and users.get(reference) == owner.user_id
    }


def _mark(connection: Connection, stored: Outcome) -> None:
    """Mark a usage as one whose reference was taken, where nothing has judged it anew meanwhile."""
    operation = operations.c
    marked = connection.execute(
        update(operations)
        .where(
            operation.slot == slot_of(stored.user_id),
            operation.operation_id == stored.transaction_id,
            operation.attempt == stored.attempt,
            ~operation.is_taken,
        )
        .values(is_taken=True)
    )
    if marked.rowcount != 1:
        raise ContentionError("another worker has judged a reference of this batch anew")
