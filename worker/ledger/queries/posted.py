"""State of an account as it is posted, and as it is when what is due is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from worker.catalog import Catalog
from worker.core import Account, AccountState, Hold, Known, Lot, account_now
from worker.ledger import rows
from worker.ledger.bulk import Keys, select_rows
from worker.ledger.loading import open_holds, open_lots
from worker.ledger.queries.snapshots import AccountKey, account_row
from worker.ledger.tables import quota_entries, quotas


@dataclass(frozen=True, slots=True)
class PostedState:
    """Posted state of an account: its open lots and holds, and the time of its last entry.

    Nothing is known of it before ``known_since``, when it was opened or imported.
    """

    state: AccountState
    lots: Sequence[Lot]
    holds: Sequence[Hold]
    opened_at: datetime
    known_since: datetime
    updated_at: datetime

    def now(self, now: datetime, catalog: Catalog) -> Account:
        """Return the account with all that is due at ``now``, as the worker would post it."""
        return account_now(self.state, self.lots, self.holds, now, catalog)

    def known(self) -> Known:
        """Return all that ``decide`` would read, for a command that names nothing else."""
        state = self.state
        return Known(
            accounts={state.user_id: state},
            lots={state.account_id: list(self.lots)},
            holds={state.account_id: list(self.holds)},
        )


def posted_state(connection: Connection, user_id: str) -> PostedState:
    """Return the posted state of ``user_id``. Raises NotFoundError."""
    row = account_row(connection, user_id)
    state = state_in(row)
    return PostedState(
        state=state,
        lots=open_lots(connection, [state]).get(state.account_id, ()),
        holds=open_holds(connection, [state] if state.held else []).get(state.account_id, ()),
        opened_at=row.opened_at,
        known_since=row.imported_at or row.opened_at,
        updated_at=row.posted_at or row.imported_at or row.opened_at,
    )


def state_in(row: Row[Any]) -> AccountState:
    """Return the state from a row that has the account's columns, perhaps among others."""
    return rows.account(getattr(row, name) for name in rows.ACCOUNT)


def quotas_used(connection: Connection, key: AccountKey, period: date) -> Mapping[str, int]:
    """Return the used part of each quota in the period that begins on that day, in the meter's unit."""
    wanted, own = ("meter", "used"), Keys([key.account_id], [key.slot])
    used = select_rows(connection, quotas, wanted, "account_id", own, also=("period_start", [period]))
    return {row.meter: row.used for row in used}


def quotas_used_at(connection: Connection, key: AccountKey, period: date, at: datetime) -> Mapping[str, int]:
    """Return the same as it was at ``at``."""
    entry = quota_entries.c
    statement = (
        select(entry.meter, func.sum(entry.amount).label("used"))
        .where(key.owns(quota_entries), entry.period_start == period, entry.recorded_at <= at)
        .group_by(entry.meter)
    )
    return {row.meter: int(row.used) for row in connection.execute(statement)}
