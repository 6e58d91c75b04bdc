"""Operations are found: two indexes on those that are few beside usage.

One has what is rejected or isn't usage, by time; the other what has no entries, by user. Usage with entries,
which is nearly all, is in neither: it costs nothing more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_operations_notable", ["recorded_at", "operation_id"], "status = 2 OR type >= 20"),
    ("ix_operations_unposted", ["user_id", "recorded_at", "operation_id"], "first_entry IS NULL"),
)


def upgrade() -> None:
    """Build the indexes; on PostgreSQL beside the workers."""
    if op.get_context().dialect.name != "postgresql":
        _make_indexes(concurrently=False)
        return
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # they wait for older transactions, and hold nobody up
        _make_indexes(concurrently=True)
        op.execute("SET lock_timeout = '2s'")


def _make_indexes(*, concurrently: bool) -> None:
    """Make the indexes; a broken build is dropped first."""
    for name, columns, where in _INDEXES:
        op.drop_index(name, "operations", if_exists=True, postgresql_concurrently=concurrently)
        op.create_index(
            name,
            "operations",
            columns,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
            postgresql_concurrently=concurrently,
        )
