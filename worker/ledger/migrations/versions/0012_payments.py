"""Payments as gateways send them: names of payments, events that wait, subscriptions that are paid.

An event is named by its own reference, and belongs to a payment by the payment's. One whose payment isn't
there stands beside the ledger until it comes. The tables of payments are made anew, for both dialects: they
are small. So is that of usage refunds, which give free units back as well.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_HAPPENED = (
    "happened IN ('refunded', 'refunded_total', 'refund_failed', 'inquired', 'disputed', 'dispute_won',"
    " 'dispute_lost', 'dispute_prevented', 'dispute_withdrawn', 'failed', 'frozen', 'unfrozen', 'succeeded')"
)
_INCIDENTS = "(status = 2 AND type IN (20, 21, 22, 23, 24, 26, 50, 51)) OR code IN (32, 34)"
_AWAITED = 24  #: the code of an event that came before its payment, which posts it now
_NUMBERS = [
    ("type", 26, "payment.refund_failed"),
    ("type", 63, "account.freeze"),
    ("type", 64, "account.unfreeze"),
    ("code", 32, "purchase_flagged"),
    ("code", 33, "refund_failed"),
    ("code", 34, "refund_style_mixed"),
    ("code", 35, "inquiry_opened"),
    ("code", 36, "dispute_prevented"),
    ("code", 37, "dispute_withdrawn"),
    ("code", 38, "change_scheduled"),
    ("code", 39, "freeze_began"),
    ("code", 40, "freeze_ended"),
    ("code", 132, "account_frozen"),
]


def upgrade() -> None:
    """Add the columns and tables, move the rows of payments, and number the names."""
    op.add_column("accounts", sa.Column("granted_from", _TIME))
    op.add_column("accounts", sa.Column("next_tier", sa.Text()))
    op.add_column("accounts", sa.Column("next_tier_at", _TIME))
    op.add_column("accounts", sa.Column("frozen_at", _TIME))
    op.add_column("accounts", sa.Column("unfrozen_at", _TIME))
    _index_freezing()
    op.add_column("lots", sa.Column("ended_at", _TIME))
    op.add_column(
        "holds", sa.Column("is_dispute", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    for table, index in _MADE_ANEW.items():
        _put_aside(table, index)
    _create_payments()
    _create_usage_refunds()
    _create_beside()
    _move_rows()
    for table in reversed(_MADE_ANEW):
        op.drop_table(f"{table}_0011")
    op.create_index("ix_usage_refunds_original_id", "usage_refunds", ["original_id"])
    op.create_index("ix_payments_account_id", "payments", ["account_id"])
    op.create_index("ix_payment_events_payment_reference", "payment_events", ["payment_reference"])
    op.create_index("ix_payment_events_account_id", "payment_events", ["account_id"])
    is_incident = sa.text(_INCIDENTS)
    op.create_index(
        "ix_operations_incidents",
        "operations",
        ["recorded_at", "operation_id"],
        postgresql_where=is_incident,
        sqlite_where=is_incident,
    )
    _guard()
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(
        identifiers, [{"kind": kind, "number": number, "name": name} for kind, number, name in _NUMBERS]
    )


def _index_freezing() -> None:
    """Make the index on commands about a subscription anew, with those that freeze an account."""
    name, is_about = op.f("ix_operations_subscriptions"), sa.text("type IN (60, 50, 51, 52, 62, 63, 64)")
    op.drop_index(name, "operations")
    op.create_index(name, "operations", ["user_id"], postgresql_where=is_about, sqlite_where=is_about)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


#: Tables that are made anew, with the index of each, in the order of what refers to what.
_MADE_ANEW = {
    "payments": "ix_payments_account_id",
    "payment_events": "ix_payment_events_payment_reference",
    "usage_refunds": "ix_usage_refunds_original_id",
}


def _put_aside(table: str, index: str) -> None:
    """Give a table another name, and free the names of its keys and guards."""
    if _on_postgresql():
        for name in (f"{table}_append_only", f"{table}_not_truncated"):
            op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT pk_{table} TO pk_{table}_0011")
    else:
        for name in (f"{table}_not_updated", f"{table}_not_deleted"):
            op.execute(f"DROP TRIGGER {name}")
    op.drop_index(index, table)
    op.rename_table(table, f"{table}_0011")


def _slot() -> sa.Column[Any]:
    return sa.Column("slot", sa.SmallInteger(), nullable=False)


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _owned(table: str) -> list[sa.ForeignKeyConstraint]:
    return [
        sa.ForeignKeyConstraint(
            ["operation_id", "slot"],
            ["operations.operation_id", "operations.slot"],
            name=op.f(f"fk_{table}_operation_id"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "slot"],
            ["accounts.account_id", "accounts.slot"],
            name=op.f(f"fk_{table}_account_id"),
        ),
    ]


def _create_payments() -> None:
    op.create_table(
        "payments",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("base_tokens", sa.BigInteger(), nullable=False),
        sa.Column("bonus_tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("occurred_at", _TIME),
        _slot(),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("package_id", sa.Text()),
        sa.Column("tier", sa.Text()),
        sa.Column("provider", sa.Text()),
        _key("payments", "operation_id", "slot"),
        *_owned("payments"),
        sa.UniqueConstraint("reference_id", "slot", name=op.f("uq_payments_reference_id_slot")),
        _check("payments", "amount_not_negative", "amount_minor >= 0"),
        _check("payments", "tokens_not_negative", "base_tokens >= 0 AND bonus_tokens >= 0"),
        _check("payments", "package_or_tier", "(package_id IS NULL) <> (tier IS NULL)"),
    )
    op.create_table(
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
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("payment_reference", sa.Text(), nullable=False),
        sa.Column("dispute_id", sa.Text()),
        sa.Column("refund_reference", sa.Text()),
        _key("payment_events", "reference_id", "slot"),
        *_owned("payment_events"),
        _check("payment_events", "happened_known", _HAPPENED),
        _check("payment_events", "amount_not_negative", "amount_minor >= 0"),
    )


def _create_usage_refunds() -> None:
    original = sa.ForeignKeyConstraint(
        ["original_id", "slot"],
        ["operations.operation_id", "operations.slot"],
        name=op.f("fk_usage_refunds_original_id"),
    )
    op.create_table(
        "usage_refunds",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("original_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        _slot(),
        sa.Column("free_quantity", sa.BigInteger(), server_default="0", nullable=False),
        _key("usage_refunds", "operation_id", "slot"),
        *_owned("usage_refunds"),
        original,
        _check("usage_refunds", "amounts_not_negative", "tokens >= 0 AND free_quantity >= 0"),
        _check("usage_refunds", "something_goes_back", "tokens > 0 OR free_quantity > 0"),
    )


def _create_beside() -> None:
    op.create_table(
        "payment_names",
        sa.Column("named_at", _TIME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("payment_reference", sa.Text()),
        sa.Column("user_id", sa.Text()),
        _key("payment_names", "name"),
        _check("payment_names", "bound_as_a_whole", "(user_id IS NULL) = (payment_reference IS NULL)"),
    )
    op.create_index("ix_payment_names_user_id", "payment_names", ["user_id"])
    op.create_table(
        "waiting_events",
        sa.Column("amount_minor", sa.BigInteger()),
        sa.Column("occurred_at", _TIME),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("currency", sa.String(length=3)),
        sa.Column("happened", sa.Text(), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("dispute_id", sa.Text()),
        sa.Column("refund_reference", sa.Text()),
        sa.Column("reason", sa.Text()),
        _key("waiting_events", "reference_id"),
        _check("waiting_events", "happened_known", _HAPPENED),
        _check("waiting_events", "amount_not_negative", "amount_minor >= 0"),
    )
    op.create_index("ix_waiting_events_name", "waiting_events", ["name"])
    op.create_index("ix_waiting_events_recorded_at", "waiting_events", ["recorded_at"])


def _move_rows() -> None:
    """Move payments, refunds and events; an event that counts for no payment waits beside the ledger."""
    op.execute(
        "INSERT INTO usage_refunds (operation_id, original_id, account_id, tokens, recorded_at, slot)"
        " SELECT operation_id, original_id, account_id, tokens, recorded_at, slot FROM usage_refunds_0011"
    )
    op.execute(
        "INSERT INTO payments (operation_id, account_id, amount_minor, base_tokens, bonus_tokens,"
        " recorded_at, occurred_at, slot, currency, reference_id, package_id, provider)"
        " SELECT p.operation_id, p.account_id, p.amount_minor, p.base_tokens, p.bonus_tokens, p.recorded_at,"
        " o.occurred_at, p.slot, p.currency, o.reference_id, p.package_id, p.provider"
        " FROM payments_0011 AS p JOIN operations AS o ON o.operation_id = p.operation_id AND o.slot = p.slot"
    )
    op.execute(
        "INSERT INTO payment_names (named_at, version, name, payment_reference, user_id)"
        " SELECT p.recorded_at, 1, p.reference_id, p.reference_id, a.user_id"
        " FROM payments AS p JOIN accounts AS a ON a.account_id = p.account_id AND a.slot = p.slot"
    )
    counts = (
        " FROM payment_events_0011 AS e"
        " JOIN operations AS o ON o.operation_id = e.operation_id AND o.slot = e.slot"
        " LEFT JOIN payments AS p ON p.reference_id = e.payment_reference AND p.account_id = e.account_id"
    )
    is_counted = "p.operation_id IS NOT NULL AND coalesce(e.currency, p.currency) = p.currency"
    op.execute(
        "INSERT INTO payment_events (operation_id, account_id, amount_minor, collected, uncollected,"
        " occurred_at, recorded_at, slot, currency, happened, reference_id, payment_reference, dispute_id)"
        f" SELECT CASE WHEN o.code = {_AWAITED} THEN p.operation_id ELSE e.operation_id END,"
        " e.account_id, e.amount_minor, e.collected, e.uncollected, e.occurred_at,"
        f" e.recorded_at, e.slot, e.currency, e.happened, o.reference_id, e.payment_reference, e.dispute_id"
        f"{counts} WHERE {is_counted}"
    )
    op.execute(
        "INSERT INTO waiting_events (amount_minor, occurred_at, recorded_at, currency, happened,"  # noqa: S608 - constants
        " reference_id, name, user_id, dispute_id, reason)"
        " SELECT e.amount_minor, e.occurred_at, e.recorded_at, e.currency, e.happened, o.reference_id,"
        " e.payment_reference, o.user_id, e.dispute_id,"
        " CASE WHEN p.operation_id IS NOT NULL THEN 'currency_mismatch'"
        " WHEN EXISTS (SELECT 1 FROM payments AS other WHERE other.reference_id = e.payment_reference)"
        f" THEN 'other_user' END{counts} WHERE NOT ({is_counted})"
    )
    op.execute(
        "INSERT INTO payment_names (named_at, version, name)"
        " SELECT min(w.recorded_at), 1, w.name FROM waiting_events AS w"
        " WHERE w.name NOT IN (SELECT n.name FROM payment_names AS n) GROUP BY w.name"
    )


def _guard() -> None:
    for table in _MADE_ANEW:
        if _on_postgresql():
            refuse = "EXECUTE FUNCTION ledger_refuses()"
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}"
            )
            op.execute(
                f"CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}"
            )
        else:
            refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
            op.execute(f"CREATE TRIGGER {table}_not_updated BEFORE UPDATE ON {table} {refuse}")
            op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
