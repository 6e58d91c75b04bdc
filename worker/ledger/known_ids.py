"""Ids that the ledger has: of users, operations and payments, whatever rule they came under."""

from collections.abc import Collection

from sqlalchemy import Engine

from schemas import slot_of
from worker.ledger.bulk import Keys, select_rows
from worker.ledger.engine import translated_errors
from worker.ledger.references import references_of
from worker.ledger.tables import accounts, payment_names


def known_ids(engine: Engine, ids: Collection[str]) -> frozenset[str]:
    """Return those of ``ids`` that name an account, an operation or a payment.

    Raises LedgerUnavailableError.
    """
    asked = sorted(set(ids))
    if not asked:
        return frozenset()
    with translated_errors(), engine.begin() as connection:
        slots = sorted({slot_of(one) for one in asked})
        users = select_rows(connection, accounts, ("user_id",), "user_id", Keys(asked, slots))
        names = select_rows(connection, payment_names, ("name",), "name", Keys(asked))
        references = references_of(connection).owners(connection, asked)
    return frozenset([*(row.user_id for row in users), *(row.name for row in names), *references])
