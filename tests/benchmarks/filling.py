"""Filling of an empty ledger on PostgreSQL with a year of traffic, as a worker leaves it.

Every account was opened on the free tier, was given a credit for ever, gave up its subscription, and has used
tokens since. A few heavy accounts have used them all the year round. The others were opened one after the
other and then come in rounds, each in an order of its own: so what an account wrote lies far apart, and its
neighbours are others each time. All of it is arithmetic on the number of the moment, so that a chunk
needs no other; nothing is random, and the same ledger can be filled again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import gcd
from random import Random
from typing import Any

from sqlalchemy import Connection, Engine, text

from worker.ledger.identifiers import SYMBOLS, number_of
from worker.ledger.ids import SHARED

Progress = Callable[[str, int, int], None]

_CHUNK = 250_000
_YEAR = timedelta(days=365)
_OPENING = 3  # entries: what the tier allocates, the credit, and the end of the allocation

ALLOCATED, GIVEN = 10_000, 10_000_000


@dataclass(frozen=True, slots=True)
class Filling:
    """Size of a filling: ``entries`` in all, up to ``until`` (a whole second), of ``accounts`` accounts.

    ``heavy`` of these have ``heavy_entries`` each, spread evenly over the year. Raises ValueError where that
    is more than there are, or an account would be left without its three entries of the opening.
    """

    entries: int
    accounts: int
    until: datetime
    heavy: int = 5
    heavy_entries: int = 100_000

    def __post_init__(self) -> None:
        if self.light < 1 or self.light_uses < 0 or self.heavy_entries < _OPENING:
            raise ValueError(f"{self.entries} entries are too few for {self.accounts} accounts")
        if self.until.microsecond:
            raise ValueError("a filling ends with a whole second")

    @property
    def light(self) -> int:
        """Number of accounts that are not heavy."""
        return self.accounts - self.heavy

    @property
    def heavy_uses(self) -> int:
        """The deductions of all heavy accounts."""
        return self.heavy * (self.heavy_entries - _OPENING)

    @property
    def light_uses(self) -> int:
        """The deductions of all others."""
        return self.entries - _OPENING * self.accounts - self.heavy_uses

    @property
    def moments(self) -> int:
        """Moments of the year at which something is recorded: a light account opened, or a deduction."""
        return self.light + self.light_uses + self.heavy_uses

    @property
    def used(self) -> int:
        """Number of all deductions."""
        return self.light_uses + self.heavy_uses

    def user(self, number: int) -> str:
        """The user of the account with this number, from 1; the heavy ones come first."""
        return f"user-{number - 1:06}"

    def parameters(self) -> dict[str, Any]:
        """Parameters of the statements."""
        orders = list(_orders(self.light, self.light_uses // self.light + 2))
        last = self.light_uses // self.light + 1
        return {
            "heavy": self.heavy,
            "light": self.light,
            "accounts": self.accounts,
            "heavy_uses": self.heavy_uses,
            "heavy_each": self.heavy_entries - _OPENING,
            "light_uses": self.light_uses,
            "moments": self.moments,
            "start": self.until - _YEAR,
            "seconds": int(_YEAR.total_seconds()),
            "orders": orders,
            "places": [pow(order, -1, self.light) for order in orders],
            "last_round": last,
            "allocated": ALLOCATED,
            "given": GIVEN,
        }


def _orders(light: int, rounds: int) -> Iterator[int]:
    """A factor for each round that reaches every account once; the first keeps their order."""
    yield 1
    chance = Random(light)
    for _ in range(rounds - 1):
        while gcd(order := chance.randint(1, light), light) != 1:
            pass
        yield order


def fill(engine: Engine, filling: Filling, progress: Progress) -> None:
    """Fill the ledger behind ``engine``, which is migrated and empty, and VACUUM ANALYZE it.

    In one transaction. Foreign keys are not looked at on the way, which takes a superuser: the audit proves
    what they would. Primary and unique keys are built when the rows are there.
    """
    parameters = filling.parameters()
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        connection.execute(text("SET LOCAL jit = off"))
        with _keys_built_afterwards(connection, progress):
            for statement in (_ACCOUNTS, _LOTS):
                connection.execute(text(statement), parameters)
            connection.execute(text(_HEAVY_OPENED), parameters)
            for low in range(0, filling.moments, _CHUNK):
                high = min(low + _CHUNK, filling.moments)
                connection.execute(text(_MOMENTS), {**parameters, "low": low, "high": high})
                progress("filling", high, filling.moments)
        connection.execute(text(_NEXT_ID), {"shared": SHARED})
    progress("vacuuming", 0, 1)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM (ANALYZE)"))
    progress("vacuuming", 1, 1)


@contextmanager
def _keys_built_afterwards(connection: Connection, progress: Progress) -> Iterator[None]:
    """Drop the keys and indexes of operations and entries, and restore them.

    All but the primary key of the operations, on which the foreign keys stand; it is filled in its order.
    """
    constraints = connection.execute(text(_CONSTRAINTS)).all()
    indexes = connection.execute(text(_INDEXES)).all()
    for row in constraints:
        connection.execute(text(f"ALTER TABLE {row.table} DROP CONSTRAINT {row.name}"))
    for row in indexes:
        connection.execute(text(f"DROP INDEX {row.name}"))
    yield
    again = [f"ALTER TABLE {row.table} ADD CONSTRAINT {row.name} {row.definition}" for row in constraints]
    again += [row.definition for row in indexes]
    for done, statement in enumerate(again):
        progress("building keys", done, len(again))
        connection.execute(text(statement))
    progress("building keys", len(again), len(again))


_CONSTRAINTS = """
SELECT conrelid::regclass::text AS table, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint
WHERE contype IN ('p', 'u') AND conrelid IN ('entries'::regclass, 'operations'::regclass)
    AND conname <> 'pk_operations'
"""

_INDEXES = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
FROM pg_index
WHERE indrelid IN ('entries'::regclass, 'operations'::regclass)
    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid)
"""

_NEXT_ID = """
INSERT INTO id_counters (counter, next_id)
SELECT :shared, 1 + greatest(
    (SELECT max(account_id) FROM accounts), (SELECT max(operation_id) FROM operations)
)
ON CONFLICT (counter) DO UPDATE SET next_id = excluded.next_id
"""

_USER = "'user-' || lpad((%s - 1)::text, 6, '0')"
_SLOT = f"get_byte(sha256(convert_to({_USER}, 'UTF8')), 0) >> 2"

# Rows of accounts: tokens of one deduction, number of deductions, times of the opening and of the last
# deduction. The moment of a use is the first by which so many are due.
_HISTORY = """
WITH numbered AS (
    SELECT number, number - CAST(:heavy AS bigint) - 1 AS place
    FROM generate_series(1, CAST(:accounts AS bigint)) AS number
), counted AS (
    SELECT number, place, 1 + number % 9 AS tokens,
        CASE WHEN place < 0 THEN :heavy_each
            ELSE CAST(:light_uses AS bigint) / :light
                + CASE WHEN place * (CAST(:places AS bigint[]))[:last_round + 1] % :light
                    < CAST(:light_uses AS bigint) % :light THEN 1 ELSE 0 END
        END AS uses
    FROM numbered
), placed AS (
    SELECT number, tokens, uses,
        CASE WHEN place < 0 THEN -1 ELSE place * :moments / (:moments - :heavy_uses) END AS first_moment,
        CASE WHEN place < 0
            THEN (((uses - 1) * :heavy + number) * :moments + :heavy_uses - 1) / :heavy_uses - 1
            ELSE (uses * :light + place * (CAST(:places AS bigint[]))[uses + 1] % :light)
                * :moments / (:moments - :heavy_uses)
        END AS last_moment
    FROM counted
), history AS (
    SELECT number, tokens, uses,
        CAST(:start AS timestamptz) + (first_moment + 1) * :seconds / (:moments + 1) * interval '1 second'
            AS opened_at,
        CAST(:start AS timestamptz)
            + (CASE WHEN uses = 0 THEN first_moment ELSE last_moment END + 1) * :seconds / (:moments + 1)
            * interval '1 second' AS updated_at
    FROM placed
)
"""

_ACCOUNTS = f"""
INSERT INTO accounts (account_id, slot, user_id, tier, balance, sequence, allocated, bonus, used, expired,
    lot_count, anchor, granted_until, period_granted, ends_at, due_at, opened_at, updated_at)
{_HISTORY}
SELECT number, {_SLOT % "number"}, {_USER % "number"}, 'free', :given - tokens * uses, 3 + uses,
    :allocated, :given, tokens * uses, :allocated, 2, opened_at, opened_at + interval '1 month', 0,
    opened_at, CASE WHEN updated_at < opened_at + interval '1 month' THEN opened_at + interval '1 month' END,
    opened_at, updated_at
FROM history ORDER BY number
"""  # noqa: S608 - both are texts of this file

# The operations that opened the heavy accounts come first, then one or three a moment.
_LOTS = f"""
INSERT INTO lots (slot, account_id, number, operation_id, source, granted, remaining, is_open, priority,
    effective_at, expires_at, ended_at)
{_HISTORY}, opened AS (
    SELECT *, CASE WHEN number <= :heavy THEN 3 * number - 2
        ELSE 3 * :heavy + 1 + (number - :heavy - 1) * :moments / (:moments - :heavy_uses)
            + 2 * (number - :heavy - 1) END AS operation_id
    FROM history
)
SELECT {_SLOT % "number"}, number, lot, operation_id + lot - 1,
    CASE lot WHEN 1 THEN 'allocation' ELSE 'bonus' END,
    CASE lot WHEN 1 THEN :allocated ELSE :given END,
    CASE lot WHEN 1 THEN 0 ELSE :given - tokens * uses END,
    lot = 2, 10 * lot, opened_at, CASE lot WHEN 1 THEN opened_at + interval '1 month' END,
    CASE lot WHEN 1 THEN opened_at END
FROM opened CROSS JOIN (VALUES (1), (2)) AS lots (lot) ORDER BY number, lot
"""  # noqa: S608 - the same


def _numbers(type_: str, code: str, counter: str) -> str:
    """Return the numbers and the symbol of the three names, as part of a row."""
    return f"{number_of('type', type_)}, {number_of('code', code)}, CAST('{SYMBOLS[counter]}' AS \"char\")"


# ``uses`` counts the deductions of the account so far, with this one; 0 where the account is opened.
_BOOKED = f"""
booked AS MATERIALIZED (
    SELECT done.account_id, done.operation_id + step.later AS operation_id, done.at, step.*, reference.*,
        {_SLOT % "done.account_id"} AS slot,
        CASE step.kind WHEN 'used' THEN 1 + done.account_id % 9 WHEN 'given' THEN :given
            ELSE :allocated END AS amount,
        CASE step.kind WHEN 'opened' THEN 0 WHEN 'given' THEN :allocated
            WHEN 'canceled' THEN :allocated + :given
            ELSE :given - (1 + done.account_id % 9) * (done.uses - 1) END AS balance_before,
        step.place + done.uses AS sequence,
        CASE WHEN done.uses > 0
            THEN (ARRAY['transcription', 'translation', 'ocr', NULL])[1 + done.operation_id % 4]
        END AS feature,
        CASE WHEN done.uses > 0 THEN done.at - CASE WHEN done.operation_id % 50 = 0 THEN 21600
            ELSE done.operation_id % 97 END * interval '1 second' END AS occurred_at
    FROM done
    JOIN (VALUES
        ('opened', {_numbers("account.open", "account_opened", "allocation")}, 1, 1, 0, 1),
        ('given', {_numbers("credit.bonus", "bonus_granted", "bonus")}, 1, 2, 1, 2),
        ('canceled', {_numbers("subscription.cancel", "subscription_canceled", "expiry")}, -1, 3, 2, 1),
        ('used', {_numbers("usage.deduct", "tokens_deducted", "usage")}, -1, 3, 0, 2)
    ) AS step (kind, type, code, counter, sign, place, later, lot) ON (step.kind = 'used') = (done.uses > 0)
    CROSS JOIN LATERAL (
        SELECT CAST(md5((done.operation_id + step.later)::text) AS uuid)::text AS reference_id
    ) AS reference
), operated AS (
    INSERT INTO operations (operation_id, slot, reference_id, type, user_id, attempt, content, status, code,
        amount, balance_before, balance_after, detail, occurred_at, first_entry, recorded_at)
    SELECT operation_id, slot, reference_id, type, {_USER % "account_id"}, 1,
        CASE kind WHEN 'opened' THEN '{{"tier":"free"}}' WHEN 'canceled' THEN '{{"at":"now"}}'
            ELSE '{{' || coalesce('"feature":"' || feature || '",', '') || '"tokens":' || amount || '}}' END,
        {number_of("status", "applied")}, code, amount, CASE WHEN sign > 0 THEN balance_before END,
        balance_before + sign * amount,
        CASE kind WHEN 'opened' THEN jsonb_build_object('tier', 'free')
            WHEN 'canceled'
                THEN jsonb_build_object('period_end', to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS') || '+00:00') END,
        occurred_at, sequence, at
    FROM booked ORDER BY operation_id
)
INSERT INTO entries (account_id, sequence, slot, operation_id, counter, amount, balance_after, lot, is_due,
    occurred_at, recorded_at)
SELECT account_id, sequence, slot, operation_id, counter, sign * amount, balance_before + sign * amount, lot,
    false, coalesce(occurred_at, at), at
FROM booked ORDER BY operation_id
"""  # noqa: S608 - all are texts of this file

_HEAVY_OPENED = f"""
WITH done AS (
    SELECT number AS account_id, 3 * number - 2 AS operation_id, CAST(:start AS timestamptz) AS at,
        CAST(0 AS bigint) AS uses
    FROM generate_series(1, CAST(:heavy AS bigint)) AS number
), {_BOOKED}
"""  # noqa: S608 - the same

_MOMENTS = f"""
WITH spread AS (
    SELECT moment, moment * :heavy_uses / :moments AS heavy_before,
        (moment + 1) * :heavy_uses / :moments > moment * :heavy_uses / :moments AS is_heavy
    FROM generate_series(CAST(:low AS bigint), CAST(:high AS bigint) - 1) AS moment
), done AS (
    SELECT
        CASE WHEN is_heavy THEN heavy_before % nullif(:heavy, 0) + 1
            ELSE :heavy + 1 + (moment - heavy_before) % :light
                * (CAST(:orders AS bigint[]))[(moment - heavy_before) / :light + 1] % :light
        END AS account_id,
        3 * :heavy + 1 + moment + 2 * least(moment - heavy_before, :light) AS operation_id,
        CAST(:start AS timestamptz) + (moment + 1) * :seconds / (:moments + 1) * interval '1 second' AS at,
        CASE WHEN is_heavy THEN heavy_before / nullif(:heavy, 0) + 1
            ELSE (moment - heavy_before) / :light END AS uses
    FROM spread
), {_BOOKED}
"""  # noqa: S608 - the same
