"""Form of a ledger: the slots that a transaction may have, and what judges the references.

A ledger begins ``whole``. ``distribute`` makes it one whose tables can be distributed by slot: the key of the
references holds the slot then, and every operation has a claim.
"""

from enum import StrEnum

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects import postgresql

from worker.errors import ConfigurationError
from worker.ledger.engine import translated_errors
from worker.ledger.references import Claims, References, UniqueKey
from worker.ledger.tables import claims, operations

_KEY = "uq_operations_reference_id_is_taken"
_DISTRIBUTED = ("reference_id", "is_taken", "slot")
_COLUMNS_OF_KEY = (
    "SELECT cardinality(conkey) FROM pg_constraint"
    " WHERE conrelid = to_regclass('operations') AND conname = %s"
)
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


class LedgerForm(StrEnum):
    """Form of a ledger: all slots in a transaction, one slot in each, or distributed over machines."""

    WHOLE = "whole"
    ONE_SLOT = "one-slot"
    DISTRIBUTED = "distributed"

    @property
    def has_one_slot(self) -> bool:
        """True where a transaction is of one slot."""
        return self is not LedgerForm.WHOLE

    @property
    def references(self) -> References:
        """Return what knows whose a reference is."""
        return Claims() if self is LedgerForm.DISTRIBUTED else UniqueKey()


def is_distributed(connection: Connection) -> bool:
    """Return True where the key of the references holds the slot; never on SQLite."""
    if connection.dialect.name != "postgresql":
        return False
    return connection.exec_driver_sql(_COLUMNS_OF_KEY, (_KEY,)).scalar() == len(_DISTRIBUTED)


def require_form(engine: Engine, form: LedgerForm) -> None:
    """Raise ConfigurationError where the tables don't have the form that is set."""
    with translated_errors(), engine.connect() as connection:
        is_so = is_distributed(connection.execution_options(read_only=True))
    if is_so != (form is LedgerForm.DISTRIBUTED):
        what, which = ("distributed", "distributed") if is_so else ("not distributed", "whole or one-slot")
        raise ConfigurationError(
            f"the ledger's tables are {what}, and BILLING_LEDGER_FORM is {form.value}: set {which}"
            + ("" if is_so else ", or run `billing-worker migrate --distribute`")
        )


def distribute(connection: Connection) -> bool:
    """Make a ledger on PostgreSQL one that can be distributed; False where it is one already.

    No worker may run meanwhile, and there is no way back. Every reference gets its claim.
    """
    if is_distributed(connection):
        return False
    if connection.dialect.name != "postgresql":
        raise ConfigurationError("only a ledger on PostgreSQL can be distributed")
    for statement in statements_of_distribution():
        connection.exec_driver_sql(statement)
    return True


def statements_of_distribution() -> list[str]:
    """Return the statements of ``distribute``, to be run in one transaction."""
    return [
        "LOCK TABLE operations IN ACCESS EXCLUSIVE MODE",
        _claims_of_all(),
        f"ALTER TABLE operations DROP CONSTRAINT {_KEY}",
        f"ALTER TABLE operations ADD CONSTRAINT {_KEY} UNIQUE ({', '.join(_DISTRIBUTED)})",
    ]


def claim_all(connection: Connection) -> None:
    """Make the claim of every reference."""
    connection.exec_driver_sql(_claims_of_all())


def _claims_of_all() -> str:
    """Return the statement that makes the claim of every reference, as its operations have it."""
    operation = operations.c
    lost = operations.alias("lost")
    loser = select(lost.c.user_id).where(lost.c.reference_id == operation.reference_id, lost.c.is_taken)
    statement = claims.insert().from_select(
        ["claimed_at", "slot", "reference_id", "user_id", "taken_from"],
        select(
            operation.recorded_at,
            operation.slot,
            operation.reference_id,
            operation.user_id,
            loser.scalar_subquery(),
        ).where(~operation.is_taken),
    )
    return " ".join(str(statement.compile(dialect=_POSTGRESQL)).split())
