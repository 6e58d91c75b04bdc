"""Recoveries from the journal, and the place that each has reached."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table; no row of the ledger changes."""
    op.create_table(
        "recoveries",
        sa.Column("recovery_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("last_offset", sa.BigInteger(), nullable=False),
        sa.Column("published", sa.BigInteger(), nullable=False),
        sa.Column("dead_letters", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.CheckConstraint(
            "first_offset <= next_offset AND next_offset <= last_offset + 1",
            name=op.f("ck_recoveries_offsets_in_order"),
        ),
        sa.PrimaryKeyConstraint("recovery_id", name=op.f("pk_recoveries")),
    )
