"""Version of the worker that paused a lane: in a roll only one of two may have to.

Every role may read which versions the schema is for: a worker's role may have no rights on new tables yet.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the version before leaves it empty."""
    op.add_column("lane_pauses", sa.Column("version", sa.Text()))
    if op.get_context().dialect.name == "postgresql":
        op.execute("GRANT SELECT ON schema_compatibility TO PUBLIC")


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("lane_pauses", "version")
