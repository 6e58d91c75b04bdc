"""Names of payments that are still to come: which of them are the same, and the command that says so.

A rejected command about names is an incident, as all about payments are: their index is made anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_INCIDENTS = "(status = 2 AND type IN (20, 21, 22, 23, 24, 26, 27, 50, 51)) OR code IN (32, 34)"
_NUMBERS = [
    ("type", 27, "payment.named"),
    ("code", 43, "payment_named"),
    ("code", 44, "cancellation_late"),
]


def upgrade() -> None:
    """Add the column, make the index on incidents anew, and number the names."""
    # Both dialects take a check with a column that is added.
    op.execute(
        "ALTER TABLE payment_names ADD COLUMN same_as TEXT"
        f" CONSTRAINT {op.f('ck_payment_names_bound_or_to_come')}"
        " CHECK (same_as IS NULL OR user_id IS NULL)"
    )
    is_known = sa.text("same_as IS NOT NULL")
    op.create_index(
        "ix_payment_names_same_as",
        "payment_names",
        ["same_as"],
        postgresql_where=is_known,
        sqlite_where=is_known,
    )
    op.drop_index("ix_operations_incidents", "operations")
    is_incident = sa.text(_INCIDENTS)
    op.create_index(
        "ix_operations_incidents",
        "operations",
        ["recorded_at", "operation_id"],
        postgresql_where=is_incident,
        sqlite_where=is_incident,
    )
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(
        identifiers, [{"kind": kind, "number": number, "name": name} for kind, number, name in _NUMBERS]
    )
