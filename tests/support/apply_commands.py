"""Commands applied to a ledger without a broker."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine

from schemas import Command
from worker.catalog import Catalog
from worker.core import Answer, decide
from worker.ledger.store import Ledger


def applied(
    engine: Engine, catalog: Catalog, *commands: Command, now: datetime | None = None
) -> Sequence[Answer]:
    """Apply ``commands`` in one transaction; return the answers."""
    moment = datetime.now(UTC) if now is None else now
    with Ledger(engine).begin() as transaction:
        known = transaction.load(commands, moment)
        plan = decide(commands, known, moment, catalog)
        transaction.write(plan, known, moment)
    return plan.answers
