"""Tables of the ledger. Their constraints keep it true even where Python is wrong.

Every table of the ledger has the slot of its user, in every key: it can be distributed by slot. One key of
one database has none, that of the references, because they are unique in the whole ledger.

Entries, quota entries, payments and their events, refunds, parts of holds and superseded outcomes can't be
updated or deleted; an applied operation and a closed hold can't be changed, nor what a lot was granted as.
The migrations add the triggers that refuse it, on both dialects.
"""

from collections.abc import Callable
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
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine, UserDefinedType

from worker.ledger.identifiers import SYMBOLS, Kind, name_of, number_of


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


class Identifier(TypeDecorator[str]):
    """Name that is kept as its number, see ``identifiers``."""

    impl = SmallInteger
    cache_ok = True

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind

    def process_bind_param(self, value: str | int | None, dialect: Dialect) -> int | None:
        """Convert a name to its number; a number stays."""
        return number_of(self.kind, value) if isinstance(value, str) else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> str | None:
        """Convert a number to its name."""
        return None if value is None else name_of(self.kind, value)


class _OneByte(UserDefinedType[str]):
    """One symbol in one byte: PostgreSQL's ``"char"``, which isn't ``char(1)``."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return the name of the type."""
        return '"char"'

    def literal_processor(self, dialect: Dialect) -> Callable[[str], str]:
        """Return what quotes a symbol."""
        return "'{}'".format


class CounterSymbol(TypeDecorator[str]):
    """Name of a counter-account that is kept as its symbol, see ``identifiers``."""

    impl = String(1)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the narrowest type of the dialect."""
        return dialect.type_descriptor(_OneByte() if dialect.name == "postgresql" else String(1))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Convert a name to its symbol; a symbol stays."""
        return value if value is None or len(value) == 1 else SYMBOLS[str(value)]

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Convert a symbol to its name."""
        return None if value is None else name_of("counter", ord(value))


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

_SLOT_OF_USER = (
    # An id of ASCII alone is in its normal form.
    (
        "postgresql",
        (
            "slot = get_byte(sha256(convert_to(CASE WHEN octet_length(user_id) = char_length(user_id)"
            " THEN user_id ELSE normalize(user_id, NFC) END, 'UTF8')), 0) >> 2"
        ),
    ),
    ("sqlite", "slot = slot_of(user_id)"),  # a function of every connection
)


def _slot() -> Column[int]:
    return Column("slot", SmallInteger, nullable=False)


def _is_slot_of_user() -> list[CheckConstraint]:
    """Return the check that ties the slot to the user, for each dialect."""
    return [
        CheckConstraint(condition, name="slot_of_user").ddl_if(dialect=dialect)
        for dialect, condition in _SLOT_OF_USER
    ]


def _of_account() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["account_id", "slot"], ["accounts.account_id", "accounts.slot"])


def _of_operation(column: str = "operation_id") -> ForeignKeyConstraint:
    return ForeignKeyConstraint([column, "slot"], ["operations.operation_id", "operations.slot"])


#: One row for each user: the sums of the entries, which can always be computed again from them. ``adjusted``
#: is signed, and so is ``reversed``, where more was given back than taken. Of an account that came from
#: another system nothing is known before ``imported_at``.
accounts = Table(
    "accounts",
    metadata,
    Column("account_id", BigInteger, nullable=False, autoincrement=False),
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
    Column("period_granted", BigInteger, nullable=False, server_default="0"),
    Column("anchor", UtcDateTime, nullable=False),
    Column("granted_until", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    Column("due_at", UtcDateTime),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("lot_count", Integer, nullable=False, server_default="0"),
    _slot(),
    Column("alerts", SmallInteger, nullable=False, server_default="0"),
    Column("user_id", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("imported_at", UtcDateTime),
    # The start of the last period that was granted, the tier that follows, and since when it is frozen.
    Column("granted_from", UtcDateTime),
    Column("next_tier", Text),
    Column("next_tier_at", UtcDateTime),
    Column("frozen_at", UtcDateTime),
    Column("unfrozen_at", UtcDateTime),
    PrimaryKeyConstraint("slot", "account_id"),
    UniqueConstraint("user_id", "slot"),
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
    *_is_slot_of_user(),
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
    """Return the columns of an outcome, the wide ones first: so no bytes are lost between them."""
    return [
        Column("amount", BigInteger),
        Column("balance_before", BigInteger),
        Column("balance_after", BigInteger),
        Column("first_entry", BigInteger),
        Column("last_entry", BigInteger),
        Column("occurred_at", UtcDateTime),
        Column("recorded_at", UtcDateTime, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("sender_id", Integer),
        _slot(),
        Column("type", Identifier("type"), nullable=False),
        Column("status", Identifier("status"), nullable=False),
        Column("code", Identifier("code"), nullable=False),
    ]


def _outcome_texts() -> list[Column[Any]]:
    return [
        Column("reference_id", Text, nullable=False),
        Column("user_id", Text, nullable=False),
        Column("content", Text, nullable=False),
        Column("detail", JsonObject),
        Column("metadata", JsonObject),
        Column("description", Text),
        Column("notices", JsonObject),
    ]


_APPLIED, _REJECTED = (number_of("status", status) for status in ("applied", "rejected"))
_USAGE = "type < 20"
_MAY_MOVE_NOTHING = ", ".join(
    str(number_of("code", code)) for code in ("tokens_deducted", "free_upload_counted", "usage_recorded")
)
_ABOUT_SUBSCRIPTIONS = "type IN ({})".format(
    ", ".join(
        str(number_of("type", name))
        for name in (
            "account.open",
            "subscription.change",
            "subscription.renew",
            "subscription.cancel",
            "account.import",
            "account.freeze",
            "account.unfreeze",
        )
    )
)

#: Operations about money that operators look at: rejected ones, and ones that are applied and flagged.
IS_INCIDENT = "(status = {} AND type IN ({})) OR code IN ({})".format(
    _REJECTED,
    ", ".join(
        str(number_of("type", name))
        for name in (
            "payment.succeeded",
            "payment.refunded",
            "payment.disputed",
            "payment.dispute_closed",
            "payment.failed",
            "payment.refund_failed",
            "payment.named",
            "subscription.change",
            "subscription.renew",
        )
    ),
    ", ".join(str(number_of("code", name)) for name in ("purchase_flagged", "refund_style_mixed")),
)


def _taken_moved_nothing() -> list[CheckConstraint]:
    """Return the check that a reference was only taken from usage that moved nothing, for each dialect."""
    return [
        CheckConstraint(
            f"NOT is_taken OR ({_USAGE} AND (status = {_REJECTED} OR (code IN ({_MAY_MOVE_NOTHING})"
            " AND coalesce(amount, -1) = 0 AND first_entry IS NULL"
            f" AND coalesce({free_quantity}, 0) = 0)))",
            name="taken_moved_nothing",
        ).ddl_if(dialect=dialect)
        for dialect, free_quantity in (
            ("postgresql", "(detail ->> 'free_quantity')::bigint"),
            ("sqlite", "json_extract(detail, '$.free_quantity')"),
        )
    ]


#: Samples of the operations that have an index on time: one of so many. The ids of a batch follow one
#: another, so a sample has its share of every batch. Powers of a prime, so that no step of ids can miss one.
SAMPLES = (31, 31 * 31)


def sampled(rate: int) -> str:
    """Return the condition that an operation is in the sample of one of ``rate``."""
    return f"operation_id % {rate} = 0"


def _sample_index(rate: int) -> Index:
    """Return the index on time of a sample, which has all that the pace asks for."""
    is_sampled = text(sampled(rate))
    return Index(
        f"ix_operations_sample_{rate}",
        "recorded_at",
        postgresql_include=["slot", "status", "code"],
        postgresql_where=is_sampled,
        sqlite_where=is_sampled,
    )


#: One row for each reference, for ever: the unique key decides what is new. A usage that moved nothing loses
#: its reference to a command of another kind (``is_taken``) and stays beside it. Two columns are empty where
#: they would repeat others, in nearly all rows with entries: see ``balance_before`` and ``last_entry``.
operations = Table(
    "operations",
    metadata,
    Column("operation_id", BigInteger, nullable=False, autoincrement=False),
    *_outcome_columns(),
    Column("is_taken", Boolean, nullable=False, server_default=text("false")),
    *_outcome_texts(),
    PrimaryKeyConstraint("operation_id", "slot"),
    # The judge: one operation has the reference, and one lost it at most. It has no slot on one database.
    UniqueConstraint("reference_id", "is_taken"),
    # Commands about a subscription, or that freeze an account, are looked up by user; usage, which is nearly
    # all, isn't in this index.
    Index(
        "ix_operations_subscriptions",
        "user_id",
        postgresql_where=text(_ABOUT_SUBSCRIPTIONS),
        sqlite_where=text(_ABOUT_SUBSCRIPTIONS),
    ),
    # Refused operations, which are few, are shown in a user's history on request.
    Index(
        "ix_operations_refused",
        "user_id",
        "recorded_at",
        "operation_id",
        postgresql_where=text(f"status = {_REJECTED}"),
        sqlite_where=text(f"status = {_REJECTED}"),
    ),
    # Money without tokens, or tokens that don't fit it: few, and looked for by operators.
    Index(
        "ix_operations_incidents",
        "recorded_at",
        "operation_id",
        postgresql_where=text(IS_INCIDENT),
        sqlite_where=text(IS_INCIDENT),
    ),
    # What was recorded in a time lies together in the table: a few numbers for many rows find it. SQLite has
    # no such index.
    Index(
        "ix_operations_recorded_at",
        "recorded_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
    *map(_sample_index, SAMPLES),
    *_is_slot_of_user(),
    CheckConstraint(f"status IN ({_APPLIED}, {_REJECTED})", name="status_known"),
    CheckConstraint(
        f"status = {_REJECTED} OR (amount >= 0 AND balance_after IS NOT NULL"
        " AND (balance_before IS NOT NULL OR first_entry IS NOT NULL))",
        name="applied_has_amounts",
    ),
    CheckConstraint(
        f"status = {_APPLIED} OR (amount IS NULL AND first_entry IS NULL AND notices IS NULL)",
        name="rejected_moves_nothing",
    ),
    CheckConstraint("first_entry < last_entry", name="entries_in_order"),
    CheckConstraint(
        "first_entry IS NULL OR balance_before <> balance_after + amount", name="balance_before_not_repeated"
    ),
    CheckConstraint("attempt >= 1", name="attempt_from_one"),
    *_taken_moved_nothing(),
)


def balance_before() -> ColumnElement[int]:
    """Return the balance before an operation: with its amount that after it, unless its column says else."""
    operation = operations.c
    return func.coalesce(operation.balance_before, operation.balance_after + operation.amount)


def last_entry() -> ColumnElement[int]:
    """Return the last entry of an operation: the first one, unless its column says else."""
    return func.coalesce(operations.c.last_entry, operations.c.first_entry)


#: Rejections that a higher attempt replaced. A late redelivery still gets its reply.
superseded_outcomes = Table(
    "superseded_outcomes",
    metadata,
    Column("operation_id", BigInteger, nullable=False),
    *_outcome_columns(),
    *_outcome_texts(),
    PrimaryKeyConstraint("operation_id", "attempt", "slot"),
    _of_operation(),
    *_is_slot_of_user(),
    CheckConstraint(f"status = {_REJECTED}", name="rejected"),
)

#: Every movement of tokens: between a lot of the account (or its debt, where there is none) and a named
#: counter-account, so that each row is a balanced double entry. What was due (``is_due``) occurred then. The
#: feature of usage is in the content of its operation. The columns fill eleven words of eight bytes with the
#: row's header: one byte more costs eight.
entries = Table(
    "entries",
    metadata,
    Column("account_id", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("operation_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("lot", Integer),
    _slot(),
    Column("counter", CounterSymbol, nullable=False),
    Column("is_due", Boolean, nullable=False),
    PrimaryKeyConstraint("account_id", "sequence", "slot"),
    _of_account(),
    _of_operation(),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint(
        # A counter-account gives the sign: usage and expiry take, what is credited gives.
        "(counter IN ({taking}) AND amount < 0 AND lot IS NOT NULL)"
        " OR (counter IN ({giving}) AND amount > 0) OR counter IN ({both})".format(
            **{
                name: ", ".join(repr(SYMBOLS[counter]) for counter in counters)
                for name, counters in (
                    ("taking", ("usage", "expiry")),
                    ("giving", ("allocation", "purchases", "bonus", "refunds")),
                    ("both", ("adjustments", "reversals", "transfers")),
                )
            }
        ),
        name="counter_gives_the_sign",
    ),
)

#: One row for each credit: what is left of it, which can always be computed again from the entries that name
#: it. The number counts the lots of the account. Small and rewritten all the time, like the accounts.
lots = Table(
    "lots",
    metadata,
    Column("account_id", BigInteger, nullable=False),
    Column("operation_id", BigInteger),
    Column("granted", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("pending", BigInteger, nullable=False, server_default="0"),
    Column("effective_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("number", Integer, nullable=False),
    Column("parent", Integer),
    _slot(),
    Column("priority", SmallInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("is_noticed", Boolean, nullable=False, server_default=text("false")),
    Column("source", Text, nullable=False),
    # Where it was ended before its time: what comes back to it from then on has ended too.
    Column("ended_at", UtcDateTime),
    PrimaryKeyConstraint("account_id", "number", "slot"),
    _of_account(),
    _of_operation(),
    ForeignKeyConstraint(
        ["account_id", "parent", "slot"],
        ["lots.account_id", "lots.number", "lots.slot"],
        name="fk_lots_parent",
    ),
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
    Column("operation_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False, server_default="0"),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("closed_by", BigInteger),
    _slot(),
    Column("state", Text, nullable=False),
    Column("reference_id", Text, nullable=False),
    # Kept for a dispute of a payment, not for work.
    Column("is_dispute", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("operation_id", "slot"),
    _of_operation(),
    _of_account(),
    _of_operation("closed_by"),
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
    Column("operation_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("lot", Integer, nullable=False),
    _slot(),
    PrimaryKeyConstraint("operation_id", "place", "slot"),
    ForeignKeyConstraint(["operation_id", "slot"], ["holds.operation_id", "holds.slot"]),
    ForeignKeyConstraint(
        ["account_id", "lot", "slot"],
        ["lots.account_id", "lots.number", "lots.slot"],
        name="fk_hold_parts_lot",
    ),
    CheckConstraint("amount > 0", name="amount_positive"),
)

#: Refunds of usage, one row for each: its tokens, and the free units that went back to their period.
usage_refunds = Table(
    "usage_refunds",
    metadata,
    Column("operation_id", BigInteger, nullable=False),
    Column("original_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    _slot(),
    Column("free_quantity", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("operation_id", "slot"),
    _of_operation(),
    _of_operation("original_id"),
    _of_account(),
    Index(None, "original_id"),
    CheckConstraint("tokens >= 0 AND free_quantity >= 0", name="amounts_not_negative"),
    CheckConstraint("tokens > 0 OR free_quantity > 0", name="something_goes_back"),
)

#: Used part of a period's quota, which can always be computed again from the quota entries.
quotas = Table(
    "quotas",
    metadata,
    Column("account_id", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("period_start", Date, nullable=False),
    _slot(),
    Column("meter", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "meter", "period_start", "slot"),
    _of_account(),
    CheckConstraint("used >= 0", name="used_not_negative"),
)

#: Every movement of a quota, in the meter's unit.
quota_entries = Table(
    "quota_entries",
    metadata,
    Column("account_id", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("operation_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("used_after", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("period_start", Date, nullable=False),
    _slot(),
    Column("meter", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "meter", "period_start", "sequence", "slot"),
    _of_account(),
    _of_operation(),
    CheckConstraint("sequence >= 1", name="sequence_from_one"),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("used_after >= 0 AND used_after >= amount", name="used_not_negative"),
)

#: Payments as they were taken, in minor units, and the tokens they bought: of a package, or of a period. A
#: payment of a package is named by its operation's reference, one of a subscription by its own.
payments = Table(
    "payments",
    metadata,
    Column("operation_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("base_tokens", BigInteger, nullable=False),
    Column("bonus_tokens", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("occurred_at", UtcDateTime),
    _slot(),
    Column("currency", String(3), nullable=False),
    Column("reference_id", Text, nullable=False),
    Column("package_id", Text),
    Column("tier", Text),
    Column("provider", Text),
    PrimaryKeyConstraint("operation_id", "slot"),
    _of_operation(),
    _of_account(),
    UniqueConstraint("reference_id", "slot"),
    Index(None, "account_id"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
    CheckConstraint("base_tokens >= 0 AND bonus_tokens >= 0", name="tokens_not_negative"),
    CheckConstraint("(package_id IS NULL) <> (tier IS NULL)", name="package_or_tier"),
)

_HAPPENED_KNOWN = (
    "happened IN ('refunded', 'refunded_total', 'refund_failed', 'inquired', 'disputed', 'dispute_won',"
    " 'dispute_lost', 'dispute_prevented', 'dispute_withdrawn', 'failed', 'frozen', 'unfrozen', 'succeeded')"
)

#: Events of payments, each with its own reference, and their effect: tokens taken back (or given back,
#: negative) and written off. The operation is the event's own, or the payment's where the event was there
#: first.
payment_events = Table(
    "payment_events",
    metadata,
    Column("operation_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount_minor", BigInteger),
    Column("collected", BigInteger, nullable=False, server_default="0"),
    Column("uncollected", BigInteger, nullable=False, server_default="0"),
    Column("occurred_at", UtcDateTime),
    Column("recorded_at", UtcDateTime, nullable=False),
    _slot(),
    Column("currency", String(3)),
    Column("happened", Text, nullable=False),
    Column("reference_id", Text, nullable=False),
    Column("payment_reference", Text, nullable=False),
    Column("dispute_id", Text),
    Column("refund_reference", Text),
    PrimaryKeyConstraint("reference_id", "slot"),
    _of_operation(),
    _of_account(),
    Index(None, "payment_reference"),
    Index(None, "account_id"),
    CheckConstraint(_HAPPENED_KNOWN, name="happened_known"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
)

#: The tables of the ledger, each after those that it refers to.
LEDGER = (
    accounts,
    operations,
    superseded_outcomes,
    entries,
    lots,
    holds,
    hold_parts,
    usage_refunds,
    quotas,
    quota_entries,
    payments,
    payment_events,
)

# -- beside the ledger -------------------------------------------------------------------------------------

#: Users whose a reference is, where the ledger is distributed: a claim is made before its operation.
#: ``taken_from`` is the user who had it before.
claims = Table(
    "claims",
    metadata,
    Column("claimed_at", UtcDateTime, nullable=False),
    _slot(),
    Column("reference_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("taken_from", Text),
    *_is_slot_of_user(),
)

#: Names of payments: a payment's own reference and its other names, with its user. A name without a payment
#: is one that events wait for, or that is the same as others: ``same_as`` is the first of them all, and says
#: nothing of a bound name. The version rises with each change: two that come at once see each other.
payment_names = Table(
    "payment_names",
    metadata,
    Column("named_at", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", Text, primary_key=True),
    Column("payment_reference", Text),
    Column("user_id", Text),
    Column("same_as", Text),
    Index(None, "user_id"),
    Index(
        None,
        "same_as",
        postgresql_where=text("same_as IS NOT NULL"),
        sqlite_where=text("same_as IS NOT NULL"),
    ),
    CheckConstraint("(user_id IS NULL) = (payment_reference IS NULL)", name="bound_as_a_whole"),
)

#: Events that wait for the payment of their name. ``user_id`` is the one that was named; with a ``reason``
#: the payment is there and the event can't count for it.
waiting_events = Table(
    "waiting_events",
    metadata,
    Column("amount_minor", BigInteger),
    Column("occurred_at", UtcDateTime),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("currency", String(3)),
    Column("happened", Text, nullable=False),
    Column("reference_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("user_id", Text),
    Column("dispute_id", Text),
    Column("refund_reference", Text),
    Column("reason", Text),
    Index(None, "name"),
    Index(None, "recorded_at"),
    CheckConstraint(_HAPPENED_KNOWN, name="happened_known"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
)

#: Next free id of accounts and operations: of each slot where the ledger is distributed, else one for all.
id_counters = Table(
    "id_counters",
    metadata,
    Column("counter", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_id", BigInteger, nullable=False),
)

#: Names behind the numbers of types, codes, statuses and counter-accounts, for readers of SQL.
identifiers = Table(
    "identifiers",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
)

#: Senders of commands: the broker's user and the application, as their messages say. Empty: not given.
senders = Table(
    "senders",
    metadata,
    Column("sender_id", Integer, primary_key=True, autoincrement=False),
    Column("broker_user", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
    UniqueConstraint("broker_user", "application"),
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

#: A lane that a worker has paused; ``config`` is the configuration of that worker, ``version`` its version.
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
    Column("version", Text),
    Index(None, "ended_at", "queue"),
)

#: The worker that takes a partition's queues, and until when unless it renews; nobody where both are empty.
partition_leases = Table(
    "partition_leases",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("worker", Text),
    Column("expires_at", UtcDateTime),
    CheckConstraint("(worker IS NULL) = (expires_at IS NULL)", name="held_until"),
)

#: Workers that share the partitions, and the number of partitions that each knows.
partition_workers = Table(
    "partition_workers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("partitions", SmallInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

#: Configurations that workers have shown to be right: a version, a catalog and settings, as one digest.
accepted_configs = Table(
    "accepted_configs",
    metadata,
    Column("config", Text, primary_key=True),
    Column("accepted_at", UtcDateTime, nullable=False),
    Column("accepted_by", Text, nullable=False),
)

#: A recovery from the journal, from the first to the last offset; all before the next one is published.
recoveries = Table(
    "recoveries",
    metadata,
    Column("recovery_id", RowId, Identity(always=True), primary_key=True),
    Column("actor", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("published", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    CheckConstraint(
        "first_offset <= next_offset AND next_offset <= last_offset + 1", name="offsets_in_order"
    ),
)

#: What the schema says of the code, in one row: the oldest revisions that a version which writes, or only
#: reads, may have been built for. Migrations raise them; see ``compatibility``.
schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("writers_from", Text, nullable=False),
    Column("readers_from", Text, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
