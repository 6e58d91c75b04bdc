"""Lots: a balance is made of what was credited; and the periods, holds, refunds and reversals that move them.

The balance of an account until now becomes its first lot, ``carried_over``: it never runs out and is spent
like a purchase. Periods begin with the months of the calendar, as the quotas have counted them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_CARRIED_OVER_PRIORITY = 50

_NEW_CHECKS = {
    "accounts": {
        "held_is_covered": "balance >= held - debt",
        "balance_is_its_sums": (
            "balance = allocated + purchased + bonus + refunded + adjusted - used - expired - reversed"
        ),
        "numbers_not_negative": "sequence >= 0 AND lot_count >= 0",
        "sums_not_negative": (
            "allocated >= 0 AND purchased >= 0 AND bonus >= 0 AND refunded >= 0 AND used >= 0"
            " AND expired >= 0 AND held >= 0 AND debt >= 0 AND period_granted >= 0"
        ),
    },
    "operations": {
        "applied_has_amounts": (
            "status = 'rejected'"
            " OR (amount >= 0 AND balance_before IS NOT NULL AND balance_after IS NOT NULL)"
        ),
        "rejected_moves_nothing": (
            "status = 'applied' OR (amount IS NULL AND first_entry IS NULL AND notices IS NULL)"
        ),
        "entries_in_order": "first_entry <= last_entry",
    },
    "entries": {
        "counter_gives_the_sign": (
            "(counter IN ('usage', 'expiry') AND amount < 0 AND lot IS NOT NULL)"
            " OR (counter IN ('allocation', 'purchases', 'bonus', 'refunds') AND amount > 0)"
            " OR counter IN ('adjustments', 'reversals', 'transfers')"
        ),
    },
}
_OLD_CHECKS = {
    "accounts": (
        "balance_not_negative",
        "balance_is_its_sums",
        "sequence_not_negative",
        "sums_not_negative",
    ),
    "operations": ("applied_has_amounts", "rejected_moves_nothing"),
    "entries": ("balances_not_negative", "counter_gives_the_sign"),
}

# The accounts first: a worker that holds any of these holds them already, and the others wait there.
_LOCKED = "accounts, operations, superseded_outcomes, entries"

# A table comes after the tables that it refers to.
_LINKED = (
    "accounts",
    "operations",
    "superseded_outcomes",
    "entries",
    "payments",
    "quotas",
    "quota_entries",
)

_APPEND_ONLY = ("usage_refunds", "payment_events", "hold_parts")
_LOT_AS_GRANTED = (
    "account_id",
    "number",
    "operation_id",
    "source",
    "granted",
    "priority",
    "effective_at",
    "expires_at",
    "parent",
)
_HOLD_AS_OPENED = ("operation_id", "account_id", "reference_id", "amount", "opened_at", "expires_at")


def upgrade() -> None:
    """Add the columns, the tables and their guards, and carry over what there is."""
    if _on_postgresql():
        _alter_on_postgresql()
    else:
        _alter_on_sqlite()
    op.create_index(
        op.f("ix_accounts_due_at"),
        "accounts",
        ["due_at", "account_id"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    kept = sa.text(
        "type IN ('account.open', 'subscription.change', 'subscription.renew', 'subscription.cancel')"
    )
    op.create_index(
        op.f("ix_operations_subscriptions"),
        "operations",
        ["user_id"],
        postgresql_where=kept,
        sqlite_where=kept,
    )
    _create_tables()
    _carry_over()
    if _on_postgresql():
        _guard_postgresql()
    else:
        _guard_sqlite()


def _alter_on_postgresql() -> None:
    op.execute(f"LOCK TABLE {_LOCKED} IN ACCESS EXCLUSIVE MODE")
    _add_columns()
    op.execute("ALTER TABLE operations DISABLE TRIGGER operations_final")
    # A merge goes through the operations in their order, in half the time of a hash that jumps among them.
    op.execute("SET LOCAL enable_hashjoin = off")
    _fill_columns()
    op.execute("RESET enable_hashjoin")
    op.execute("ALTER TABLE operations ENABLE TRIGGER operations_final")
    for table in _NEW_CHECKS:
        _replace_checks(table)


def _alter_on_sqlite() -> None:
    _add_columns()
    schema = _schema_of(_LINKED)
    op.execute("DROP TRIGGER operations_final")  # the rebuilding brings it back
    _fill_columns()
    _rebuild(schema)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


# -- columns ----------------------------------------------------------------------------------------------


def _add_columns() -> None:
    for name in ("adjusted", "expired", "reversed", "held", "debt", "lot_count"):
        op.add_column("accounts", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("accounts", sa.Column("alerts", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("accounts", sa.Column("anchor", _TIME))
    op.add_column("accounts", sa.Column("granted_until", _TIME))
    op.add_column(
        "accounts", sa.Column("period_granted", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column("accounts", sa.Column("ends_at", _TIME))
    op.add_column("accounts", sa.Column("due_at", _TIME))
    for table in ("operations", "superseded_outcomes"):
        op.add_column(table, sa.Column("first_entry", sa.BigInteger()))
        op.add_column(table, sa.Column("last_entry", sa.BigInteger()))
        op.add_column(table, sa.Column("notices", _JSON))
    # The default fills the rows that are there without writing them, and is taken away again.
    op.add_column("entries", sa.Column("lot", sa.BigInteger(), server_default="1"))
    op.add_column("entries", sa.Column("due_at", _TIME))


def _fill_columns() -> None:
    """Begin every account's periods with its first month, and set the entries that every operation wrote.

    The present month counts as granted. The next one is looked at when it ends.
    """
    first_month = (
        "date_trunc('month', opened_at, 'UTC')"
        if _on_postgresql()
        else "strftime('%Y-%m-01 00:00:00.000000', opened_at)"
    )
    op.execute(
        sa.text(
            f"UPDATE accounts SET anchor = {first_month}, granted_until = :next_month, due_at = :next_month,"  # noqa: S608 - one of the two above
            " period_granted = allocated, lot_count = CASE WHEN sequence > 0 THEN 1 ELSE 0 END"
        ).bindparams(sa.bindparam("next_month", _next_month(datetime.now(UTC)), _TIME))
    )
    op.execute(
        "UPDATE operations SET first_entry = moved.first_entry, last_entry = moved.last_entry"
        " FROM (SELECT operation_id, min(sequence) AS first_entry, max(sequence) AS last_entry"
        " FROM entries GROUP BY operation_id) AS moved"
        " WHERE moved.operation_id = operations.operation_id"
    )


def _next_month(moment: datetime) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def _carry_over() -> None:
    carried = op.get_bind().execute(
        sa.text(
            "INSERT INTO lots"
            " (account_id, number, source, granted, remaining, is_open, priority, effective_at)"
            " SELECT account_id, 1, 'carried_over', allocated + purchased + bonus + refunded, balance,"
            " balance > 0, :priority, opened_at FROM accounts WHERE lot_count = 1"
        ),
        {"priority": _CARRIED_OVER_PRIORITY},
    )
    op.create_index(
        op.f("ix_lots_open"),
        "lots",
        ["account_id"],
        postgresql_where=sa.text("is_open"),
        sqlite_where=sa.text("is_open"),
    )
    if _on_postgresql() and carried.rowcount:
        # Without statistics the first batches would scan what they should look up.
        op.execute("ANALYZE accounts, lots")


# -- constraints ------------------------------------------------------------------------------------------


def _checks(table: str) -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))
        for name, condition in _NEW_CHECKS[table].items()
    ]


def _replace_checks(table: str) -> None:
    """Replace the checks in one statement, so that PostgreSQL reads the table once for all of them."""
    changes = [f"DROP CONSTRAINT ck_{table}_{name}" for name in _OLD_CHECKS[table]]
    changes += [
        f"ADD CONSTRAINT ck_{table}_{name} CHECK ({condition})"
        for name, condition in _NEW_CHECKS[table].items()
    ]
    match table:
        case "accounts":
            changes += [f"ALTER {column} SET NOT NULL" for column in ("anchor", "granted_until")]
        case "entries":
            changes += ["ALTER lot DROP DEFAULT"]
    op.execute(f"ALTER TABLE {table} {', '.join(changes)}")


def _schema_of(tables: tuple[str, ...]) -> list[sa.Row[Any]]:
    """Type, name and SQL of the tables, their indexes and their triggers, as SQLite keeps them."""
    statement = sa.text(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name IN :tables AND sql IS NOT NULL"
    ).bindparams(sa.bindparam("tables", tables, expanding=True))
    return list(op.get_bind().execute(statement))


def _rebuild(schema: list[sa.Row[Any]]) -> None:
    """Make and fill the tables again: SQLite can't change a constraint, nor drop the default of a column.

    All that are linked, because foreign keys follow a table that is renamed and can't be switched off
    inside a transaction. Indexes and triggers come back as they were.
    """
    connection = op.get_bind()
    changed = {"accounts": _create_accounts, "operations": _create_operations, "entries": _create_entries}
    unchanged = {row.name: row.sql for row in schema if row.type == "table" and row.name not in changed}
    for table in _LINKED:
        op.rename_table(table, f"{table}_0001")
    for table in _LINKED:
        if table in changed:
            changed[table]()
        else:
            connection.exec_driver_sql(unchanged[table])
        names = ", ".join(column["name"] for column in sa.inspect(connection).get_columns(table))
        op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}_0001")  # noqa: S608 - names of the schema
    for table in reversed(_LINKED):
        op.drop_table(f"{table}_0001")
    for row in schema:
        if row.type != "table":
            connection.exec_driver_sql(row.sql)


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", _ROW_ID, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
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
        sa.Column("lot_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("alerts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("anchor", _TIME, nullable=False),
        sa.Column("granted_until", _TIME, nullable=False),
        sa.Column("period_granted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ends_at", _TIME),
        sa.Column("due_at", _TIME),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        *_checks("accounts"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("user_id", name=op.f("uq_accounts_user_id")),
    )


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("operation_id", _ROW_ID, nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger()),
        sa.Column("balance_before", sa.BigInteger()),
        sa.Column("balance_after", sa.BigInteger()),
        sa.Column("detail", _JSON),
        sa.Column("occurred_at", _TIME),
        sa.Column("metadata", _JSON),
        sa.Column("description", sa.Text()),
        sa.Column("first_entry", sa.BigInteger()),
        sa.Column("last_entry", sa.BigInteger()),
        sa.Column("notices", _JSON),
        sa.Column("recorded_at", _TIME, nullable=False),
        *_checks("operations"),
        sa.CheckConstraint("status IN ('applied', 'rejected')", name=op.f("ck_operations_status_known")),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_operations_attempt_from_one")),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_operations")),
        sa.UniqueConstraint("reference_id", name=op.f("uq_operations_reference_id")),
    )


def _create_entries() -> None:
    op.create_table(
        "entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_before", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("lot", sa.BigInteger()),
        sa.Column("feature", sa.Text()),
        sa.Column("due_at", _TIME),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        *_checks("entries"),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_entries_amount_not_zero")),
        sa.CheckConstraint(
            "balance_after = balance_before + amount", name=op.f("ck_entries_after_is_before_plus_amount")
        ),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_entries_sequence_from_one")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_entries_account_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_entries_operation_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "sequence", name=op.f("pk_entries")),
    )


# -- the new tables ---------------------------------------------------------------------------------------


def _create_tables() -> None:
    op.create_table(
        "lots",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pending", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("is_noticed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("effective_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("parent", sa.BigInteger()),
        sa.CheckConstraint("number >= 1", name=op.f("ck_lots_number_from_one")),
        sa.CheckConstraint("granted > 0", name=op.f("ck_lots_granted_positive")),
        sa.CheckConstraint(
            "held >= 0 AND remaining >= held AND pending >= 0", name=op.f("ck_lots_amounts_not_negative")
        ),
        sa.CheckConstraint("remaining + pending <= granted", name=op.f("ck_lots_no_more_than_granted")),
        sa.CheckConstraint(
            "is_open = (remaining > 0 OR pending > 0)", name=op.f("ck_lots_open_while_something_is_left")
        ),
        sa.CheckConstraint("expires_at > effective_at", name=op.f("ck_lots_expires_after_it_takes_effect")),
        sa.CheckConstraint(
            "source IN ('allocation', 'purchase', 'purchase_bonus', 'bonus', 'refund', 'adjustment',"
            " 'carried_over')",
            name=op.f("ck_lots_source_known"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_lots_account_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_lots_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "parent"], ["lots.account_id", "lots.number"], name=op.f("fk_lots_parent")
        ),
        sa.PrimaryKeyConstraint("account_id", "number", name=op.f("pk_lots")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_table(
        "holds",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("captured", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("closed_at", _TIME),
        sa.Column("closed_by", sa.BigInteger()),
        sa.CheckConstraint(
            "state IN ('open', 'settled', 'released', 'expired')", name=op.f("ck_holds_state_known")
        ),
        sa.CheckConstraint("amount > 0 AND captured >= 0", name=op.f("ck_holds_amounts_not_negative")),
        sa.CheckConstraint("state = 'settled' OR captured = 0", name=op.f("ck_holds_only_settled_captures")),
        sa.CheckConstraint(
            "(state = 'open') = (closed_at IS NULL) AND (state = 'open') = (closed_by IS NULL)",
            name=op.f("ck_holds_closed_has_an_end"),
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_holds_operation_id")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_holds_account_id")),
        sa.ForeignKeyConstraint(["closed_by"], ["operations.operation_id"], name=op.f("fk_holds_closed_by")),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_holds")),
    )
    op.create_index(
        op.f("ix_holds_open"),
        "holds",
        ["account_id"],
        postgresql_where=sa.text("state = 'open'"),
        sqlite_where=sa.text("state = 'open'"),
    )
    op.create_index(op.f("ix_holds_account_id"), "holds", ["account_id"])
    op.create_table(
        "hold_parts",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("lot", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_hold_parts_amount_positive")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["holds.operation_id"], name=op.f("fk_hold_parts_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "lot"], ["lots.account_id", "lots.number"], name=op.f("fk_hold_parts_lot")
        ),
        sa.PrimaryKeyConstraint("operation_id", "place", name=op.f("pk_hold_parts")),
    )
    op.create_table(
        "usage_refunds",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("original_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint("tokens > 0", name=op.f("ck_usage_refunds_tokens_positive")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_usage_refunds_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["original_id"], ["operations.operation_id"], name=op.f("fk_usage_refunds_original_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.account_id"], name=op.f("fk_usage_refunds_account_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_usage_refunds")),
    )
    op.create_index(op.f("ix_usage_refunds_original_id"), "usage_refunds", ["original_id"])
    op.create_table(
        "payment_events",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("payment_reference", sa.Text(), nullable=False),
        sa.Column("happened", sa.Text(), nullable=False),
        sa.Column("dispute_id", sa.Text()),
        sa.Column("amount_minor", sa.BigInteger()),
        sa.Column("currency", sa.String(length=3)),
        sa.Column("occurred_at", _TIME),
        sa.Column("collected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("uncollected", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint(
            "happened IN ('refunded', 'disputed', 'dispute_won', 'dispute_lost', 'failed', 'succeeded')",
            name=op.f("ck_payment_events_happened_known"),
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_payment_events_amount_positive")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_payment_events_operation_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.account_id"], name=op.f("fk_payment_events_account_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_payment_events")),
    )
    op.create_index(op.f("ix_payment_events_payment_reference"), "payment_events", ["payment_reference"])


# -- the guards -------------------------------------------------------------------------------------------


def _guard_postgresql() -> None:
    refuse = "EXECUTE FUNCTION ledger_refuses()"
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}"
        )
    for table, name, update, is_refused in _refused_updates("IS DISTINCT FROM"):
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} FOR EACH ROW {refuse}")
        op.execute(f"CREATE TRIGGER {name} BEFORE {update} FOR EACH ROW WHEN ({is_refused}) {refuse}")
    for table in (*_APPEND_ONLY, "lots", "holds"):
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


def _refused_updates(differs: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield for each partly changeable table its name, its guard's name and event, and what that refuses."""

    def changed(columns: tuple[str, ...]) -> str:
        old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("OLD", "NEW"))
        return f"({new}) {differs} ({old})"

    # A lot is used up, and noticed once; what it was granted as stays. The guard looks at statements that set
    # any of it, and costs nothing where only what remains is set, which is with every deduction.
    update = f"UPDATE OF {', '.join((*_LOT_AS_GRANTED, 'is_noticed'))} ON lots"
    yield (
        "lots",
        "lots_as_granted",
        update,
        f"{changed(_LOT_AS_GRANTED)} OR (OLD.is_noticed AND NOT NEW.is_noticed)",
    )
    # A hold ends once.
    ends = "OLD.state = 'open' AND NEW.state <> 'open'"
    yield "holds", "holds_final", "UPDATE ON holds", f"NOT ({ends}) OR {changed(_HOLD_AS_OPENED)}"
