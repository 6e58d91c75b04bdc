"""Tables of the ledger. Their constraints keep it true even where Python is wrong.

Entries, quota entries, payments and their events, refunds, parts of holds and superseded outcomes can't be
updated or deleted; an applied operation and a closed hold can't be changed, nor what a lot was granted as.
The migrations add the triggers that refuse it, on both dialects.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB


class UtcDateTime(TypeDecorator[datetime]):
    """Aware time, kept in UTC: ``timestamptz`` on PostgreSQL, naive UTC on SQLite, which has no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a time to the column's value; refuse a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value.isoformat()} for a UTC column")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert the column's value to an aware time in UTC."""
        if value is None or value.tzinfo is UTC:  # a session of ours is in UTC
            return value
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

#: One row for each user: the sums of the entries, which can always be computed again from them. ``adjusted``
#: is signed, and so is ``reversed``, where more was given back than taken.
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
    Column("adjusted", BigInteger, nullable=False, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
    Column("expired", BigInteger, nullable=False, server_default="0"),
    Column("reversed", BigInteger, nullable=False, server_default="0"),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("debt", BigInteger, nullable=False, server_default="0"),
    Column("lot_count", BigInteger, nullable=False, server_default="0"),
    Column("alerts", SmallInteger, nullable=False, server_default="0"),
    Column("anchor", UtcDateTime, nullable=False),
    Column("granted_until", UtcDateTime, nullable=False),
    Column("period_granted", BigInteger, nullable=False, server_default="0"),
    Column("ends_at", UtcDateTime),
    Column("due_at", UtcDateTime),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("user_id"),
    # Users are searched by the beginnings of their names, which only this order serves. SQLite has it.
    Index("ix_accounts_user_id_c", text('user_id COLLATE "C"')).ddl_if(dialect="postgresql"),
    # What falls due is found by its time, page by page; accounts that wait for nothing are not in the way.
    Index(
        "ix_accounts_due_at",
        "due_at",
        "account_id",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
    CheckConstraint("balance >= held - debt", name="held_is_covered"),
    CheckConstraint(
        "balance = allocated + purchased + bonus + refunded + adjusted - used - expired - reversed",
        name="balance_is_its_sums",
    ),
    CheckConstraint("sequence >= 0 AND lot_count >= 0", name="numbers_not_negative"),
    CheckConstraint(
        "allocated >= 0 AND purchased >= 0 AND bonus >= 0 AND refunded >= 0 AND used >= 0"
        " AND expired >= 0 AND held >= 0 AND debt >= 0 AND period_granted >= 0",
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
        Column("first_entry", BigInteger),
        Column("last_entry", BigInteger),
        Column("notices", JsonObject),
        Column("recorded_at", UtcDateTime, nullable=False),
    ]


_ABOUT_SUBSCRIPTIONS = (
    "type IN ('account.open', 'subscription.change', 'subscription.renew', 'subscription.cancel')"
)

#: One row for each reference, for ever: the unique key decides what is new.
operations = Table(
    "operations",
    metadata,
    Column("operation_id", RowId, Identity(always=True), primary_key=True),
    Column("reference_id", Text, nullable=False),
    *_outcome_columns(),
    UniqueConstraint("reference_id"),
    CheckConstraint("status IN ('applied', 'rejected')", name="status_known"),
    CheckConstraint(
        "status = 'rejected' OR (amount >= 0 AND balance_before IS NOT NULL AND balance_after IS NOT NULL)",
        name="applied_has_amounts",
    ),
    CheckConstraint(
        "status = 'applied' OR (amount IS NULL AND first_entry IS NULL AND notices IS NULL)",
        name="rejected_moves_nothing",
    ),
    # Commands about a subscription are looked up by user; usage, which is nearly all, isn't in this index.
    Index(
        "ix_operations_subscriptions",
        "user_id",
        postgresql_where=text(_ABOUT_SUBSCRIPTIONS),
        sqlite_where=text(_ABOUT_SUBSCRIPTIONS),
    ),
    CheckConstraint("first_entry <= last_entry", name="entries_in_order"),
    CheckConstraint("attempt >= 1", name="attempt_from_one"),
)

#: Outcomes that others replaced: rejections by a higher attempt, and usage that moved nothing by a command of
#: another kind that its reference belongs to. A late redelivery still gets its reply.
superseded_outcomes = Table(
    "superseded_outcomes",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), nullable=False),
    Column("reference_id", Text, nullable=False),
    *_outcome_columns(),
    PrimaryKeyConstraint("reference_id", "attempt", "type", "user_id"),
    *(
        CheckConstraint(
            "status = 'rejected' OR (code IN ('tokens_deducted', 'free_upload_counted', 'usage_recorded')"
            " AND coalesce(amount, -1) = 0 AND first_entry IS NULL"
            f" AND coalesce({free_quantity}, 0) = 0)",
            name="moved_nothing",
        ).ddl_if(dialect=dialect)
        for dialect, free_quantity in (
            ("postgresql", "(detail ->> 'free_quantity')::bigint"),
            ("sqlite", "json_extract(detail, '$.free_quantity')"),
        )
    ),
)

#: Every movement of tokens: between a lot of the account (or its debt, where there is none) and a named
#: counter-account, so that each row is a balanced double entry.
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
    Column("lot", BigInteger),
    Column("feature", Text),
    Column("due_at", UtcDateTime),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("account_id", "sequence"),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("balance_after = balance_before + amount", name="after_is_before_plus_amount"),
    CheckConstraint(
        "(counter IN ('usage', 'expiry') AND amount < 0 AND lot IS NOT NULL)"
        " OR (counter IN ('allocation', 'purchases', 'bonus', 'refunds') AND amount > 0)"
        " OR counter IN ('adjustments', 'reversals', 'transfers')",
        name="counter_gives_the_sign",
    ),
)

#: One row for each credit: what is left of it, which can always be computed again from the entries that name
#: it. The number counts the lots of the account. Small and rewritten all the time, like the accounts.
lots = Table(
    "lots",
    metadata,
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id)),
    Column("source", Text, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("pending", BigInteger, nullable=False, server_default="0"),
    Column("is_open", Boolean, nullable=False),
    Column("is_noticed", Boolean, nullable=False, server_default=text("false")),
    Column("priority", SmallInteger, nullable=False),
    Column("effective_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("parent", BigInteger),
    PrimaryKeyConstraint("account_id", "number"),
    ForeignKeyConstraint(["account_id", "parent"], ["lots.account_id", "lots.number"], name="fk_lots_parent"),
    # The one thing of a lot that is indexed changes when it is used up, and not with every deduction (HOT).
    Index("ix_lots_open", "account_id", postgresql_where=text("is_open"), sqlite_where=text("is_open")),
    CheckConstraint("number >= 1", name="number_from_one"),
    CheckConstraint("granted > 0", name="granted_positive"),
    CheckConstraint("held >= 0 AND remaining >= held AND pending >= 0", name="amounts_not_negative"),
    CheckConstraint("remaining + pending <= granted", name="no_more_than_granted"),
    CheckConstraint("is_open = (remaining > 0 OR pending > 0)", name="open_while_something_is_left"),
    CheckConstraint("expires_at > effective_at", name="expires_after_it_takes_effect"),
    CheckConstraint(
        "source IN ('allocation', 'purchase', 'purchase_bonus', 'bonus', 'refund', 'adjustment',"
        " 'carried_over')",
        name="source_known",
    ),
    postgresql_with={"fillfactor": "80"},
)

#: Tokens kept for work to come. The hold is named by the operation that opened it, and ends once.
holds = Table(
    "holds",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), primary_key=True),
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("reference_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("captured", BigInteger, nullable=False, server_default="0"),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("closed_by", BigInteger, ForeignKey(operations.c.operation_id)),
    Index(None, "account_id"),
    Index(
        "ix_holds_open",
        "account_id",
        postgresql_where=text("state = 'open'"),
        sqlite_where=text("state = 'open'"),
    ),
    CheckConstraint("state IN ('open', 'settled', 'released', 'expired')", name="state_known"),
    CheckConstraint("amount > 0 AND captured >= 0", name="amounts_not_negative"),
    CheckConstraint("state = 'settled' OR captured = 0", name="only_settled_captures"),
    CheckConstraint(
        "(state = 'open') = (closed_at IS NULL) AND (state = 'open') = (closed_by IS NULL)",
        name="closed_has_an_end",
    ),
)

#: Lots from which a hold keeps its tokens, in the order in which they are to be spent.
hold_parts = Table(
    "hold_parts",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(holds.c.operation_id), nullable=False),
    Column("place", Integer, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("lot", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("operation_id", "place"),
    ForeignKeyConstraint(["account_id", "lot"], ["lots.account_id", "lots.number"], name="fk_hold_parts_lot"),
    CheckConstraint("amount > 0", name="amount_positive"),
)

#: Refunds of usage, one row for each.
usage_refunds = Table(
    "usage_refunds",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), primary_key=True),
    Column("original_id", BigInteger, ForeignKey(operations.c.operation_id), nullable=False),
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Index(None, "original_id"),
    CheckConstraint("tokens > 0", name="tokens_positive"),
)

#: Used part of a period's quota, which can always be computed again from the quota entries.
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

#: Events of payments, and their effect: tokens taken back (or given back, negative) and written off.
#: An event may come before its payment, which is therefore named by its reference.
payment_events = Table(
    "payment_events",
    metadata,
    Column("operation_id", BigInteger, ForeignKey(operations.c.operation_id), primary_key=True),
    Column("account_id", BigInteger, ForeignKey(accounts.c.account_id), nullable=False),
    Column("payment_reference", Text, nullable=False),
    Column("happened", Text, nullable=False),
    Column("dispute_id", Text),
    Column("amount_minor", BigInteger),
    Column("currency", String(3)),
    Column("occurred_at", UtcDateTime),
    Column("collected", BigInteger, nullable=False, server_default="0"),
    Column("uncollected", BigInteger, nullable=False, server_default="0"),
    Column("recorded_at", UtcDateTime, nullable=False),
    Index(None, "payment_reference"),
    CheckConstraint(
        "happened IN ('refunded', 'disputed', 'dispute_won', 'dispute_lost', 'failed', 'succeeded')",
        name="happened_known",
    ),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
)

# -- how the workers run: nothing of the ledger ------------------------------------------------------------

#: Rows that a probe writes: more than a page, so that a full disk refuses it too.
write_probes = Table(
    "write_probes",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("payload", LargeBinary, nullable=False),
)

#: A message on trial as a possible poison message: a row that is left is a crash it was part of.
#: ``together`` is how many were tried in one group, ``alone`` how often it was tried by itself,
#: ``delivery_count`` the broker's count by then: the message has a higher one after a crash, a copy has not.
trials = Table(
    "trials",
    metadata,
    Column("message_key", String(64), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("together", Integer, nullable=False),
    Column("alone", Integer, nullable=False),
    Column("delivery_count", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    CheckConstraint("together > 0 AND alone >= 0", name="counts_possible"),
)

#: A lane that a worker has paused; ``config`` is the configuration of that worker.
lane_pauses = Table(
    "lane_pauses",
    metadata,
    Column("pause_id", RowId, Identity(always=True), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("resumed_by", Text),
    Index(None, "ended_at", "queue"),
)

#: Configurations that workers have shown to be right: a version, a catalog and settings, as one digest.
accepted_configs = Table(
    "accepted_configs",
    metadata,
    Column("config", Text, primary_key=True),
    Column("accepted_at", UtcDateTime, nullable=False),
    Column("accepted_by", Text, nullable=False),
)
