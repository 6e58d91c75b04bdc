"""Dead letters as sets: edits of many, those that the ledger shows as applied, and when a replay stops.

The version before leaves the new columns empty: its edits are of one dead letter, its replays stop as before,
and the time that they ran is unknown.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_COLUMNS = (
    ("dead_letters", "applied_at", "TIMESTAMP WITH TIME ZONE", "DATETIME"),
    ("dead_letter_edits", "set_edit_id", "BIGINT", "BIGINT"),
    ("replays", "stop_on", "JSONB", "JSON"),
    ("replays", "running_since", "TIMESTAMP WITH TIME ZONE", "DATETIME"),
    ("replays", "ran_ms", "BIGINT", "BIGINT"),
)
_INDEXES = (
    ("ix_dead_letters_applied", "dead_letters", ["fingerprint", "number"], "applied_at IS NOT NULL"),
    ("ix_dead_letter_edits_set", "dead_letter_edits", ["set_edit_id", "number"], "set_edit_id IS NOT NULL"),
)


def upgrade() -> None:
    """Add the table of edits of sets, the columns and their indexes; no row changes."""
    is_postgresql = op.get_context().dialect.name == "postgresql"
    if not is_postgresql:
        for table, column, _, kind in _COLUMNS:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        _make_indexes(concurrently=False)
    else:
        # Committed by themselves: they may be there when the rest is tried again.
        for table, column, kind, _ in _COLUMNS:
            op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {kind}")
        with op.get_context().autocommit_block():
            op.execute("SET lock_timeout = 0")  # they wait for older transactions, and hold nobody up
            _make_indexes(concurrently=True)
            op.execute("SET lock_timeout = '2s'")
    op.create_table(
        "dead_letter_set_edits",
        sa.Column("set_edit_id", _ROW_ID, sa.Identity(always=True), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("changes", _JSON, nullable=False),
        sa.Column("undoes", sa.BigInteger()),
        sa.PrimaryKeyConstraint("set_edit_id", name=op.f("pk_dead_letter_set_edits")),
    )
    _guard(is_postgresql=is_postgresql)


def _make_indexes(*, concurrently: bool) -> None:
    """Make the indexes; one whose build broke off is dropped first."""
    for name, table, columns, where in _INDEXES:
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=concurrently)
        op.create_index(
            name,
            table,
            columns,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
            postgresql_concurrently=concurrently,
        )


def _guard(*, is_postgresql: bool) -> None:
    """Refuse every change of an edit of a set, as of all history."""
    table = "dead_letter_set_edits"
    if not is_postgresql:
        refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
        op.execute(f"CREATE TRIGGER {table}_not_updated BEFORE UPDATE ON {table} {refuse}")
        op.execute(f"CREATE TRIGGER {table}_not_deleted BEFORE DELETE ON {table} {refuse}")
        return
    refuse = "EXECUTE FUNCTION ledger_refuses()"
    op.execute(f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}")
    op.execute(f"CREATE TRIGGER {table}_not_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}")
