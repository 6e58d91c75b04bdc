"""Commands applied to a ledger without a broker."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine

from schemas import Command
from worker.catalog import Catalog
from worker.core import Answer, decide
from worker.ledger.senders import UNNAMED, Sender
from worker.ledger.store import Ledger


def applied(
    engine: Engine,
    catalog: Catalog,
    *commands: Command,
    now: datetime | None = None,
    sender: Sender = UNNAMED,
) -> Sequence[Answer]:
    """Apply ``commands`` of one sender in one transaction; return the answers."""
    moment = datetime.now(UTC) if now is None else now
    with Ledger(engine).begin(commands, moment, auto_open=catalog.auto_open) as transaction:
        known = transaction.known
        plan = decide(commands, known, moment, catalog)
        plan.name_senders(transaction.sender_ids([sender] * len(commands)))
        plan.name_catalog(transaction.catalog_id(catalog))
        transaction.write(plan)
    return plan.answers
