"""Runs that reverse charges, and the charges of each."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables; no row of the ledger changes."""
    op.create_table(
        "reverse_runs",
        sa.Column("run_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rate", sa.Float()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text()),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", _TIME),
        sa.CheckConstraint("state IN ('open', 'finished')", name=op.f("ck_reverse_runs_state_known")),
        sa.CheckConstraint("rate > 0", name=op.f("ck_reverse_runs_rate_positive")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_reverse_runs")),
    )
    op.create_table(
        "reverse_items",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger()),
        sa.Column("free_quantity", sa.BigInteger()),
        sa.Column("sent_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("refunds", sa.BigInteger()),
        sa.Column("attempt", sa.BigInteger()),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.CheckConstraint(
            "state IN ('waiting', 'sent', 'reversed', 'rest_reversed', 'given_back_before', 'refused',"
            " 'dead_letter', 'cancelled')",
            name=op.f("ck_reverse_items_state_known"),
        ),
        sa.CheckConstraint(
            "tokens >= 0 AND free_quantity >= 0", name=op.f("ck_reverse_items_amounts_not_negative")
        ),
        sa.CheckConstraint("attempt >= 1 AND refunds >= 0", name=op.f("ck_reverse_items_numbers_possible")),
        sa.ForeignKeyConstraint(["run_id"], ["reverse_runs.run_id"], name=op.f("fk_reverse_items_run_id")),
        sa.PrimaryKeyConstraint("run_id", "operation_id", "slot", name=op.f("pk_reverse_items")),
    )
    op.create_index("ix_reverse_items_state", "reverse_items", ["run_id", "state", "operation_id"])
