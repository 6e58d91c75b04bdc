"""References: one reference is one operation in the whole ledger.

On one database the unique key of the operations judges that, and nothing else is needed. Where the ledger
is distributed, no key spans all slots: a *claim* says whose a reference is. It is committed before the
operation, in a transaction of its own, and binds the reference to a user, not to an attempt; that this user's
operation is written once is still the work of the unique key in the user's slot. A claim without an operation
is what a crash left: its user's message comes again.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Row, update

from schemas import slot_of
from worker.errors import ContentionError
from worker.ledger.bulk import Keys, RowUpdate, insert_rows, select_rows, write_all
from worker.ledger.records import Columns
from worker.ledger.slots import is_slot_by_slot
from worker.ledger.tables import claims, operations

#: Age of a claim without an operation at which no transaction can still be on its way to write it.
ABANDONED_AFTER = timedelta(minutes=10)
#: Age up to which the operation of a claim is awaited, by a command that may then take the reference.
AWAITED_FOR = timedelta(seconds=5)


class Owner(NamedTuple):
    """User whose a reference is, and since when it is claimed; None where it isn't known."""

    user_id: str
    claimed_at: datetime | None = None


class References(Protocol):
    """Knowledge of whose a reference is."""

    def claim(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Claim references for ``users``, by reference, as far as nobody has them."""
        ...

    def owners(self, connection: Connection, references: Collection[str]) -> dict[str, Owner]:
        """Return the owners of these references; none for a reference that nobody has."""
        ...

    def renew(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Begin the time of claims anew. Raises ContentionError where one isn't the user's any more."""
        ...

    def take(
        self,
        connection: Connection,
        reference_id: str,
        loser: str,
        taker: str,
        now: datetime,
        *,
        before: datetime | None = None,
    ) -> bool:
        """Make a reference of ``loser`` one of ``taker``; False where it is not, or was claimed later."""
        ...


def _is_in_force(row: Row[Any]) -> bool:
    return not row.is_taken


class UniqueKey:
    """References of one database: an operation that isn't taken has its reference."""

    def claim(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Do nothing: the operation itself is the claim."""

    def owners(self, connection: Connection, references: Collection[str]) -> dict[str, Owner]:
        """Return the users of the operations that have these references, else of those that lost them."""
        names, keys = ("reference_id", "user_id", "is_taken"), Keys(sorted(references))
        found = select_rows(connection, operations, names, "reference_id", keys)
        return {row.reference_id: Owner(row.user_id) for row in sorted(found, key=_is_in_force)}

    def renew(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Do nothing: an operation has no time."""

    def take(
        self,
        connection: Connection,
        reference_id: str,
        loser: str,
        taker: str,
        now: datetime,
        *,
        before: datetime | None = None,
    ) -> bool:
        """Do nothing: the loser's operation is marked as taken."""
        return True


class Claims:
    """References of a distributed ledger: the table of claims has them."""

    def claim(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Insert the claims that are missing, in order, so that no two workers wait for each other."""
        rows = [
            {"reference_id": reference, "user_id": user, "slot": slot_of(user), "claimed_at": now}
            for reference, user in sorted(users.items())
        ]
        insert_rows(connection, claims, rows, on_conflict="nothing")

    def owners(self, connection: Connection, references: Collection[str]) -> dict[str, Owner]:
        """Return the users who have claimed these references."""
        names, keys = ("reference_id", "user_id", "claimed_at"), Keys(sorted(references))
        found = select_rows(connection, claims, names, "reference_id", keys)
        return {row.reference_id: Owner(row.user_id, row.claimed_at) for row in found}

    def renew(self, connection: Connection, users: Mapping[str, str], now: datetime) -> None:
        """Begin the time of claims anew: a transaction is on its way to write their operations."""
        if not users:
            return
        columns: Columns = {
            "reference_id": list(users),
            "slot": [slot_of(user_id) for user_id in users.values()],
            "claimed_at": [now] * len(users),
            "expected_user": list(users.values()),
        }
        renewal = RowUpdate(claims, columns, ("reference_id",), (("user_id", "expected_user"),))
        if write_all(connection, [renewal]) != [len(users)]:
            raise ContentionError("another worker has taken a reference of this batch")

    def take(
        self,
        connection: Connection,
        reference_id: str,
        loser: str,
        taker: str,
        now: datetime,
        *,
        before: datetime | None = None,
    ) -> bool:
        """Bind the claim of ``loser`` to ``taker``."""
        claim = claims.c
        statement = (
            update(claims)
            .where(claim.reference_id == reference_id, claim.user_id == loser)
            .values(user_id=taker, slot=slot_of(taker), taken_from=loser, claimed_at=now)
        )
        if before is not None:
            statement = statement.where(claim.claimed_at < before)
        return connection.execute(statement).rowcount == 1


def references_of(connection: Connection) -> References:
    """Return what knows whose a reference is, in the database behind ``connection``."""
    return Claims() if is_slot_by_slot(connection) else UniqueKey()
