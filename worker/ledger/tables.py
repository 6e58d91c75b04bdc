"""The tables. Their constraints hold the ledger true even where Python is wrong.

Entries, quota entries, payments and superseded outcomes can't be updated or deleted, and an applied
operation can't be changed: the migrations add the triggers that refuse it, on both dialects.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept in UTC: ``timestamptz`` on PostgreSQL, naive UTC on SQLite, which has no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the column; refuses a naive time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value.isoformat()} for a UTC column")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the column, aware and in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite gives a row number only to a column that is spelled INTEGER.
RowId = BigInteger().with_variant(Integer(), "sqlite")
JsonObject = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

#: One row a user: the sums of the entries, always to be had again from them.
accounts = Table(
    "accounts",
    metadata,
    Column("account_id", RowId, Identity(always=True), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("balance", BigInteger, nullable=False, server_default="0"),
    Column("sequence", BigInteger, nullable=False, server_default="0"),
    Column("allocated", BigInteger, nullable=False, server_default="0"),
    Column("purchased", BigInteger, nullable=False, server_default="0"),
    Column("bonus", BigInteger, nullable=False, server_default="0"),
    Column("refunded", BigInteger, nullable=False, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("user_id"),
    CheckConstraint("balance >= 0", name="balance_not_negative"),
    CheckConstraint("balance = allocated + purchased + bonus + refunded - used", name="balance_is_its_sums"),
    CheckConstraint("sequence >= 0", name="sequence_not_negative"),
    CheckConstraint(
        "allocated >= 0 AND purchased >= 0 AND bonus >= 0 AND refunded >= 0 AND used >= 0",
        name="sums_not_negative",
    ),
    # Balances are rewritten all the time: room on the page keeps the update off the indexes (HOT).
    postgresql_with={"fillfactor": "80"},
)


def _outcome_columns() -> list[Column[Any]]:
    return [
        Column("type", Text, nullable=False),
        Column("user_id", Text, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("content", Text, nullable=False),
        Column("status", Text, nullable=False),
        Column("code", Text, nullable=False),
        Column("amount", BigInteger),
        Column("balance_before", BigInteger),
        Column("balance_after", BigInteger),
        Column("detail", JsonObject),
        Column("occurred_at", UtcDateTime),
        Column("metadata", JsonObject),
        Column("description", Text),
        Column("recorded_at", UtcDateTime, nullable=False),
    ]


#: One row a reference, for ever: the unique key is the judge of what is new.
operations = Table(
    "operations",
    metadata,
    Column("operation_id", RowId, Identity(always=True), primary_key=True),
    Column("reference_id", Text, nullable=False),
    *_outcome_columns(),
    UniqueConstraint("reference_id"),
    CheckConstraint("status IN ('applied', 'rejected')", name="status_known"),
    CheckConstraint(
        "status = 'rejected' OR (amount >= 0 AND balance_after >= 0)", name="applied_has_amounts"
    ),
    CheckConstraint("status = 'applied' OR amount IS NULL", name="rejected_moves_nothing"),
    CheckConstraint("attempt >= 1", name="attempt_from_one"),
)

#: Rejections that a higher attempt replaced; a late redelivery of the old attempt still gets its answer.
superseded_outcomes = Table(
    "superseded_outcomes",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), nullable=False),
    Column("reference_id", Text, nullable=False),
    *_outcome_columns(),
    PrimaryKeyConstraint("reference_id", "attempt"),
    CheckConstraint("status = 'rejected'", name="only_rejections"),
)

#: Every movement of tokens: from or to a named counter-account, so that each row is a balanced double entry.
entries = Table(
    "entries",
    metadata,
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), nullable=False),
    Column("counter", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance_before", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("feature", Text),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("account_id", "sequence"),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("balance_after = balance_before + amount", name="after_is_before_plus_amount"),
    CheckConstraint("balance_before >= 0 AND balance_after >= 0", name="balances_not_negative"),
    CheckConstraint(
        "(counter = 'usage' AND amount < 0)"
        " OR (counter IN ('allocation', 'purchases', 'bonus', 'refunds') AND amount > 0)",
        name="counter_gives_the_sign",
    ),
)

#: How much of a period's quota is used; always to be had again from the quota entries.
quotas = Table(
    "quotas",
    metadata,
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("meter", Text, nullable=False),
    Column("period_start", Date, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    PrimaryKeyConstraint("account_id", "meter", "period_start"),
    CheckConstraint("used >= 0", name="used_not_negative"),
)

#: Every movement of a quota, in the meter's unit.
quota_entries = Table(
    "quota_entries",
    metadata,
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("meter", Text, nullable=False),
    Column("period_start", Date, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("used_before", BigInteger, nullable=False),
    Column("used_after", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("account_id", "meter", "period_start", "sequence"),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("used_after = used_before + amount", name="after_is_before_plus_amount"),
    CheckConstraint("used_before >= 0 AND used_after >= 0", name="used_not_negative"),
)

#: Payments as they were taken, in minor units, and the tokens they bought.
payments = Table(
    "payments",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), primary_key=True),
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("package_id", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("base_tokens", BigInteger, nullable=False),
    Column("bonus_tokens", BigInteger, nullable=False),
    Column("provider", Text),
    Column("recorded_at", UtcDateTime, nullable=False),
    Index(None, "account_id"),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
    CheckConstraint("base_tokens > 0 AND bonus_tokens >= 0", name="tokens_positive"),
)

#: Dead letters, drained from their queue so that they can be seen without being disturbed.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("number", RowId, Identity(always=True), primary_key=True),
    Column("letter_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("field", Text),
    Column("traceback", Text),
    Column("queue", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_failed_at", UtcDateTime, nullable=False),
    Column("last_failed_at", UtcDateTime, nullable=False),
    Column("type", Text),
    Column("reference_id", Text),
    Column("user_id", Text),
    Column("worker_version", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("properties", JsonObject, nullable=False),
    Column("note", Text),
    UniqueConstraint("letter_id"),
    CheckConstraint("status IN ('parked', 'replayed', 'discarded')", name="status_known"),
    CheckConstraint("attempts >= 1", name="attempts_from_one"),
)
