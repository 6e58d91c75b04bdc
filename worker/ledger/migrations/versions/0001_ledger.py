"""The ledger: accounts, operations, entries, quotas, payments, dead letters, and the guards around them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_APPEND_ONLY = ("entries", "quota_entries", "payments", "superseded_outcomes")

# An operation is rewritten only where a rejection is judged anew by a higher attempt.
_MAY_BE_JUDGED_ANEW = (
    "OLD.status = 'rejected' AND NEW.attempt > OLD.attempt AND NEW.operation_id = OLD.operation_id"
    " AND NEW.reference_id = OLD.reference_id AND NEW.type = OLD.type AND NEW.user_id = OLD.user_id"
)


def upgrade() -> None:
    """Make the tables and the triggers."""
    _create_tables()
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def _create_tables() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("allocated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("purchased", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bonus", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.CheckConstraint(
            "allocated >= 0 AND purchased >= 0 AND bonus >= 0 AND refunded >= 0 AND used >= 0",
            name=op.f("ck_accounts_sums_not_negative"),
        ),
        sa.CheckConstraint(
            "balance = allocated + purchased + bonus + refunded - used",
            name=op.f("ck_accounts_balance_is_its_sums"),
        ),
        sa.CheckConstraint("balance >= 0", name=op.f("ck_accounts_balance_not_negative")),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_accounts_sequence_not_negative")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("user_id", name=op.f("uq_accounts_user_id")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_table(
        "dead_letters",
        sa.Column("number", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("letter_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failed_at", _TIME, nullable=False),
        sa.Column("last_failed_at", _TIME, nullable=False),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("reference_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("worker_version", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("properties", _JSON, nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('parked', 'replayed', 'discarded')", name=op.f("ck_dead_letters_status_known")
        ),
        sa.CheckConstraint("attempts >= 1", name=op.f("ck_dead_letters_attempts_from_one")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("letter_id", name=op.f("uq_dead_letters_letter_id")),
    )
    op.create_table(
        "operations",
        sa.Column("operation_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("balance_before", sa.BigInteger(), nullable=True),
        sa.Column("balance_after", sa.BigInteger(), nullable=True),
        sa.Column("detail", _JSON, nullable=True),
        sa.Column("occurred_at", _TIME, nullable=True),
        sa.Column("metadata", _JSON, nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint(
            "status = 'applied' OR amount IS NULL", name=op.f("ck_operations_rejected_moves_nothing")
        ),
        sa.CheckConstraint(
            "status = 'rejected' OR (amount >= 0 AND balance_after >= 0)",
            name=op.f("ck_operations_applied_has_amounts"),
        ),
        sa.CheckConstraint("status IN ('applied', 'rejected')", name=op.f("ck_operations_status_known")),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_operations_attempt_from_one")),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_operations")),
        sa.UniqueConstraint("reference_id", name=op.f("uq_operations_reference_id")),
    )
    op.create_table(
        "entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_before", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=True),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint(
            "(counter = 'usage' AND amount < 0)"
            " OR (counter IN ('allocation', 'purchases', 'bonus', 'refunds') AND amount > 0)",
            name=op.f("ck_entries_counter_gives_the_sign"),
        ),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_entries_amount_not_zero")),
        sa.CheckConstraint(
            "balance_after = balance_before + amount", name=op.f("ck_entries_after_is_before_plus_amount")
        ),
        sa.CheckConstraint(
            "balance_before >= 0 AND balance_after >= 0", name=op.f("ck_entries_balances_not_negative")
        ),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_entries_sequence_from_one")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_entries_account_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_entries_operation_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "sequence", name=op.f("pk_entries")),
    )
    op.create_table(
        "payments",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("package_id", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("base_tokens", sa.BigInteger(), nullable=False),
        sa.Column("bonus_tokens", sa.BigInteger(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_payments_amount_positive")),
        sa.CheckConstraint("base_tokens > 0 AND bonus_tokens >= 0", name=op.f("ck_payments_tokens_positive")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_payments_account_id")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_payments_operation_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_payments")),
    )
    op.create_index(op.f("ix_payments_account_id"), "payments", ["account_id"], unique=False)
    op.create_table(
        "quota_entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("used_before", sa.BigInteger(), nullable=False),
        sa.Column("used_after", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_quota_entries_amount_not_zero")),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_quota_entries_sequence_from_one")),
        sa.CheckConstraint(
            "used_after = used_before + amount", name=op.f("ck_quota_entries_after_is_before_plus_amount")
        ),
        sa.CheckConstraint(
            "used_before >= 0 AND used_after >= 0", name=op.f("ck_quota_entries_used_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.account_id"], name=op.f("fk_quota_entries_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_quota_entries_operation_id")
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "meter", "period_start", "sequence", name=op.f("pk_quota_entries")
        ),
    )
    op.create_table(
        "quotas",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_quotas_used_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.account_id"], name=op.f("fk_quotas_account_id")),
        sa.PrimaryKeyConstraint("account_id", "meter", "period_start", name=op.f("pk_quotas")),
    )
    op.create_table(
        "superseded_outcomes",
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("balance_before", sa.BigInteger(), nullable=True),
        sa.Column("balance_after", sa.BigInteger(), nullable=True),
        sa.Column("detail", _JSON, nullable=True),
        sa.Column("occurred_at", _TIME, nullable=True),
        sa.Column("metadata", _JSON, nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.CheckConstraint("status = 'rejected'", name=op.f("ck_superseded_outcomes_only_rejections")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_superseded_outcomes_operation_id")
        ),
        sa.PrimaryKeyConstraint("reference_id", "attempt", name=op.f("pk_superseded_outcomes")),
    )


def _guard_postgresql() -> None:
    op.execute(
        """
        CREATE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on % is refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION ledger_refuses()"
        )
    op.execute(
        "CREATE TRIGGER operations_not_deleted BEFORE DELETE ON operations"
        " FOR EACH ROW EXECUTE FUNCTION ledger_refuses()"
    )
    op.execute(
        "CREATE TRIGGER operations_final BEFORE UPDATE ON operations"
        f" FOR EACH ROW WHEN (NOT ({_MAY_BE_JUDGED_ANEW})) EXECUTE FUNCTION ledger_refuses()"
    )
    for table in (*_APPEND_ONLY, "operations"):
        op.execute(
            f"CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuses()"
        )


def _guard_sqlite() -> None:
    refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
    for table in _APPEND_ONLY:
        op.execute(f"CREATE TRIGGER {table}_not_updated BEFORE UPDATE ON {table} {refuse}")
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
    op.execute(f"CREATE TRIGGER operations_not_deleted BEFORE DELETE ON operations {refuse}")
    op.execute(
        "CREATE TRIGGER operations_final BEFORE UPDATE ON operations"
        f" WHEN NOT ({_MAY_BE_JUDGED_ANEW}) {refuse}"
    )
