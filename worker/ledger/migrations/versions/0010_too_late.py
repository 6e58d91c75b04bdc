"""Name of the code ``too_late`` beside its number, for readers of SQL."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the name; no row of the ledger changes."""
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(identifiers, [{"kind": "code", "number": 120, "name": "too_late"}])
