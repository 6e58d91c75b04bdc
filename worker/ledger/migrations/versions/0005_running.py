"""State of running workers: probes that write, messages on trial, paused lanes, accepted configurations."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables; no row of the ledger changes."""
    op.create_table(
        "write_probes",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_write_probes")),
    )
    op.create_table(
        "trials",
        sa.Column("message_key", sa.String(64), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("together", sa.Integer(), nullable=False),
        sa.Column("alone", sa.Integer(), nullable=False),
        sa.Column("delivery_count", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.CheckConstraint("together > 0 AND alone >= 0", name=op.f("ck_trials_counts_possible")),
        sa.PrimaryKeyConstraint("message_key", name=op.f("pk_trials")),
    )
    op.create_table(
        "lane_pauses",
        sa.Column("pause_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("resumed_by", sa.Text()),
        sa.PrimaryKeyConstraint("pause_id", name=op.f("pk_lane_pauses")),
    )
    op.create_index(op.f("ix_lane_pauses_ended_at_queue"), "lane_pauses", ["ended_at", "queue"])
    op.create_table(
        "accepted_configs",
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("accepted_at", _TIME, nullable=False),
        sa.Column("accepted_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("config", name=op.f("pk_accepted_configs")),
    )
