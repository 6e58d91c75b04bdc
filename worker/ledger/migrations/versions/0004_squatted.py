"""Squatted references: a command of another kind takes its reference from a usage that moved nothing.

Until now only a higher attempt of the same type and user replaced an outcome, and only a rejection.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_KEY = ("reference_id", "attempt", "type", "user_id")

# A condition that comes to NULL would let through what it does not know.
_MOVED_NOTHING = (
    "{row}status = 'rejected' OR ({row}code IN ('tokens_deducted', 'free_upload_counted', 'usage_recorded')"
    " AND coalesce({row}amount, -1) = 0 AND {row}first_entry IS NULL AND coalesce({free_quantity}, 0) = 0)"
)
_FREE_QUANTITY = {
    "postgresql": "({row}detail ->> 'free_quantity')::bigint",
    "sqlite": "json_extract({row}detail, '$.free_quantity')",
}

_JUDGED_ANEW = (
    "OLD.status = 'rejected' AND NEW.attempt > OLD.attempt AND NEW.type = OLD.type"
    " AND NEW.user_id = OLD.user_id"
)
_TAKES_A_REFERENCE = " OR ".join(
    f"NEW.type LIKE '{kind}.%'" for kind in ("payment", "credit", "subscription", "account")
)


def upgrade() -> None:
    """Tell superseded outcomes apart by type and user, and let operations change hands."""
    if op.get_bind().dialect.name == "postgresql":
        _alter_on_postgresql()
    else:
        _alter_on_sqlite()


def _moved_nothing(dialect: str, row: str = "") -> str:
    return _MOVED_NOTHING.format(row=row, free_quantity=_FREE_QUANTITY[dialect].format(row=row))


def _may_be_replaced(dialect: str) -> str:
    is_taken = f"OLD.type LIKE 'usage.%' AND ({_TAKES_A_REFERENCE}) AND ({_moved_nothing(dialect, 'OLD.')})"
    return (
        "NEW.operation_id = OLD.operation_id AND NEW.reference_id = OLD.reference_id"
        f" AND (({_JUDGED_ANEW}) OR ({is_taken}))"
    )


def _alter_on_postgresql() -> None:
    # In the order in which workers come to them.
    op.execute("LOCK TABLE operations, superseded_outcomes IN ACCESS EXCLUSIVE MODE")
    op.execute(
        "ALTER TABLE superseded_outcomes"
        " DROP CONSTRAINT pk_superseded_outcomes,"
        f" ADD CONSTRAINT pk_superseded_outcomes PRIMARY KEY ({', '.join(_KEY)}),"
        " DROP CONSTRAINT ck_superseded_outcomes_only_rejections,"
        f" ADD CONSTRAINT ck_superseded_outcomes_moved_nothing CHECK ({_moved_nothing('postgresql')})"
    )
    op.execute("DROP TRIGGER operations_final ON operations")
    op.execute(
        "CREATE TRIGGER operations_final BEFORE UPDATE ON operations"
        f" FOR EACH ROW WHEN (NOT ({_may_be_replaced('postgresql')})) EXECUTE FUNCTION ledger_refuses()"
    )


def _alter_on_sqlite() -> None:
    """Make the table again: SQLite can't change a constraint. Its triggers go with the old one."""
    op.rename_table("superseded_outcomes", "superseded_outcomes_0003")
    _create_superseded_outcomes()
    names = ", ".join(c["name"] for c in sa.inspect(op.get_bind()).get_columns("superseded_outcomes"))
    op.execute(f"INSERT INTO superseded_outcomes ({names}) SELECT {names} FROM superseded_outcomes_0003")  # noqa: S608 - names of the schema
    op.drop_table("superseded_outcomes_0003")
    refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER superseded_outcomes_not_{event.lower()}d"
            f" BEFORE {event} ON superseded_outcomes {refuse}"
        )
    op.execute("DROP TRIGGER operations_final")
    op.execute(
        "CREATE TRIGGER operations_final BEFORE UPDATE ON operations"
        f" WHEN NOT ({_may_be_replaced('sqlite')}) {refuse}"
    )


def _create_superseded_outcomes() -> None:
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
        sa.CheckConstraint(_moved_nothing("sqlite"), name=op.f("ck_superseded_outcomes_moved_nothing")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.operation_id"], name=op.f("fk_superseded_outcomes_operation_id")
        ),
        sa.PrimaryKeyConstraint(*_KEY, name=op.f("pk_superseded_outcomes")),
    )
