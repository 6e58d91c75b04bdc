"""Workers that run, a row each, and the pauses that operators have asked for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add the tables; no row of the ledger changes. The version before writes into neither."""
    op.create_table(
        "workers",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("supervisor", sa.BigInteger()),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("settings_hash", sa.Text(), nullable=False),
        sa.Column("changed_settings", _JSON, nullable=False),
        sa.Column("catalog_hash", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("why", sa.Text()),
        sa.Column("lanes", _JSON, nullable=False),
        sa.Column("last_batch_at", _TIME),
        sa.Column("last_batch_size", sa.BigInteger()),
        sa.Column("pauses_seen_at", _TIME),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_workers")),
    )
    op.create_table(
        "operator_pauses",
        sa.Column("pause_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("type", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("ended_by", sa.Text()),
        sa.Column("returned_at", _TIME),
        sa.CheckConstraint("kind IN ('pause', 'quiesce')", name=op.f("ck_operator_pauses_kind_known")),
        sa.PrimaryKeyConstraint("pause_id", name=op.f("pk_operator_pauses")),
    )
    op.create_index(op.f("ix_operator_pauses_returned_at"), "operator_pauses", ["returned_at"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("operator_pauses")
    op.drop_table("workers")
