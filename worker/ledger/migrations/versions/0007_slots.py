"""Slots: every key of the ledger holds the slot of its user, and rows are narrower.

All tables of the ledger are made anew, and the rows move there. A usage whose reference another command has
taken becomes an operation of its own; its earlier attempts go with it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_FALSE = sa.text("false")

# A table comes after the tables that it refers to. In this order workers come to them, too.
_LEDGER = (
    "accounts",
    "operations",
    "superseded_outcomes",
    "entries",
    "lots",
    "holds",
    "hold_parts",
    "usage_refunds",
    "quotas",
    "quota_entries",
    "payments",
    "payment_events",
)

# The same as in Python: SHA-256 over the id's normal form. An id of ASCII alone is in its normal form.
_SLOT = {
    "postgresql": (
        "get_byte(sha256(convert_to(CASE WHEN octet_length({user}) = char_length({user})"
        " THEN {user} ELSE normalize({user}, NFC) END, 'UTF8')), 0) >> 2"
    ),
    "sqlite": "slot_of({user})",  # a function of every connection
}

_NUMBERS = {
    "type": {
        "usage.deduct": 1,
        "usage.free_upload": 2,
        "usage.record": 3,
        "usage.reserve": 4,
        "usage.settle": 5,
        "usage.release": 6,
        "payment.succeeded": 20,
        "payment.refunded": 21,
        "payment.disputed": 22,
        "payment.dispute_closed": 23,
        "payment.failed": 24,
        "credit.refund": 40,
        "credit.bonus": 41,
        "credit.adjust": 42,
        "subscription.change": 50,
        "subscription.renew": 51,
        "subscription.cancel": 52,
        "account.open": 60,
        "account.settle": 61,
    },
    "code": {
        "account_opened": 1,
        "tokens_deducted": 2,
        "free_upload_counted": 3,
        "tokens_purchased": 4,
        "tokens_refunded": 5,
        "bonus_granted": 6,
        "bonus_scheduled": 7,
        "adjustment_credited": 8,
        "adjustment_debited": 9,
        "account_settled": 10,
        "tokens_reserved": 11,
        "hold_settled": 12,
        "hold_released": 13,
        "usage_recorded": 14,
        "subscription_changed": 15,
        "subscription_renewed": 16,
        "renewal_scheduled": 17,
        "subscription_canceled": 18,
        "payment_refunded": 19,
        "payment_disputed": 20,
        "dispute_won": 21,
        "dispute_lost": 22,
        "payment_failed": 23,
        "payment_awaited": 24,
        "insufficient_balance": 100,
        "account_not_found": 101,
        "account_exists": 102,
        "free_upload_limit_exceeded": 103,
        "unknown_package": 104,
        "unknown_tier": 105,
        "amount_mismatch": 106,
        "currency_mismatch": 107,
        "hold_not_found": 108,
        "hold_closed": 109,
        "hold_exceeded": 110,
        "unknown_meter": 111,
        "original_required": 112,
        "original_not_found": 113,
        "original_not_refundable": 114,
        "refund_exceeds_original": 115,
        "credit_expired": 116,
        "period_already_granted": 117,
        "period_out_of_range": 118,
        "subscription_not_active": 119,
    },
    "status": {"applied": 1, "rejected": 2},
    "counter": {
        "allocation": 1,
        "purchases": 2,
        "bonus": 3,
        "refunds": 4,
        "usage": 5,
        "expiry": 6,
        "adjustments": 7,
        "reversals": 8,
        "transfers": 9,
    },
}
_SHARED_COUNTER = 64


def upgrade() -> None:
    """Make the tables anew, move the rows, and add keys, indexes and guards."""
    if _on_postgresql():
        _begin_on_postgresql()
    for table in _LEDGER:
        op.rename_table(table, f"{table}_0006")
    _create_ledger()
    _create_beside()
    filled = _move_rows()
    if _on_postgresql():
        _move_grants()
    for table in reversed(_LEDGER):
        op.drop_table(f"{table}_0006")
    if _on_postgresql():
        _add_keys()
    _create_indexes()
    if _on_postgresql():
        _add_references(filled)
        _guard_postgresql()
    else:
        _guard_sqlite()
    _number_names()
    _begin_counter()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _begin_on_postgresql() -> None:
    """Check the encoding, keep the workers out, and give sorts and joins room for large tables."""
    encoding = op.get_bind().execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise CommandError(
            f"the database's encoding is {encoding}; slots need UTF8: dump it, and restore it into a database"
            " made with ENCODING 'UTF8'"
        )
    op.execute(f"LOCK TABLE {', '.join(_LEDGER)} IN ACCESS EXCLUSIVE MODE")
    op.execute("SET LOCAL work_mem = '256MB'")
    op.execute("SET LOCAL maintenance_work_mem = '512MB'")
    op.execute("SET LOCAL synchronize_seqscans = off")  # rows keep their order
    op.execute("SET LOCAL jit = off")


# -- tables -----------------------------------------------------------------------------------------------


def _create(table: str, *parts: sa.Column[Any] | sa.CheckConstraint, **options: Any) -> None:
    """Create a table: with its keys on SQLite, which can't add any; without them where rows come faster."""
    keys = [] if _on_postgresql() else _keys_of(table)
    op.create_table(table, *parts, *keys, **options)


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _slot() -> sa.Column[Any]:
    return sa.Column("slot", sa.SmallInteger(), nullable=False)


def _slot_of(user: str) -> str:
    return _SLOT[op.get_bind().dialect.name].format(user=user)


def _is_slot_of_user(table: str) -> sa.CheckConstraint:
    return _check(table, "slot_of_user", f"slot = {_slot_of('user_id')}")


def _create_ledger() -> None:
    _create_accounts()
    _create_operations()
    _create_entries()
    _create_lots()
    _create_holds()
    _create_quotas()
    _create_payments()


def _create_accounts() -> None:
    _create(
        "accounts",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("allocated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("purchased", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bonus", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("adjusted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("expired", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reversed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("debt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("period_granted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("anchor", _TIME, nullable=False),
        sa.Column("granted_until", _TIME, nullable=False),
        sa.Column("ends_at", _TIME),
        sa.Column("due_at", _TIME),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("lot_count", sa.Integer(), server_default="0", nullable=False),
        _slot(),
        sa.Column("alerts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        _is_slot_of_user("accounts"),
        _check("accounts", "held_is_covered", "balance >= held - debt"),
        _check(
            "accounts",
            "balance_is_its_sums",
            "balance = allocated + purchased + bonus + refunded + adjusted - used - expired - reversed",
        ),
        _check("accounts", "numbers_not_negative", "sequence >= 0 AND lot_count >= 0"),
        _check(
            "accounts",
            "sums_not_negative",
            "allocated >= 0 AND purchased >= 0 AND bonus >= 0 AND refunded >= 0 AND used >= 0"
            " AND expired >= 0 AND held >= 0 AND debt >= 0 AND period_granted >= 0",
        ),
        postgresql_with={"fillfactor": "80"},
    )


def _outcome_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("amount", sa.BigInteger()),
        sa.Column("balance_before", sa.BigInteger()),
        sa.Column("balance_after", sa.BigInteger()),
        sa.Column("first_entry", sa.BigInteger()),
        sa.Column("last_entry", sa.BigInteger()),
        sa.Column("occurred_at", _TIME),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("sender_id", sa.Integer()),
        _slot(),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("code", sa.SmallInteger(), nullable=False),
    ]


def _outcome_texts() -> list[sa.Column[Any]]:
    return [
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("detail", _JSON),
        sa.Column("metadata", _JSON),
        sa.Column("description", sa.Text()),
        sa.Column("notices", _JSON),
    ]


_FREE_QUANTITY = {
    "postgresql": "(detail ->> 'free_quantity')::bigint",
    "sqlite": "json_extract(detail, '$.free_quantity')",
}
# A usage that was rejected, or one of nothing: deducted, uploaded or recorded.
_TAKEN_MOVED_NOTHING = (
    "NOT is_taken OR (type < 20 AND (status = 2 OR (code IN (2, 3, 14)"
    " AND coalesce(amount, -1) = 0 AND first_entry IS NULL AND coalesce({free_quantity}, 0) = 0)))"
)


def _create_operations() -> None:
    free_quantity = _FREE_QUANTITY[op.get_bind().dialect.name]
    _create(
        "operations",
        sa.Column("operation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        *_outcome_columns(),
        sa.Column("is_taken", sa.Boolean(), server_default=_FALSE, nullable=False),
        *_outcome_texts(),
        _is_slot_of_user("operations"),
        _check("operations", "status_known", "status IN (1, 2)"),
        _check(
            "operations",
            "applied_has_amounts",
            "status = 2 OR (amount >= 0 AND balance_before IS NOT NULL AND balance_after IS NOT NULL)",
        ),
        _check(
            "operations",
            "rejected_moves_nothing",
            "status = 1 OR (amount IS NULL AND first_entry IS NULL AND notices IS NULL)",
        ),
        _check("operations", "entries_in_order", "first_entry <= last_entry"),
        _check("operations", "attempt_from_one", "attempt >= 1"),
        _check("operations", "taken_moved_nothing", _TAKEN_MOVED_NOTHING.format(free_quantity=free_quantity)),
    )
    _create(
        "superseded_outcomes",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        *_outcome_columns(),
        *_outcome_texts(),
        _is_slot_of_user("superseded_outcomes"),
        _check("superseded_outcomes", "rejected", "status = 2"),
    )


def _create_entries() -> None:
    _create(
        "entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("lot", sa.Integer()),
        _slot(),
        sa.Column("counter", sa.SmallInteger(), nullable=False),
        sa.Column("is_due", sa.Boolean(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        _check("entries", "sequence_from_one", "sequence >= 1"),
        _check("entries", "amount_not_zero", "amount <> 0"),
        _check(
            "entries",
            "counter_gives_the_sign",
            "(counter IN (5, 6) AND amount < 0 AND lot IS NOT NULL)"
            " OR (counter IN (1, 2, 3, 4) AND amount > 0) OR counter IN (7, 8, 9)",
        ),
    )


def _create_lots() -> None:
    _create(
        "lots",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger()),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("effective_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer()),
        _slot(),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("is_noticed", sa.Boolean(), server_default=_FALSE, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        _check("lots", "number_from_one", "number >= 1"),
        _check("lots", "granted_positive", "granted > 0"),
        _check("lots", "amounts_not_negative", "held >= 0 AND remaining >= held AND pending >= 0"),
        _check("lots", "no_more_than_granted", "remaining + pending <= granted"),
        _check("lots", "open_while_something_is_left", "is_open = (remaining > 0 OR pending > 0)"),
        _check("lots", "expires_after_it_takes_effect", "expires_at > effective_at"),
        _check(
            "lots",
            "source_known",
            "source IN ('allocation', 'purchase', 'purchase_bonus', 'bonus', 'refund', 'adjustment',"
            " 'carried_over')",
        ),
        postgresql_with={"fillfactor": "80"},
    )


def _create_holds() -> None:
    _create(
        "holds",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("closed_at", _TIME),
        sa.Column("closed_by", sa.BigInteger()),
        _slot(),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        _check("holds", "state_known", "state IN ('open', 'settled', 'released', 'expired')"),
        _check("holds", "amounts_not_negative", "amount > 0 AND captured >= 0"),
        _check("holds", "only_settled_captures", "state = 'settled' OR captured = 0"),
        _check(
            "holds",
            "closed_has_an_end",
            "(state = 'open') = (closed_at IS NULL) AND (state = 'open') = (closed_by IS NULL)",
        ),
    )
    _create(
        "hold_parts",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("lot", sa.Integer(), nullable=False),
        _slot(),
        _check("hold_parts", "amount_positive", "amount > 0"),
    )


def _create_quotas() -> None:
    _create(
        "quotas",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        _slot(),
        sa.Column("meter", sa.Text(), nullable=False),
        _check("quotas", "used_not_negative", "used >= 0"),
    )
    _create(
        "quota_entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("used_after", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        _slot(),
        sa.Column("meter", sa.Text(), nullable=False),
        _check("quota_entries", "sequence_from_one", "sequence >= 1"),
        _check("quota_entries", "amount_not_zero", "amount <> 0"),
        _check("quota_entries", "used_not_negative", "used_after >= 0 AND used_after >= amount"),
    )


def _create_payments() -> None:
    _create(
        "usage_refunds",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("original_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        _slot(),
        _check("usage_refunds", "tokens_positive", "tokens > 0"),
    )
    _create(
        "payments",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("base_tokens", sa.BigInteger(), nullable=False),
        sa.Column("bonus_tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        _slot(),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text()),
        _check("payments", "amount_positive", "amount_minor > 0"),
        _check("payments", "tokens_positive", "base_tokens > 0 AND bonus_tokens >= 0"),
    )
    _create(
        "payment_events",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger()),
        sa.Column("collected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("uncollected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("occurred_at", _TIME),
        sa.Column("recorded_at", _TIME, nullable=False),
        _slot(),
        sa.Column("currency", sa.String(length=3)),
        sa.Column("happened", sa.Text(), nullable=False),
        sa.Column("payment_reference", sa.Text(), nullable=False),
        sa.Column("dispute_id", sa.Text()),
        _check(
            "payment_events",
            "happened_known",
            "happened IN ('refunded', 'disputed', 'dispute_won', 'dispute_lost', 'failed', 'succeeded')",
        ),
        _check("payment_events", "amount_positive", "amount_minor > 0"),
    )


def _create_beside() -> None:
    """Create the tables beside the ledger."""
    op.create_table(
        "claims",
        sa.Column("claimed_at", _TIME, nullable=False),
        _slot(),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("taken_from", sa.Text()),
        _is_slot_of_user("claims"),
        sa.PrimaryKeyConstraint("reference_id", name=op.f("pk_claims")),
    )
    op.create_table(
        "id_counters",
        sa.Column("counter", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("next_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("counter", name=op.f("pk_id_counters")),
    )
    op.create_table(
        "identifiers",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "number", name=op.f("pk_identifiers")),
    )
    op.create_table(
        "senders",
        sa.Column("sender_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("broker_user", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("sender_id", name=op.f("pk_senders")),
        sa.UniqueConstraint("broker_user", "application", name=op.f("uq_senders_broker_user_application")),
    )


# -- rows -------------------------------------------------------------------------------------------------


def _move_rows() -> list[str]:
    """Move the rows of every table; return the tables that have some."""
    _find_former_owners()
    outcome = {
        "slot": _slot_of("old.user_id"),
        "sender_id": "NULL",
        **{kind: _number(kind) for kind in ("type", "status", "code")},
    }
    moved = {
        "accounts": _move("accounts", slot=_slot_of("old.user_id")),
        "operations": _move("operations", **outcome, is_taken="false") + _move_taken(outcome),
        "superseded_outcomes": _move_superseded(outcome),
        "entries": _move_of_account(
            "entries",
            counter=_number("counter"),
            is_due="old.due_at IS NOT NULL",
            occurred_at="coalesce(old.due_at, old.occurred_at)",
            feature="coalesce(old.feature, '')",
        ),
        **{table: _move_of_account(table) for table in _LEDGER[4:]},
    }
    op.drop_table("former_owners")
    return [table for table, rows in moved.items() if rows]


def _move(table: str, source: str | None = None, **changed: str) -> int:
    """Copy the rows of ``source``, by default all old ones of ``table``; return their number."""
    names = [column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)]
    values = ", ".join(changed.get(name, f"old.{name}") for name in names)
    rows = source or f"{table}_0006 AS old"
    copy = f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {rows}"  # noqa: S608 - constants
    return op.get_bind().execute(sa.text(copy)).rowcount


def _move_of_account(table: str, **changed: str) -> int:
    # SQLite keeps the order of a cross join: the old rows first, in their order.
    source = f"{table}_0006 AS old CROSS JOIN accounts AS account WHERE account.account_id = old.account_id"
    return _move(table, source, slot="account.slot", **changed)


def _number(kind: str) -> str:
    """Return SQL for the number of a name; NULL, which the column refuses, for one that has none."""
    numbers = " ".join(f"WHEN '{name}' THEN {number}" for name, number in _NUMBERS[kind].items())
    return f"CASE old.{kind} {numbers} END"


def _find_former_owners() -> None:
    """Give each former owner of a reference that was taken an operation id of its own."""
    op.execute(
        "CREATE TABLE former_owners AS SELECT old.operation_id, old.type, old.user_id,"
        " max(old.attempt) AS latest,"
        " (SELECT max(operation_id) FROM operations_0006)"
        " + row_number() OVER (ORDER BY old.operation_id, old.type, old.user_id) AS own_id"
        " FROM superseded_outcomes_0006 AS old JOIN operations_0006 AS operation"
        " ON operation.operation_id = old.operation_id"
        " WHERE operation.type <> old.type OR operation.user_id <> old.user_id"
        " GROUP BY old.operation_id, old.type, old.user_id"
    )


_OF_FORMER_OWNER = (
    "superseded_outcomes_0006 AS old {join} former_owners AS former ON former.operation_id = old.operation_id"
    " AND former.type = old.type AND former.user_id = old.user_id"
)


def _move_taken(outcome: dict[str, str]) -> int:
    """Make the latest outcome of each former owner an operation that is taken."""
    source = _OF_FORMER_OWNER.format(join="JOIN") + " WHERE old.attempt = former.latest"
    return _move("operations", source, **outcome, operation_id="former.own_id", is_taken="true")


def _move_superseded(outcome: dict[str, str]) -> int:
    """Copy the other superseded outcomes, to the operations of their owners."""
    source = _OF_FORMER_OWNER.format(join="LEFT JOIN")
    source += " WHERE former.latest IS NULL OR old.attempt < former.latest"
    operation_id = "coalesce(former.own_id, old.operation_id)"
    return _move("superseded_outcomes", source, **outcome, operation_id=operation_id)


def _move_grants() -> None:
    """Give whoever had a right on an old table the same right on the new one."""
    grants = sa.text(
        "SELECT format('GRANT %s ON %I TO %s', privilege_type, left(relname, -5),"
        " CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)"
        " || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
        " FROM pg_class, aclexplode(relacl)"
        " WHERE pg_class.oid = ANY (CAST(:tables AS regclass[])) AND grantee <> relowner"
    )
    old = [f"{table}_0006" for table in _LEDGER]
    for grant in op.get_bind().execute(grants, {"tables": old}).scalars().all():
        op.execute(grant)


def _number_names() -> None:
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(
        identifiers,
        [
            {"kind": kind, "number": number, "name": name}
            for kind, numbers in _NUMBERS.items()
            for name, number in numbers.items()
        ],
    )


def _begin_counter() -> None:
    """Begin the ids that accounts and operations share above all that there are."""
    op.execute(
        f"INSERT INTO id_counters (counter, next_id) SELECT {_SHARED_COUNTER}, coalesce(max(id), 0) + 1"  # noqa: S608 - a constant
        " FROM (SELECT max(operation_id) AS id FROM operations"
        " UNION ALL SELECT max(account_id) FROM accounts) AS taken"
    )


# -- keys and indexes -------------------------------------------------------------------------------------

_PRIMARY_KEYS = {
    "accounts": ["slot", "account_id"],
    "operations": ["operation_id", "slot"],
    "superseded_outcomes": ["operation_id", "attempt", "slot"],
    "entries": ["account_id", "sequence", "slot"],
    "lots": ["account_id", "number", "slot"],
    "holds": ["operation_id", "slot"],
    "hold_parts": ["operation_id", "place", "slot"],
    "usage_refunds": ["operation_id", "slot"],
    "quotas": ["account_id", "meter", "period_start", "slot"],
    "quota_entries": ["account_id", "meter", "period_start", "sequence", "slot"],
    "payments": ["operation_id", "slot"],
    "payment_events": ["operation_id", "slot"],
}
_UNIQUE_KEYS = {
    "accounts": ("uq_accounts_user_id_slot", ["user_id", "slot"]),
    "operations": ("uq_operations_reference_id_is_taken", ["reference_id", "is_taken"]),
}

_TO_ACCOUNT = ("account_id", "accounts", ["account_id", "slot"], ["account_id", "slot"])
_TO_OPERATION = ("operation_id", "operations", ["operation_id", "slot"], ["operation_id", "slot"])
# For each table: end of the key's name, the table that it refers to, columns here and there.
_REFERENCES = {
    "superseded_outcomes": [_TO_OPERATION],
    "entries": [_TO_ACCOUNT, _TO_OPERATION],
    "lots": [
        _TO_ACCOUNT,
        _TO_OPERATION,
        ("parent", "lots", ["account_id", "parent", "slot"], ["account_id", "number", "slot"]),
    ],
    "holds": [
        _TO_ACCOUNT,
        _TO_OPERATION,
        ("closed_by", "operations", ["closed_by", "slot"], ["operation_id", "slot"]),
    ],
    "hold_parts": [
        ("operation_id", "holds", ["operation_id", "slot"], ["operation_id", "slot"]),
        ("lot", "lots", ["account_id", "lot", "slot"], ["account_id", "number", "slot"]),
    ],
    "usage_refunds": [
        _TO_ACCOUNT,
        _TO_OPERATION,
        ("original_id", "operations", ["original_id", "slot"], ["operation_id", "slot"]),
    ],
    "quotas": [_TO_ACCOUNT],
    "quota_entries": [_TO_ACCOUNT, _TO_OPERATION],
    "payments": [_TO_ACCOUNT, _TO_OPERATION],
    "payment_events": [_TO_ACCOUNT, _TO_OPERATION],
}


def _keys_of(table: str) -> list[sa.Constraint]:
    keys: list[sa.Constraint] = [sa.PrimaryKeyConstraint(*_PRIMARY_KEYS[table], name=op.f(f"pk_{table}"))]
    if table in _UNIQUE_KEYS:
        name, columns = _UNIQUE_KEYS[table]
        keys.append(sa.UniqueConstraint(*columns, name=op.f(name)))
    for name, referent, columns, referred in _REFERENCES.get(table, ()):
        there = [f"{referent}.{column}" for column in referred]
        keys.append(sa.ForeignKeyConstraint(columns, there, name=op.f(f"fk_{table}_{name}")))
    return keys


def _add_keys() -> None:
    for table, columns in _PRIMARY_KEYS.items():
        op.create_primary_key(op.f(f"pk_{table}"), table, columns)
    for table, (name, columns) in _UNIQUE_KEYS.items():
        op.create_unique_constraint(op.f(name), table, columns)


def _add_references(filled: list[str]) -> None:
    """Add the foreign keys. They are proved by joins, which need to know how large the tables are.

    A table without rows has no statistics: the planner would expect it to stay empty.
    """
    if filled:
        op.execute(f"ANALYZE {', '.join(filled)}")
    for table, references in _REFERENCES.items():
        for name, referent, columns, referred in references:
            op.create_foreign_key(op.f(f"fk_{table}_{name}"), table, referent, columns, referred)


def _create_index(
    name: str, table: str, columns: list[str], where: str | None = None, **options: Any
) -> None:
    condition = None if where is None else sa.text(where)
    if condition is not None:
        options |= {"postgresql_where": condition, "sqlite_where": condition}
    op.create_index(op.f(name), table, columns, **options)


def _create_indexes() -> None:
    if _on_postgresql():
        op.execute('CREATE INDEX ix_accounts_user_id_c ON accounts (user_id COLLATE "C")')
    _create_index("ix_accounts_due_at", "accounts", ["due_at", "account_id"], "due_at IS NOT NULL")
    _create_index("ix_operations_subscriptions", "operations", ["user_id"], "type IN (60, 50, 51, 52)")
    _create_index(
        "ix_operations_recorded_at",
        "operations",
        ["recorded_at"],
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )
    for rate in (31, 961):
        _create_index(
            f"ix_operations_sample_{rate}",
            "operations",
            ["recorded_at"],
            f"operation_id % {rate} = 0",
            postgresql_include=["slot", "status", "code"],
        )
    _create_index("ix_lots_open", "lots", ["account_id"], "is_open")
    _create_index("ix_holds_account_id", "holds", ["account_id"])
    _create_index("ix_holds_open", "holds", ["account_id"], "state = 'open'")
    _create_index("ix_usage_refunds_original_id", "usage_refunds", ["original_id"])
    _create_index("ix_payments_account_id", "payments", ["account_id"])
    _create_index("ix_payment_events_payment_reference", "payment_events", ["payment_reference"])


# -- guards -----------------------------------------------------------------------------------------------

_APPEND_ONLY = (
    "superseded_outcomes",
    "entries",
    "hold_parts",
    "usage_refunds",
    "quota_entries",
    "payments",
    "payment_events",
    "senders",
)
_IDENTITY = "operation_id, slot, reference_id, type, user_id"
_ALL_BUT_TAKEN = (
    "operation_id, amount, balance_before, balance_after, first_entry, last_entry, occurred_at, recorded_at,"
    " attempt, sender_id, slot, type, status, code, reference_id, user_id, content, detail, metadata,"
    " description, notices"
)
_LOT_AS_GRANTED = (
    "account_id, slot, number, operation_id, source, granted, priority, effective_at, expires_at, parent"
)
_HOLD_AS_OPENED = "operation_id, slot, account_id, reference_id, amount, opened_at, expires_at"


def _guard_postgresql() -> None:
    refuse = "EXECUTE FUNCTION ledger_refuses()"
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}"
        )
    for table, name, update, is_refused in _refused_updates("IS DISTINCT FROM"):
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} FOR EACH ROW {refuse}")
        op.execute(f"CREATE TRIGGER {name} BEFORE {update} FOR EACH ROW WHEN ({is_refused}) {refuse}")
    for table in (*_APPEND_ONLY, "operations", "lots", "holds"):
        op.execute(
            f"CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}"
        )


def _guard_sqlite() -> None:
    refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
    for table in _APPEND_ONLY:
        op.execute(f"CREATE TRIGGER {table}_not_updated BEFORE UPDATE ON {table} {refuse}")
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
    for table, name, update, is_refused in _refused_updates("IS NOT"):
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
        op.execute(f"CREATE TRIGGER {name} BEFORE {update} WHEN {is_refused} {refuse}")


def _refused_updates(differs: str) -> list[tuple[str, str, str, str]]:
    """Return for each partly changeable table its name, its guard's name and event, and what that refuses."""

    def changed(columns: str) -> str:
        old, new = (f"{row}." + columns.replace(", ", f", {row}.") for row in ("OLD", "NEW"))
        return f"({new}) {differs} ({old})"

    # A rejection is judged anew by a higher attempt; a reference is taken once, and nothing else changes.
    is_judged_anew = f"OLD.status = 2 AND NEW.attempt > OLD.attempt AND NOT ({changed(_IDENTITY)})"
    is_taken = f"NEW.is_taken AND NOT ({changed(_ALL_BUT_TAKEN)})"
    ends = "OLD.state = 'open' AND NEW.state <> 'open'"
    return [
        (
            "operations",
            "operations_final",
            "UPDATE ON operations",
            f"OLD.is_taken OR NOT (({is_judged_anew}) OR ({is_taken}))",
        ),
        (
            "lots",
            "lots_as_granted",
            f"UPDATE OF {_LOT_AS_GRANTED}, is_noticed ON lots",
            f"{changed(_LOT_AS_GRANTED)} OR (OLD.is_noticed AND NOT NEW.is_noticed)",
        ),
        ("holds", "holds_final", "UPDATE ON holds", f"NOT ({ends}) OR {changed(_HOLD_AS_OPENED)}"),
    ]
