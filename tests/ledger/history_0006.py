"""Ledgers of revision 0006: one that its worker wrote, with everything in it, and large plain ones."""

from pathlib import Path
from string import Template

from sqlalchemy import Engine

from worker.ledger.migrations import migrate

_HISTORY = Path(__file__).with_name("ledger_0006.sql")
#: Entries of each account of a large ledger.
EACH = 40


def write_history(engine: Engine) -> None:
    """Write the worker's history to an empty database."""
    migrate(engine, "0006")
    with engine.begin() as connection:
        for statement in _HISTORY.read_text(encoding="utf-8").split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def write_deductions(engine: Engine, entries: int) -> None:
    """Write many deductions of one token to an empty database; ``EACH`` entries an account, in rounds."""
    migrate(engine, "0006")
    is_postgresql = engine.dialect.name == "postgresql"
    identity = "OVERRIDING SYSTEM VALUE" if is_postgresql else ""
    with engine.begin() as connection:
        if is_postgresql:  # the rows are true: the audit proves it afterwards
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in (_ACCOUNTS, _OPERATIONS, _ENTRIES, _LOTS):
            filled = Template(statement).substitute(
                entries=entries, accounts=entries // EACH, each=EACH, identity=identity
            )
            connection.exec_driver_sql(filled)


_AT, _MONTH_LATER = "'2026-11-22 10:15:00.000000'", "'2026-12-22 10:15:00.000000'"
_ACCOUNT = "n - n / $accounts * $accounts + 1"
_USER = f"'user-' || ({_ACCOUNT})"
_COUNTED = (
    "WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n + 1 < {size}) SELECT"
)
_ALL, _EACH_ACCOUNT = _COUNTED.format(size="$entries"), _COUNTED.format(size="$accounts")
# An account has its allocation first, and then one deduction after the other.
_IS_OPENING = "n < $accounts"
_SEQUENCE = "n / $accounts + 1"
_AFTER = f"1000 + 1 - ({_SEQUENCE})"

_ACCOUNTS = f"""
INSERT INTO accounts (account_id, user_id, tier, balance, sequence, allocated, used, lot_count, anchor,
    granted_until, due_at, period_granted, opened_at, updated_at)
$identity
{_EACH_ACCOUNT} n + 1, 'user-' || (n + 1), 'free', 1001 - $each, $each, 1000, $each - 1, 1, {_AT},
    {_MONTH_LATER}, {_MONTH_LATER}, 1000, {_AT}, {_AT}
FROM counted
"""

_OPERATIONS = f"""
INSERT INTO operations (operation_id, reference_id, type, user_id, attempt, content, status, code, amount,
    balance_before, balance_after, detail, first_entry, last_entry, recorded_at)
$identity
{_ALL} n + 1, 'reference-' || n,
    CASE WHEN {_IS_OPENING} THEN 'account.open' ELSE 'usage.deduct' END, {_USER}, 1,
    CASE WHEN {_IS_OPENING} THEN '{{"tier":"free"}}' ELSE '{{"tokens":1}}' END, 'applied',
    CASE WHEN {_IS_OPENING} THEN 'account_opened' ELSE 'tokens_deducted' END,
    CASE WHEN {_IS_OPENING} THEN 1000 ELSE 1 END,
    CASE WHEN {_IS_OPENING} THEN 0 ELSE {_AFTER} + 1 END, {_AFTER}, NULL, {_SEQUENCE}, {_SEQUENCE}, {_AT}
FROM counted
"""

_ENTRIES = f"""
INSERT INTO entries (account_id, sequence, operation_id, counter, amount, balance_before, balance_after, lot,
    occurred_at, recorded_at)
{_ALL} {_ACCOUNT}, {_SEQUENCE}, n + 1,
    CASE WHEN {_IS_OPENING} THEN 'allocation' ELSE 'usage' END,
    CASE WHEN {_IS_OPENING} THEN 1000 ELSE -1 END,
    CASE WHEN {_IS_OPENING} THEN 0 ELSE {_AFTER} + 1 END, {_AFTER}, 1, {_AT}, {_AT}
FROM counted
"""

_LOTS = f"""
INSERT INTO lots (account_id, number, operation_id, source, granted, remaining, is_open, priority,
    effective_at, expires_at)
{_EACH_ACCOUNT} n + 1, 1, n + 1, 'allocation', 1000, 1001 - $each, true, 10, {_AT}, {_MONTH_LATER}
FROM counted
"""
