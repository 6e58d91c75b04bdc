"""The only place that builds engines, connections, clocks and random numbers, from the settings."""

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from types import FrameType

from sqlalchemy import Engine

from schemas import Limits
from worker.broker import BILLING, Link, open_link
from worker.catalog import Catalog, load_catalog
from worker.consumer import Consumer, Pace
from worker.errors import ConfigurationError, LedgerUnavailableError
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import current_revision, newest_revision
from worker.ledger.store import Ledger
from worker.metrics import Metrics
from worker.pipeline import Pipeline, Policy
from worker.settings import Settings, redacted

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The clock: aware, UTC."""
    return datetime.now(UTC)


class Application:
    """What the commands work with, built from the settings when it is first asked for."""

    def __init__(self, settings: Settings, *, name: str = "billing-worker") -> None:
        self.settings = settings
        self._name = name

    @cached_property
    def catalog(self) -> Catalog:
        """What is for sale."""
        return load_catalog(self.settings.catalog)

    @cached_property
    def engine(self) -> Engine:
        """The ledger's database."""
        return ledger_engine(self.settings.database_url.get_secret_value(), application_name=self._name)

    @cached_property
    def metrics(self) -> Metrics:
        """This process's counters."""
        return Metrics()

    def link(self, *, consume: Sequence[str] = ()) -> Link:
        """A new link to the broker."""
        return open_link(
            self.settings.broker_url.get_secret_value(),
            consume=consume,
            prefetch=self.settings.prefetch,
            name=self._name,
        )

    def consumer(self, stop: "SignalStop") -> Consumer:
        """The worker's loop, ready to run."""
        ledger = Ledger(self.engine)
        rng = random.Random()  # noqa: S311 - jitter and shuffles, no secrets
        return Consumer(
            lambda: self.link(consume=[queue.name for queue in BILLING.work]),
            ledger,
            self.pipeline(ledger),
            pace=Pace(batch_size=self.settings.batch_size),
            stop=stop,
            rng=rng,
            metrics=self.metrics,
        )

    def run_worker(self, stop: "SignalStop", *, drain: bool = False) -> None:
        """Run one worker in this process until ``stop``, or until nothing is left with ``drain``."""
        self._await_schema(stop)
        log.info(
            "consuming from %s into %s",
            redacted(self.settings.broker_url),
            redacted(self.settings.database_url),
        )
        self.consumer(stop).run(drain=drain)
        log.info("stopped")

    def _await_schema(self, stop: "SignalStop") -> None:
        """An outage at the start is waited out like any other; another schema than ours is not."""
        told = False
        while not stop.requested:
            try:
                self.require_newest_schema()
            except LedgerUnavailableError as error:
                if not told:
                    log.error("%s: waiting for it", error)  # noqa: TRY400 - expected, and said once
                told = True
                stop.wait(1.0)
            else:
                return

    def pipeline(self, ledger: Ledger) -> Pipeline:
        """The way of one batch."""
        settings = self.settings
        policy = Policy(
            limits=Limits(max_quantity=settings.max_quantity),
            tries=settings.tries,
            reply_queue=settings.reply_queue,
            reply_to_prefixes=settings.reply_to_prefixes,
            senders=settings.senders,
        )
        return Pipeline(ledger, self.catalog, policy, clock=utc_now, pause=time.sleep, metrics=self.metrics)

    def require_newest_schema(self) -> None:
        """Raises ConfigurationError unless the database is at the revision this version needs."""
        current, newest = current_revision(self.engine), newest_revision()
        if current != newest:
            raise ConfigurationError(
                f"the ledger's schema is at {current or 'nothing'}, this version needs {newest}: "
                "run `billing-worker migrate`"
            )


class SignalStop:
    """Ends the loop on the first SIGTERM or SIGINT; the second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take the signals of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until a signal."""
        deadline = time.monotonic() + seconds
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True


def configure_logging(settings: Settings) -> None:
    """Log to standard error, one line a record; SQL, bodies and passwords are never logged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s [%(process)d] %(message)s")
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("amqp", "kombu", "alembic", "sqlalchemy", "pika"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
