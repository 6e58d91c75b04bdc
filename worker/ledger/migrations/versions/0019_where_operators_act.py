"""The activity log has the system's user and the host beside the actor.

Both are unknown for earlier entries, and for what is done in the console. The columns are nullable and have
no default: the lock is held for an instant, and an earlier version goes on writing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_COLUMNS = ("os_user", "host")


def upgrade() -> None:
    """Add the columns."""
    for name in _COLUMNS:
        op.add_column("audit_log", sa.Column(name, sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop the columns, and what they said."""
    for name in _COLUMNS:
        op.drop_column("audit_log", name)
