"""Extended holds: an open hold may end later, and one that ran out may be captured late, once.

Nothing else of a hold changes, as before. The new type and codes get their numbers.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_NUMBERS = (
    ("type", 7, "usage.extend"),
    ("code", 25, "hold_extended"),
    ("code", 26, "hold_settled_late"),
)

_AS_OPENED = "operation_id, slot, account_id, reference_id, amount, opened_at"
_AS_ENDED = f"{_AS_OPENED}, expires_at, closed_at, closed_by"


def upgrade() -> None:
    """Exchange the guard of the holds, and number the new names."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER holds_final ON holds")
        op.execute(
            "CREATE TRIGGER holds_final BEFORE UPDATE ON holds FOR EACH ROW"
            f" WHEN ({_is_refused('IS DISTINCT FROM')}) EXECUTE FUNCTION ledger_refuses()"
        )
    else:
        op.execute("DROP TRIGGER holds_final")
        op.execute(
            f"CREATE TRIGGER holds_final BEFORE UPDATE ON holds WHEN {_is_refused('IS NOT')}"
            " BEGIN SELECT RAISE(ABORT, 'refused: the ledger is append-only'); END"
        )
    identifiers = sa.table("identifiers", sa.column("kind"), sa.column("number"), sa.column("name"))
    op.bulk_insert(identifiers, [dict(zip(("kind", "number", "name"), row, strict=True)) for row in _NUMBERS])


def _is_refused(differs: str) -> str:
    """Return the condition of an update that the ledger refuses."""

    def changed(columns: str) -> str:
        old, new = (f"{row}." + columns.replace(", ", f", {row}.") for row in ("OLD", "NEW"))
        return f"({new}) {differs} ({old})"

    ends = "NEW.state <> 'open' AND NEW.expires_at >= OLD.expires_at"
    is_extended = "NEW.state = 'open' AND NEW.expires_at > OLD.expires_at"
    is_open = f"OLD.state = 'open' AND (({ends}) OR ({is_extended})) AND NOT ({changed(_AS_OPENED)})"
    is_captured_late = f"OLD.state = 'expired' AND NEW.state = 'settled' AND NOT ({changed(_AS_ENDED)})"
    return f"NOT (({is_open}) OR ({is_captured_late}))"
