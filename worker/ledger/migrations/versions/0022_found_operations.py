"""Operations are found, and say which catalog they were judged with.

Two indexes have what is few beside usage: what is rejected or isn't usage, by time, and what is applied
without entries, by user. Usage with entries, which is nearly all, is in neither. A third has the accounts in
debt. Each catalog is kept once; earlier outcomes, and those that the version before writes beside this one,
name none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_operations_notable", "operations", ["recorded_at", "operation_id"], "status = 2 OR type >= 20"),
    (
        "ix_operations_unposted",
        "operations",
        ["user_id", "recorded_at", "operation_id"],
        "status = 1 AND first_entry IS NULL",
    ),
    ("ix_accounts_in_debt", "accounts", ["debt", "account_id"], "debt > 0"),
)
_OUTCOMES = ("operations", "superseded_outcomes")


def upgrade() -> None:
    """Add the table and the columns, and build the indexes; on PostgreSQL beside the workers."""
    if op.get_context().dialect.name != "postgresql":
        _create_catalogs(sa.DateTime())
        for table in _OUTCOMES:
            op.execute(f"ALTER TABLE {table} ADD COLUMN catalog_id SMALLINT")
        _guard_sqlite()
        _make_indexes(concurrently=False)
        return
    # Committed before the indexes: all of it may be there when the rest is tried again.
    _create_catalogs(sa.DateTime(timezone=True))
    for table in _OUTCOMES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS catalog_id SMALLINT")
    _guard_postgresql()
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # they wait for older transactions, and hold nobody up
        _make_indexes(concurrently=True)
        op.execute("SET lock_timeout = '2s'")


def _create_catalogs(time: sa.DateTime) -> None:
    op.create_table(
        "catalogs",
        sa.Column("catalog_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("first_seen_at", time, nullable=False),
        sa.PrimaryKeyConstraint("catalog_id", name=op.f("pk_catalogs")),
        sa.UniqueConstraint("digest", name=op.f("uq_catalogs_digest")),
        if_not_exists=True,
    )


def _make_indexes(*, concurrently: bool) -> None:
    """Make the indexes; a broken build is dropped first."""
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


# -- guards -----------------------------------------------------------------------------------------------

# A higher attempt is judged with another catalog, perhaps; else the catalog of an operation stays.
_REFUSED = "OLD.catalog_id IS {differs} NEW.catalog_id AND NOT (OLD.status = 2 AND NEW.attempt > OLD.attempt)"


def _guard_postgresql() -> None:
    refuse = "EXECUTE FUNCTION ledger_refuses()"
    is_refused = _REFUSED.format(differs="DISTINCT FROM")
    for trigger in (
        f"catalogs_append_only BEFORE UPDATE OR DELETE ON catalogs FOR EACH ROW {refuse}",
        f"catalogs_not_truncated BEFORE TRUNCATE ON catalogs FOR EACH STATEMENT {refuse}",
        f"operations_catalog BEFORE UPDATE ON operations FOR EACH ROW WHEN ({is_refused}) {refuse}",
    ):
        op.execute(f"CREATE OR REPLACE TRIGGER {trigger}")


def _guard_sqlite() -> None:
    refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
    op.execute(f"CREATE TRIGGER catalogs_not_updated BEFORE UPDATE ON catalogs {refuse}")
    op.execute(f"CREATE TRIGGER catalogs_not_deleted BEFORE DELETE ON catalogs {refuse}")
    is_refused = _REFUSED.format(differs="NOT")
    op.execute(f"CREATE TRIGGER operations_catalog BEFORE UPDATE ON operations WHEN {is_refused} {refuse}")
