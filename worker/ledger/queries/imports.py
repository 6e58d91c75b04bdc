"""Imports before and after they are sent: the answer that each would get, and what the ledger has of it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from schemas import ImportAccount, slot_of, type_of
from worker.catalog import Catalog
from worker.core import AccountState, Answer, Counter, Known, Outcome, decide
from worker.core.needs import references_of
from worker.core.rules.imports import PAYMENT_IMPORT
from worker.ledger import rows
from worker.ledger.bulk import Keys, select_by, select_rows
from worker.ledger.identifiers import SYMBOLS
from worker.ledger.loading import judged_under, superseded_by
from worker.ledger.row_sql import IsKey
from worker.ledger.slots import is_slot_by_slot, parts_of
from worker.ledger.tables import accounts, entries, operations, quota_entries

_TYPE = type_of(ImportAccount)
# A statement of ours has the symbols, one of SQLAlchemy's the names.
_COUNTERS: Mapping[str, Counter] = {
    **{symbol: Counter(name) for name, symbol in SYMBOLS.items()},
    **{counter.value: counter for counter in Counter},
}


@dataclass(slots=True)
class PostedImport:
    """Sums that the ledger posted of an import: by counter-account (signed), by quota, and its payments."""

    sums: dict[Counter, int] = field(default_factory=dict)
    quotas: dict[str, int] = field(default_factory=dict)
    payments: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def balance(self) -> int:
        """Return the balance that follows from the entries."""
        return sum(self.sums.values())


def foreseen(
    connection: Connection, commands: Sequence[ImportAccount], now: datetime, catalog: Catalog
) -> Sequence[Answer]:
    """Return the answer that each command would get now, as ``decide`` gives it; nothing is written."""
    known = Known()
    references = {reference for command in commands for reference in references_of(command)}
    for slots in parts_of(connection):
        judged = judged_under(connection, references, slots.only)
        known.outcomes.update(judged.outcomes)
        known.superseded.lost.update(superseded_by(connection, commands, judged).lost)
    for place, command in enumerate(commands, 1):
        user_id = command.user_id
        known.accounts[user_id] = AccountState(-place, user_id, command.tier, now, now)
        known.just_opened.add(user_id)
    for state in _states(connection, [command.user_id for command in commands]):
        known.accounts[state.user_id] = state
        known.just_opened.discard(state.user_id)
    return decide(commands, known, now, catalog).answers


def _states(connection: Connection, users: Collection[str]) -> Iterator[AccountState]:
    """Yield the accounts that users have; nothing is due of them, since nothing is to be posted."""
    for keys in _keys(connection, [(user, user) for user in users]):
        for row in select_rows(connection, accounts, rows.ACCOUNT, "user_id", keys):
            yield replace(rows.account(row), due_at=None)


def posted_imports(connection: Connection, commands: Sequence[ImportAccount]) -> dict[str, PostedImport]:
    """Return what the ledger posted of these imports, by reference; none for one that it hasn't applied."""
    wanted = [(reference, command.user_id) for command in commands for reference in references_of(command)]
    found = {
        outcome.reference_id: outcome
        for keys in _keys(connection, wanted)
        for outcome in judged_by(connection, keys)
        if outcome.is_applied and outcome.type in (_TYPE, PAYMENT_IMPORT)
    }
    posted = {
        command.reference_id: PostedImport(
            payments={
                payment.reference_id: found[payment.reference_id]
                for payment in command.payments
                if payment.reference_id in found
            }
        )
        for command in commands
        if command.reference_id in found
    }
    by_operation = {found[name].transaction_id: one for name, one in posted.items()}
    for keys in _keys(connection, [(found[name].transaction_id, found[name].user_id) for name in posted]):
        for row in select_by(connection, _import_entries, keys):
            by_operation[row.operation_id].sums[_COUNTERS[row.counter]] = int(row.amount)
        for row in select_by(connection, _import_quotas, keys):
            by_operation[row.operation_id].quotas[row.meter] = int(row.amount)
    return posted


def judged_by(connection: Connection, keys: Keys) -> Iterator[Outcome]:
    """Yield the outcomes in force under references."""
    for row in select_rows(connection, operations, rows.OPERATION, "reference_id", keys):
        if not row.is_taken:
            yield rows.outcome(row)


def _keys(connection: Connection, owned: Iterable[tuple[Any, str]]) -> Iterator[Keys]:
    """Yield keys, which are given with their users, with their slots: those of one slot where it must be."""
    by_slot: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    is_apart = is_slot_by_slot(connection)
    for key, user_id in owned:
        slot = slot_of(user_id)
        by_slot[slot if is_apart else 0].append((key, slot))
    for pairs in by_slot.values():
        yield Keys([key for key, _ in pairs], [slot for _, slot in pairs])


def _import_entries(is_asked_for: IsKey) -> Select[Any]:
    """Select the sums of the entries of imports and their payments, without what was due with them."""
    entry, operation, own = entries.c, operations.c, operations.alias("own")
    return (
        select(operation.operation_id, entry.counter, func.sum(entry.amount).label("amount"))
        .join_from(operations, accounts, _is_account())
        .join(entries, and_(entry.slot == accounts.c.slot, entry.account_id == accounts.c.account_id))
        .join(own, and_(own.c.slot == entry.slot, own.c.operation_id == entry.operation_id))
        .where(
            is_asked_for(operation.operation_id),
            entry.recorded_at == operation.recorded_at,
            ~entry.is_due,
            own.c.type.in_([_TYPE, PAYMENT_IMPORT]),
        )
        .group_by(operation.operation_id, entry.counter)
    )


def _import_quotas(is_asked_for: IsKey) -> Select[Any]:
    """Select what imports counted of quotas."""
    entry, operation = quota_entries.c, operations.c
    return (
        select(operation.operation_id, entry.meter, func.sum(entry.amount).label("amount"))
        .join_from(operations, accounts, _is_account())
        .join(quota_entries, and_(entry.slot == accounts.c.slot, entry.account_id == accounts.c.account_id))
        .where(is_asked_for(operation.operation_id), entry.operation_id == operation.operation_id)
        .group_by(operation.operation_id, entry.meter)
    )


def _is_account() -> Any:
    return and_(accounts.c.slot == operations.c.slot, accounts.c.user_id == operations.c.user_id)
