"""State of an account as it is posted, and as it is when what is due is counted."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from schemas import slot_of
from worker.catalog import Catalog
from worker.core import Account, AccountState, Hold, Known, Lot, account_now
from worker.core.known import QuotaKey, QuotaState, opened_by_use
from worker.ledger import rows
from worker.ledger.bulk import Keys, select_by
from worker.ledger.loading import open_holds, open_lots, present_quotas
from worker.ledger.queries.snapshots import AccountKey, account_row
from worker.ledger.row_sql import IsKey
from worker.ledger.slots import is_slot_by_slot
from worker.ledger.tables import accounts, entries, quota_entries


@dataclass(frozen=True, slots=True)
class PostedState:
    """Posted state of an account: its open lots and holds, and the time of its last entry.

    ``quotas`` are those of the present period, as far as they were read. Nothing is known of it before
    ``known_since``, when it was opened or imported.
    """

    state: AccountState
    lots: Sequence[Lot]
    holds: Sequence[Hold]
    opened_at: datetime
    known_since: datetime
    updated_at: datetime
    quotas: Mapping[QuotaKey, QuotaState] = field(default_factory=dict)

    def now(self, now: datetime, catalog: Catalog) -> Account:
        """Return the account with all that is due at ``now``, as the worker would post it."""
        return account_now(self.state, self.lots, self.holds, now, catalog)

    def known(self) -> Known:
        """Return all that ``decide`` would read, for a usage that names nothing else."""
        state = self.state
        return Known(
            accounts={state.user_id: state},
            lots={state.account_id: list(self.lots)},
            holds={state.account_id: list(self.holds)},
            quotas=dict(self.quotas),
        )


def state_to_open(user_id: str, tier: str, now: datetime) -> PostedState:
    """Return the state that a usage finds where it opens the account of ``user_id`` on ``tier``."""
    state = opened_by_use(0, user_id, tier, now)
    return PostedState(state, (), (), opened_at=now, known_since=now, updated_at=now)


def posted_state(connection: Connection, user_id: str) -> PostedState:
    """Return the posted state of ``user_id``, without quotas. Raises NotFoundError."""
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


def posted_states(connection: Connection, users: Collection[str], now: datetime) -> dict[str, PostedState]:
    """Return the posted states of those ``users`` that have an account, with the quotas of ``now``.

    Four statements for any number of users; where a statement may touch one slot alone, four a slot.
    """
    found: dict[str, PostedState] = {}
    for group in _groups(connection, users):
        slots = {slot_of(user_id) for user_id in group}
        rows_ = select_by(connection, _accounts_posted, Keys(group, list(slots)))
        states = [state_in(row) for row in rows_]
        lots = open_lots(connection, states, slots)
        holds = open_holds(connection, [state for state in states if state.held], slots)
        counted: dict[int, dict[QuotaKey, QuotaState]] = defaultdict(dict)
        for key, quota in present_quotas(connection, states, now, slots).items():
            counted[key.account_id][key] = quota
        for row, state in zip(rows_, states, strict=True):
            found[state.user_id] = PostedState(
                state=state,
                lots=lots.get(state.account_id, ()),
                holds=holds.get(state.account_id, ()),
                opened_at=row.opened_at,
                known_since=row.imported_at or row.opened_at,
                updated_at=row.posted_at or row.imported_at or row.opened_at,
                quotas=counted[state.account_id],
            )
    return found


def _groups(connection: Connection, users: Collection[str]) -> Iterable[list[str]]:
    """Return the users of one statement: all of them, or those of one slot."""
    if not is_slot_by_slot(connection):
        return [sorted(users)] if users else []
    by_slot: dict[int, list[str]] = defaultdict(list)
    for user_id in sorted(users):
        by_slot[slot_of(user_id)].append(user_id)
    return by_slot.values()


def _accounts_posted(is_asked_for: IsKey) -> Select[Any]:
    """Select accounts with ``posted_at``, the time of their last entry.

    A join tells the planner the slot of the entry, which a subquery would look for in all partitions.
    """
    is_last = and_(
        entries.c.slot == accounts.c.slot,
        entries.c.account_id == accounts.c.account_id,
        entries.c.sequence == accounts.c.sequence,
    )
    return (
        select(accounts, entries.c.recorded_at.label("posted_at"))
        .join_from(accounts, entries, is_last, isouter=True)
        .where(is_asked_for(accounts.c.user_id))
    )


def state_in(row: Row[Any]) -> AccountState:
    """Return the state from a row that has the account's columns, perhaps among others."""
    return rows.account(getattr(row, name) for name in rows.ACCOUNT)


def quotas_used_at(connection: Connection, key: AccountKey, period: date, at: datetime) -> Mapping[str, int]:
    """Return the used part at ``at`` of each quota in the period that begins on ``period``, in its unit."""
    entry = quota_entries.c
    statement = (
        select(entry.meter, func.sum(entry.amount).label("used"))
        .where(key.owns(quota_entries), entry.period_start == period, entry.recorded_at <= at)
        .group_by(entry.meter)
    )
    return {row.meter: int(row.used) for row in connection.execute(statement)}
