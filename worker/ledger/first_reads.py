"""First reads of a small batch: its accounts, locked; the outcomes of its references; its accounts' lots.

Each of them has to see what another worker wrote while this one waited for the locks. A small batch sends
two statements in one text, one that locks and one that reads all three: it waits once for the server.
"""

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from sqlalchemy import Connection

from worker.core.known import AccountState, Lot
from worker.ledger import rows
from worker.ledger.bulk import Keys, PreparedStatement, executed_together, locking
from worker.ledger.records import array
from worker.ledger.round_trips import is_of_batches
from worker.ledger.row_sql import first_reads_sql, first_reads_types
from worker.ledger.tables import accounts, lots, operations

#: Most users, and references, that are read together: each row has the columns of all three.
_FEW = 16
_LOT = len(rows.ACCOUNT)
_OUTCOME = _LOT + len(rows.LOT)


class FirstReads(NamedTuple):
    """Accounts by user, rows of stored outcomes, and open lots by account, in the order of numbers."""

    accounts: dict[str, AccountState]
    outcomes: list[Any]
    lots: dict[int, list[Lot]]


def are_read_together(connection: Connection, users: Collection[str], references: Collection[str]) -> bool:
    """Return True where ``read_together`` takes them: few, and on a connection of batches."""
    return 0 < len(users) <= _FEW and len(references) <= _FEW and is_of_batches(connection)


def read_together(
    connection: Connection, users: Collection[str], references: Collection[str], slots: Sequence[int]
) -> FirstReads:
    """Lock the accounts of ``users``, then read them with their lots, and the outcomes of ``references``.

    These are references of the whole ledger.
    """
    keys = Keys(sorted(users), slots)
    read = PreparedStatement(
        first_reads_sql(accounts, rows.ACCOUNT, lots, rows.LOT, operations, rows.OPERATION, keys.slotted),
        "read_accounts",
        first_reads_types(accounts, operations, keys.slotted),
        [*keys.parameters, array(sorted(references))],
    )
    reads = FirstReads({}, [], {})
    for row in executed_together(connection, locking(accounts, "user_id", keys), read):
        account, lot, outcome = row[:_LOT], row[_LOT:_OUTCOME], row[_OUTCOME:]
        if account[0] is not None:
            state = rows.account(account)
            reads.accounts[state.user_id] = state
        elif lot[0] is not None:
            reads.lots.setdefault(lot[0], []).append(rows.lot(lot))
        else:
            reads.outcomes.append(SimpleNamespace(**dict(zip(rows.OPERATION, outcome, strict=True))))
    return reads
