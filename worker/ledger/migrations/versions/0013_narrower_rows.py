"""Narrower rows: what an operation and its entries said twice is kept once.

Entries lose their feature, which is in the content of their operation, and a counter-account is one
character, one byte: the row fills eleven words. An operation with entries has no last one where it wrote one,
and no balance before where that is the balance after it and its amount.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.types import UserDefinedType

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


class _OneByte(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        return '"char"'


_SYMBOL = sa.String(1).with_variant(_OneByte(), "postgresql")

# Name, number and symbol of each counter-account.
_COUNTERS = (
    ("allocation", 1, "A"),
    ("purchases", 2, "P"),
    ("bonus", 3, "B"),
    ("refunds", 4, "R"),
    ("usage", 5, "U"),
    ("expiry", 6, "E"),
    ("adjustments", 7, "J"),
    ("reversals", 8, "V"),
    ("transfers", 9, "T"),
)


def upgrade() -> None:
    """Refuse what would be lost, narrow the operations, and make the entries anew."""
    if _on_postgresql():
        _begin_on_postgresql()
    _require_features()
    if _on_postgresql():
        _narrow_operations_on_postgresql()
    else:
        _narrow_operations_on_sqlite()
    _make_entries_anew()
    _name_symbols()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _begin_on_postgresql() -> None:
    """Keep the workers out, and give sorts and joins room for large tables."""
    op.execute("LOCK TABLE accounts, operations, entries IN ACCESS EXCLUSIVE MODE")
    op.execute("SET LOCAL work_mem = '256MB'")
    op.execute("SET LOCAL maintenance_work_mem = '512MB'")
    op.execute("SET LOCAL synchronize_seqscans = off")  # rows keep their order
    op.execute("SET LOCAL jit = off")


# -- features ---------------------------------------------------------------------------------------------

_TEXT_OF = {
    "postgresql": "CAST(o.content AS json) ->> '{name}'",
    "sqlite": "json_extract(o.content, '$.{name}')",
}


def _require_features() -> None:
    """Refuse a ledger with a feature that its operation's content doesn't have."""
    text_of = _TEXT_OF[op.get_bind().dialect.name]
    feature, meter = text_of.format(name="feature"), text_of.format(name="meter")
    other = (
        "SELECT e.account_id, e.sequence FROM entries AS e"  # noqa: S608 - constants
        " LEFT JOIN operations AS o ON o.operation_id = e.operation_id AND o.slot = e.slot"
        " WHERE e.feature <> CASE WHEN e.counter = 5 AND o.type IN (1, 3, 5)"
        f" THEN coalesce({feature}, {meter}, '') ELSE '' END LIMIT 1"
    )
    if (found := op.get_bind().execute(sa.text(other)).one_or_none()) is not None:
        raise CommandError(
            f"entry {found.sequence} of account {found.account_id} has another feature than the content of"
            " its operation, which alone would be left: somebody has changed one of them; compare both rows"
            " with a backup, mend the one that is wrong, and migrate again"
        )


# -- operations -------------------------------------------------------------------------------------------

_LAST_ENTRY = "CASE WHEN last_entry > first_entry THEN last_entry END"
_BALANCE_BEFORE = (
    "CASE WHEN first_entry IS NOT NULL AND balance_before = balance_after + amount THEN NULL"
    " ELSE balance_before END"
)
_OLD_CHECKS = {
    "applied_has_amounts": (
        "status = 2 OR (amount >= 0 AND balance_before IS NOT NULL AND balance_after IS NOT NULL)"
    ),
    "entries_in_order": "first_entry <= last_entry",
}
_CHECKS = {
    "applied_has_amounts": (
        "status = 2 OR (amount >= 0 AND balance_after IS NOT NULL"
        " AND (balance_before IS NOT NULL OR first_entry IS NOT NULL))"
    ),
    "entries_in_order": "first_entry < last_entry",
    "balance_before_not_repeated": "first_entry IS NULL OR balance_before <> balance_after + amount",
}


def _narrow_operations_on_postgresql() -> None:
    """Write the table once more, with its indexes; other tables go on referring to it."""
    guard = (
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE tgname = 'operations_final' AND tgrelid = CAST('operations' AS regclass)"
    )
    made_again = str(op.get_bind().execute(sa.text(guard)).scalar_one())
    op.execute("DROP TRIGGER operations_final ON operations")
    steps = [f"DROP CONSTRAINT ck_operations_{name}" for name in _OLD_CHECKS]
    steps += [
        f"ALTER last_entry TYPE bigint USING {_LAST_ENTRY}",
        f"ALTER balance_before TYPE bigint USING {_BALANCE_BEFORE}",
        *(f"ADD CONSTRAINT ck_operations_{name} CHECK ({condition})" for name, condition in _CHECKS.items()),
    ]
    op.execute(f"ALTER TABLE operations {', '.join(steps)}")
    op.get_bind().exec_driver_sql(made_again)


def _narrow_operations_on_sqlite() -> None:
    """Empty the two columns, and spell the checks anew, which SQLite can't change otherwise."""
    execute = op.get_bind().exec_driver_sql
    made_again = str(execute("SELECT sql FROM sqlite_master WHERE name = 'operations_final'").scalar_one())
    execute("DROP TRIGGER operations_final")
    table = str(execute("SELECT sql FROM sqlite_master WHERE name = 'operations'").scalar_one())
    for name, condition in _OLD_CHECKS.items():
        table = _with_checks(table, name, condition)
    version = int(execute("PRAGMA schema_version").scalar_one())
    execute("PRAGMA writable_schema = ON")
    execute("UPDATE sqlite_master SET sql = ? WHERE name = 'operations'", (table,))
    execute(f"PRAGMA schema_version = {version + 1}")
    execute("PRAGMA writable_schema = OFF")
    execute(f"UPDATE operations SET last_entry = {_LAST_ENTRY}, balance_before = {_BALANCE_BEFORE}")  # noqa: S608 - constants
    execute(made_again)


def _with_checks(table: str, name: str, old: str) -> str:
    """Return the text of the table with the new form of the check ``name``."""
    names = [name] if name != "entries_in_order" else [name, "balance_before_not_repeated"]
    checks = [f"CONSTRAINT ck_operations_{name} CHECK ({_CHECKS[name]})" for name in names]
    before, found, after = table.partition(f"CONSTRAINT ck_operations_{name} CHECK ({old})")
    if not found:
        raise CommandError(
            f"the table of operations has no check ck_operations_{name}: was it changed by hand?"
        )
    return f"{before}{', '.join(checks)}{after}"


# -- entries ----------------------------------------------------------------------------------------------

_COLUMNS = "account_id, sequence, operation_id, amount, balance_after, occurred_at, recorded_at, lot, slot"
_KEY = ["account_id", "sequence", "slot"]
_REFERENCES = {"account_id": "accounts", "operation_id": "operations"}


def _make_entries_anew() -> None:
    """Move the entries to another table: a column that is dropped stays in every later row, as a NULL."""
    op.rename_table("entries", "entries_0012")
    keys = [] if _on_postgresql() else _keys()
    _create_entries(*keys)
    symbols = " ".join(f"WHEN {number} THEN '{symbol}'" for _, number, symbol in _COUNTERS)
    symbol = f"CASE counter {symbols} END"
    if _on_postgresql():
        symbol = f'CAST({symbol} AS "char")'
    op.execute(
        f"INSERT INTO entries ({_COLUMNS}, counter, is_due)"  # noqa: S608 - constants
        f" SELECT {_COLUMNS}, {symbol}, is_due FROM entries_0012"
    )
    if _on_postgresql():
        _move_grants()
    op.drop_table("entries_0012")
    if _on_postgresql():
        op.create_primary_key(op.f("pk_entries"), "entries", _KEY)
        op.execute("ANALYZE entries, operations")
        for column, referent in _REFERENCES.items():
            columns = [column, "slot"]
            op.create_foreign_key(op.f(f"fk_entries_{column}"), "entries", referent, columns, columns)
    _guard()


def _create_entries(*keys: sa.Constraint) -> None:
    op.create_table(
        "entries",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("operation_id", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("lot", sa.Integer()),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("counter", _SYMBOL, nullable=False),
        sa.Column("is_due", sa.Boolean(), nullable=False),
        _check("sequence_from_one", "sequence >= 1"),
        _check("amount_not_zero", "amount <> 0"),
        _check(
            "counter_gives_the_sign",
            "(counter IN ('U', 'E') AND amount < 0 AND lot IS NOT NULL)"
            " OR (counter IN ('A', 'P', 'B', 'R') AND amount > 0) OR counter IN ('J', 'V', 'T')",
        ),
        *keys,
    )


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_entries_{name}"))


def _keys() -> list[sa.Constraint]:
    """Return the keys of the entries, for SQLite, which can't add any later."""
    references = [
        sa.ForeignKeyConstraint(
            [column, "slot"], [f"{referent}.{column}", f"{referent}.slot"], name=op.f(f"fk_entries_{column}")
        )
        for column, referent in _REFERENCES.items()
    ]
    return [sa.PrimaryKeyConstraint(*_KEY, name=op.f("pk_entries")), *references]


def _move_grants() -> None:
    """Give whoever had a right on the old table the same right on the new one."""
    grants = sa.text(
        "SELECT format('GRANT %s ON entries TO %s', privilege_type,"
        " CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)"
        " || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
        " FROM pg_class, aclexplode(relacl)"
        " WHERE pg_class.oid = CAST('entries_0012' AS regclass) AND grantee <> relowner"
    )
    for grant in op.get_bind().execute(grants).scalars().all():
        op.execute(grant)


def _guard() -> None:
    if _on_postgresql():
        refuse = "EXECUTE FUNCTION ledger_refuses()"
        op.execute(
            f"CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE ON entries FOR EACH ROW {refuse}"
        )
        op.execute(
            f"CREATE TRIGGER entries_not_truncated BEFORE TRUNCATE ON entries FOR EACH STATEMENT {refuse}"
        )
    else:
        refuse = "BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
        op.execute(f"CREATE TRIGGER entries_not_updated BEFORE UPDATE ON entries {refuse}")
        op.execute(f"CREATE TRIGGER entries_not_deleted BEFORE DELETE ON entries {refuse}")


# -- names ------------------------------------------------------------------------------------------------


def _name_symbols() -> None:
    """Give the counter-accounts their symbols' numbers."""
    op.execute("DELETE FROM identifiers WHERE kind = 'counter'")
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(
        identifiers,
        [{"kind": "counter", "number": ord(symbol), "name": name} for name, _, symbol in _COUNTERS],
    )
