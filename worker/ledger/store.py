"""The store: one transaction loads what the ledger knows about a batch and writes what was decided.

The order keeps it free of lost updates and, where it can, of deadlocks: accounts that may be missing are
made first, then all accounts of the batch are locked, in order of their users; only then are the outcomes
of the references read, so that a worker that had to wait sees what the other one wrote. The references are
claimed when their outcomes are inserted, in sorted order: the unique key is the judge, and whoever loses
there (ContentionError) begins again and finds the winner's outcome.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, select, tuple_
from sqlalchemy import text as sql_text

from schemas import Code, Command, FreeUpload, OpenAccount, Status
from worker.core.known import FREE_UPLOAD_METER, AccountState, Known, QuotaKey, QuotaState, period_start
from worker.core.outcomes import Outcome
from worker.core.plan import Entry, Payment, Plan
from worker.errors import ContentionError
from worker.ledger.bulk import among, insert_rows, update_rows
from worker.ledger.engine import translated_errors
from worker.ledger.tables import (
    accounts,
    entries,
    operations,
    payments,
    quota_entries,
    quotas,
    superseded_outcomes,
)


class Ledger:
    """The ledger behind one database. Cheap to make; connects when first used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator["Books"]:
        """One transaction: commits at the end of the block, rolls back when it raises.

        Raises ContentionError (try again), LedgerUnavailableError (wait, try again).
        """
        with translated_errors(), self._engine.begin() as connection:
            yield Books(connection)

    def probe(self) -> None:
        """Raises LedgerUnavailableError unless the database answers."""
        with translated_errors(), self._engine.connect() as connection:
            connection.execution_options(read_only=True).execute(sql_text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class Books:
    """The ledger inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- load ---------------------------------------------------------------------------------------------

    def load(self, commands: Sequence[Command], now: datetime) -> Known:
        """All that ``decide`` needs to know about ``commands``; locks their accounts until the commit."""
        just_opened = self._make_missing_accounts(commands, now)
        known = Known(accounts=self._locked_accounts(commands), just_opened=just_opened)
        known.outcomes = self._outcomes(commands)
        known.superseded = self._superseded(commands, known.outcomes)
        known.quotas = self._quotas(commands, known.accounts, now)
        return known

    def _make_missing_accounts(self, commands: Sequence[Command], now: datetime) -> set[str]:
        tiers = {c.user_id: c.tier for c in reversed(commands) if isinstance(c, OpenAccount)}
        rows = [
            {"user_id": user_id, "tier": tiers[user_id], "opened_at": now, "updated_at": now}
            for user_id in sorted(tiers)
        ]
        made = insert_rows(self._connection, accounts, rows, on_conflict="nothing", returning=("user_id",))
        return {row.user_id for row in made}

    def _locked_accounts(self, commands: Sequence[Command]) -> dict[str, AccountState]:
        users = sorted({command.user_id for command in commands})
        statement = (
            select(*(accounts.c[name] for name in _ACCOUNT_FIELDS))
            .where(among(self._connection, accounts.c.user_id, users))
            .order_by(accounts.c.user_id)
            .with_for_update()  # SQLite has the write lock already and leaves this out
        )
        return {row.user_id: AccountState(*row) for row in self._connection.execute(statement)}

    def _outcomes(self, commands: Sequence[Command]) -> dict[str, Outcome]:
        references = sorted({command.reference_id for command in commands})
        statement = select(operations).where(among(self._connection, operations.c.reference_id, references))
        return {row.reference_id: _outcome(row) for row in self._connection.execute(statement)}

    def _superseded(
        self, commands: Sequence[Command], outcomes: Mapping[str, Outcome]
    ) -> dict[tuple[str, int], Outcome]:
        late = sorted(
            {
                (command.reference_id, command.attempt)
                for command in commands
                if (stored := outcomes.get(command.reference_id)) is not None
                and command.attempt < stored.attempt
            }
        )
        if not late:
            return {}
        table = superseded_outcomes
        statement = select(table).where(tuple_(table.c.reference_id, table.c.attempt).in_(late))
        return {(row.reference_id, row.attempt): _outcome(row) for row in self._connection.execute(statement)}

    def _quotas(
        self, commands: Sequence[Command], known: Mapping[str, AccountState], now: datetime
    ) -> dict[QuotaKey, QuotaState]:
        users = {command.user_id for command in commands if isinstance(command, FreeUpload)}
        ids = sorted(known[user_id].account_id for user_id in users if user_id in known)
        if not ids:
            return {}
        period = period_start(now)
        statement = (
            select(quotas.c.account_id, quotas.c.used, quotas.c.sequence)
            .where(quotas.c.meter == FREE_UPLOAD_METER, quotas.c.period_start == period)
            .where(among(self._connection, quotas.c.account_id, ids))
        )
        return {
            QuotaKey(row.account_id, FREE_UPLOAD_METER, period): QuotaState(row.used, row.sequence)
            for row in self._connection.execute(statement)
        }

    # -- write --------------------------------------------------------------------------------------------

    def write(self, plan: Plan, known: Known, now: datetime) -> None:
        """Write ``plan``, which was decided on ``known``; its outcomes have their transaction ids afterwards.

        Raises ContentionError where another worker has claimed a reference or moved an account meanwhile.
        """
        self._claim(plan)
        self._supersede(plan)
        insert_rows(self._connection, entries, [_entry_row(entry) for entry in plan.entries])
        self._count_quotas(plan)
        insert_rows(self._connection, payments, [_payment_row(payment) for payment in plan.payments])
        self._move_accounts(plan, now)
        self._drop_unopened(plan, known)

    def _drop_unopened(self, plan: Plan, known: Known) -> None:
        if unopened := sorted(known.just_opened - plan.opened):
            self._connection.execute(
                delete(accounts).where(among(self._connection, accounts.c.user_id, unopened))
            )

    def _claim(self, plan: Plan) -> None:
        fresh = sorted(plan.outcomes, key=lambda outcome: outcome.reference_id)
        claimed = insert_rows(
            self._connection,
            operations,
            [_outcome_row(outcome) for outcome in fresh],
            on_conflict="nothing",
            returning=("reference_id", "operation_id"),
        )
        if len(claimed) != len(fresh):
            raise ContentionError("another worker has claimed a reference of this batch")
        ids = {row.reference_id: row.operation_id for row in claimed}
        for outcome in fresh:
            outcome.transaction_id = ids[outcome.reference_id]

    def _supersede(self, plan: Plan) -> None:
        if not plan.rejudged:
            return
        for stored, outcome in plan.rejudged:
            outcome.transaction_id = stored.transaction_id
        replaced = [
            {"operation_id": stored.transaction_id, **_outcome_row(stored)} for stored, _ in plan.rejudged
        ]
        insert_rows(self._connection, superseded_outcomes, replaced)
        first = {stored.reference_id: stored for stored, _ in reversed(plan.rejudged)}
        latest = {outcome.reference_id: outcome for _, outcome in plan.rejudged}
        rows = [
            {**_outcome_row(latest[reference_id]), "expected_attempt": first[reference_id].attempt}
            for reference_id in sorted(latest)
        ]
        changed = update_rows(
            self._connection, operations, rows, key="reference_id", guard={"attempt": "expected_attempt"}
        )
        if changed != len(rows):
            raise ContentionError("another worker has judged a reference of this batch anew")

    def _count_quotas(self, plan: Plan) -> None:
        latest = {entry.key: entry for entry in plan.quota_entries}
        rows = [
            {**key._asdict(), "used": entry.used_after, "sequence": entry.sequence}
            for key, entry in sorted(latest.items())
        ]
        insert_rows(self._connection, quotas, rows, on_conflict="update")
        insert_rows(
            self._connection,
            quota_entries,
            [
                {
                    **entry.key._asdict(),
                    "sequence": entry.sequence,
                    "operation_id": entry.outcome.transaction_id,
                    "amount": entry.amount,
                    "used_before": entry.used_before,
                    "used_after": entry.used_after,
                    "recorded_at": entry.recorded_at,
                }
                for entry in plan.quota_entries
            ],
        )

    def _move_accounts(self, plan: Plan, now: datetime) -> None:
        rows = [
            {
                "account_id": account.account_id,
                "tier": account.tier,
                "balance": account.balance,
                "sequence": account.sequence,
                "allocated": account.allocated,
                "purchased": account.purchased,
                "bonus": account.bonus,
                "refunded": account.refunded,
                "used": account.used,
                "updated_at": now,
                "expected_sequence": before,
            }
            for user_id, (account, before) in plan.accounts.items()
            if account.sequence != before or user_id in plan.opened
        ]
        moved = update_rows(
            self._connection, accounts, rows, key="account_id", guard={"sequence": "expected_sequence"}
        )
        if moved != len(rows):
            raise ContentionError("an account of this batch moved although it was locked")


_ACCOUNT_FIELDS = (
    "account_id",
    "user_id",
    "tier",
    "balance",
    "sequence",
    "allocated",
    "purchased",
    "bonus",
    "refunded",
    "used",
)


def _outcome(row: Row[Any]) -> Outcome:
    return Outcome(
        reference_id=row.reference_id,
        type=row.type,
        user_id=row.user_id,
        attempt=row.attempt,
        content=row.content,
        status=Status(row.status),
        code=Code(row.code),
        recorded_at=row.recorded_at,
        amount=row.amount,
        balance_before=row.balance_before,
        balance_after=row.balance_after,
        detail=row.detail or {},
        occurred_at=row.occurred_at,
        metadata=row.metadata,
        description=row.description,
        transaction_id=row.operation_id,
    )


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    return {
        "reference_id": outcome.reference_id,
        "type": outcome.type,
        "user_id": outcome.user_id,
        "attempt": outcome.attempt,
        "content": outcome.content,
        "status": outcome.status,
        "code": outcome.code,
        "amount": outcome.amount,
        "balance_before": outcome.balance_before,
        "balance_after": outcome.balance_after,
        "detail": outcome.detail or None,
        "occurred_at": outcome.occurred_at,
        "metadata": outcome.metadata or None,
        "description": outcome.description,
        "recorded_at": outcome.recorded_at,
    }


def _entry_row(entry: Entry) -> dict[str, Any]:
    return {
        "account_id": entry.account_id,
        "sequence": entry.sequence,
        "operation_id": entry.outcome.transaction_id,
        "counter": entry.counter,
        "amount": entry.amount,
        "balance_before": entry.balance_before,
        "balance_after": entry.balance_after,
        "feature": entry.feature,
        "occurred_at": entry.occurred_at,
        "recorded_at": entry.recorded_at,
    }


def _payment_row(payment: Payment) -> dict[str, Any]:
    return {
        "operation_id": payment.outcome.transaction_id,
        "account_id": payment.account_id,
        "package_id": payment.package_id,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "base_tokens": payment.base_tokens,
        "bonus_tokens": payment.bonus_tokens,
        "provider": payment.provider,
        "recorded_at": payment.recorded_at,
    }
