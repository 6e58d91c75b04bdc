"""Compatibility of the schema: it says which versions of the code may write and read it.

From here on a revision only adds, so that the version before goes on beside the new one. A revision that no
longer fits older versions raises ``writers_from`` or ``readers_from``, in a release after all that need it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and its one row; versions before this one look at nothing but their own revision."""
    op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("writers_from", sa.Text(), nullable=False),
        sa.Column("readers_from", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_schema_compatibility_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_compatibility")),
    )
    op.execute("INSERT INTO schema_compatibility (id, writers_from, readers_from) VALUES (1, '0017', '0017')")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("schema_compatibility")
