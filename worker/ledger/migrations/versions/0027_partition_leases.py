"""Leases of partitions: workers agree on whose queues each takes.

Two new tables of a few rows. Workers of the versions before don't know them, and take the queues without a
partition as ever.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0021"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the tables; no row of the ledger changes."""
    op.create_table(
        "partition_leases",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("expires_at", _TIME),
        sa.CheckConstraint(
            "(worker IS NULL) = (expires_at IS NULL)", name=op.f("ck_partition_leases_held_until")
        ),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_partition_leases")),
    )
    op.create_table(
        "partition_workers",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("partitions", sa.SmallInteger(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_partition_workers")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("partition_workers")
    op.drop_table("partition_leases")
