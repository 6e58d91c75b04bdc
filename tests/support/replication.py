"""A primary and its standby, and ledgers on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

from sqlalchemy import Engine

from tests.support.limited_postgres import Standby
from tests.support.postgres_server import WITHOUT_FLUSH, Postgres
from tests.support.private_server import memory_folder
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

_TEMPLATE = "template_ledger"


@dataclass(frozen=True)
class Replication:
    """A primary and a standby of it."""

    primary: Postgres
    standby: Standby

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Start both servers, and stop them at the end of the block."""
        with Postgres.start(memory_folder(), WITHOUT_FLUSH) as primary:
            primary.databases.create_database(_TEMPLATE)
            engine = ledger_engine(primary.address.url(_TEMPLATE))
            migrate(engine)
            engine.dispose()
            with Standby.of(primary) as standby:
                yield cls(primary, standby)

    @contextmanager
    def ledger(self) -> Iterator["ReplicatedLedger"]:
        """Make a migrated, empty ledger on both; the standby replays again at the end of the block."""
        name = f"ledger_{uuid4().hex[:12]}"
        self.primary.databases.create_database(name, _TEMPLATE)
        urls = self.primary.address.url(name), self.standby.address.url(name)
        engines = ledger_engine(urls[0]), ledger_engine(urls[1])
        self.standby.catch_up()
        try:
            yield ReplicatedLedger(*urls, *engines, self.standby)
        finally:
            self.standby.resume_replay()
            for engine in engines:
                engine.dispose()


@dataclass(frozen=True)
class ReplicatedLedger:
    """A ledger's database on the primary and on the standby."""

    primary_url: str
    replica_url: str
    primary: Engine
    replica: Engine
    standby: Standby
