"""Refused operations of a user are found by an index of their own, for the history that shows them.

They are few: applied operations are in none of it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_REJECTED = sa.text("status = 2")


def upgrade() -> None:
    """Add the index."""
    op.create_index(
        "ix_operations_refused",
        "operations",
        ["user_id", "recorded_at", "operation_id"],
        postgresql_where=_REJECTED,
        sqlite_where=_REJECTED,
    )
