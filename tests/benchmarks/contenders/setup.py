"""Setup of a contender's process: read from its environment, with the engine and the clock."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from sqlalchemy import Engine, create_engine

from worker.broker import BILLING

REPLIES = BILLING.replies.name


@dataclass(frozen=True, slots=True)
class Setup:
    """Broker, database and queue of a process, its threads, and the messages that it holds."""

    broker_url: str
    database_url: str
    queue: str
    threads: int
    prefetch: int

    @classmethod
    def from_environment(cls) -> Self:
        """Read the setup that the benchmark has put into the environment."""
        return cls(
            broker_url=os.environ["BENCH_BROKER_URL"],
            database_url=os.environ["BENCH_DATABASE_URL"],
            queue=os.environ["BENCH_QUEUE"],
            threads=int(os.environ["BENCH_THREADS"]),
            prefetch=int(os.environ["BENCH_PREFETCH"]),
        )

    def to_environment(self) -> dict[str, str]:
        """The variables of a process; they hold passwords."""
        return {
            "BENCH_BROKER_URL": self.broker_url,
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_QUEUE": self.queue,
            "BENCH_THREADS": str(self.threads),
            "BENCH_PREFETCH": str(self.prefetch),
        }

    def engine(self) -> Engine:
        """A connection for each thread, kept."""
        return create_engine(
            self.database_url,
            pool_size=self.threads,
            max_overflow=0,
            connect_args={"options": "-c timezone=UTC"},  # the times of replies are in it
        )


def utc_now() -> datetime:
    """The clock: aware, UTC."""
    return datetime.now(UTC)
