"""Names of payments that are still to come: which of them are the same, and the command that says so.

A rejected command about names is an incident, as all about payments are: their index is made anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_INCIDENTS = "(status = 2 AND type IN (20, 21, 22, 23, 24, 26, 27, 50, 51)) OR code IN (32, 34)"
_NUMBERS = [
    ("type", 27, "payment.named"),
    ("code", 43, "payment_named"),
    ("code", 44, "cancellation_late"),
]


_IS_KNOWN = "same_as IS NOT NULL"


def upgrade() -> None:
    """Add the column, make the index on incidents anew, and number the names.

    No CHECK says that a bound name is the same as none: the version before binds names without the column.
    """
    if op.get_context().dialect.name == "postgresql":
        # Committed by itself: it may be there when the rest is tried again.
        op.execute("ALTER TABLE payment_names ADD COLUMN IF NOT EXISTS same_as TEXT")
        with op.get_context().autocommit_block():
            op.execute("SET lock_timeout = 0")  # they wait for older transactions, and hold nobody up
            _make_indexes(concurrently=True)
            op.execute("SET lock_timeout = '2s'")
    else:
        op.execute("ALTER TABLE payment_names ADD COLUMN same_as TEXT")
        _make_indexes(concurrently=False)
    for kind, number, name in _NUMBERS:
        op.execute(f"INSERT INTO identifiers (kind, number, name) VALUES ('{kind}', {number}, '{name}')")  # noqa: S608 - ours


def _make_indexes(*, concurrently: bool) -> None:
    """Make the index on names to come, and the one on incidents anew; a broken build is dropped first."""
    for name, table, columns, where in (
        ("ix_payment_names_same_as", "payment_names", ["same_as"], _IS_KNOWN),
        ("ix_operations_incidents", "operations", ["recorded_at", "operation_id"], _INCIDENTS),
    ):
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=concurrently)
        op.create_index(
            name,
            table,
            columns,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
            postgresql_concurrently=concurrently,
        )
