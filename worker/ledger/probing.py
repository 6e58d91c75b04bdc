"""Probe for writing: a database that answers may take no writes, as a standby or a server without disk.

Where the ledger is distributed, a row of ``write_probes`` lies on the node of the slot that its id names, and
the claims lie on the coordinator. A batch writes both, so both are probed.
"""

from random import randbytes, randrange

from sqlalchemy import Connection, Engine, insert, text

from schemas import slot_of
from worker.ledger.engine import translated_errors
from worker.ledger.slots import is_slot_by_slot
from worker.ledger.tables import claims

#: More than a page is written: a full disk still takes what fits into pages that are there.
_BYTES = 20_000
#: Probes at the same time don't wait for each other, as a rule.
_ROWS = 16
#: Name of a user and beginning of a reference that nobody reads: the claim is taken back.
_NOBODY = "billing-worker-probe"

_WRITE = text(
    "INSERT INTO write_probes (id, payload) VALUES (:id, :payload)"
    " ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
)


class WriteProbe:
    """Probe of the ledger's database, and of the tables ``beside`` it where these may be elsewhere.

    ``slot`` is the one that was used last: its node must take writes.
    """

    def __init__(self, engine: Engine, beside: Engine) -> None:
        self._engine, self._beside = engine, beside
        self.slot: int | None = None

    def require_writes(self) -> None:
        """Raise LedgerUnavailableError unless each database takes a write."""
        with translated_errors(), self._engine.begin() as connection:
            _write(connection, self.slot)
            is_distributed = is_slot_by_slot(connection)
        if is_distributed:
            require_writes_beside(self._beside)


def require_writes_beside(engine: Engine) -> None:
    """Raise LedgerUnavailableError unless the database of the tables beside the ledger takes a write."""
    with translated_errors(), engine.connect() as connection:
        if is_slot_by_slot(connection):
            _claim_and_take_back(connection)
        else:
            _write(connection, None)
            connection.commit()


def _write(connection: Connection, slot: int | None) -> None:
    number = randrange(_ROWS) if slot is None else slot  # noqa: S311 - no secret
    connection.execute(_WRITE, {"id": number, "payload": randbytes(_BYTES)})  # noqa: S311 - no secret


def _claim_and_take_back(connection: Connection) -> None:
    claim = {
        "claimed_at": text("current_timestamp"),
        "slot": slot_of(_NOBODY),
        "reference_id": f"{_NOBODY}-{randrange(2**62)}",  # noqa: S311 - no secret
        "user_id": _NOBODY,
        "taken_from": randbytes(_BYTES).hex(),  # noqa: S311 - no secret
    }
    connection.execute(insert(claims).values(claim))
    connection.rollback()
