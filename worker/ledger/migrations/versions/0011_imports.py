"""Imported accounts: when one came from another system, and its command among those about subscriptions."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SUBSCRIPTIONS = "ix_operations_subscriptions"
_TYPES = "type IN (60, 50, 51, 52, 62)"
_NUMBERS = [
    ("type", 25, "payment.import"),
    ("type", 62, "account.import"),
    ("code", 30, "account_imported"),
    ("code", 31, "payment_imported"),
    ("code", 130, "reference_taken"),
    ("code", 131, "allocation_outlasts_period"),
]


def upgrade() -> None:
    """Add the column, make the index anew, and number the names; no row of the ledger changes."""
    op.add_column("accounts", sa.Column("imported_at", sa.DateTime(timezone=True)))
    op.drop_index(op.f(_SUBSCRIPTIONS), "operations")
    is_about = sa.text(_TYPES)
    op.create_index(
        op.f(_SUBSCRIPTIONS), "operations", ["user_id"], postgresql_where=is_about, sqlite_where=is_about
    )
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(
        identifiers, [{"kind": kind, "number": number, "name": name} for kind, number, name in _NUMBERS]
    )
