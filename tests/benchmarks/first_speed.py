"""How fast one worker settles a prefilled queue of ``usage.deduct``, everything durable.

RabbitMQ quorum queues with persistent messages, PostgreSQL with fsync and synchronous commit, replies
confirmed before the acknowledgement; broker, database, and worker share the machine. Afterwards every
message must have its reply and the audit must be clean.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from schemas import DeductUsage, OpenAccount
from tests.support.provision import PostgresServer, RabbitMQServer
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Link, Outgoing
from worker.core import decide
from worker.ledger.audit import audit
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger
from worker.settings import environment_of, load_settings

_CHUNK = 2_000
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run. ``seconds`` are from the first delivery to the last acknowledgement."""

    messages: int
    users: int
    workers: int
    seconds: float
    worker_cpu_seconds: float
    audit_clean: bool

    @property
    def per_second(self) -> float:
        """Messages settled a second."""
        return self.messages / self.seconds

    @property
    def worker_cpu_us(self) -> float:
        """Processor time of the workers a message, in microseconds."""
        return self.worker_cpu_seconds / self.messages * 1e6

    def to_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        return {
            **asdict(self),
            "per_second": round(self.per_second),
            "worker_cpu_us": round(self.worker_cpu_us),
        }


def measure(
    postgres: PostgresServer,
    rabbitmq: RabbitMQServer,
    *,
    messages: int,
    users: int,
    workers: int,
    progress: Progress,
) -> Run:
    """Prefill, run, check; in a database and a virtual host of its own."""
    with _stage(postgres, rabbitmq, workers) as application:
        _open_accounts(application, users)
        link = application.link()
        try:
            link.declare(BILLING)
            _prefill(link, messages, users, progress)
            seconds, cpu = _drain(application, link, messages, progress)
        finally:
            link.close()
        report = audit(application.engine)
        used = _used(application)
        if used != messages or not report.is_clean:
            raise RuntimeError(f"the ledger is not true: {used} of {messages} tokens used, {report.found}")
        return Run(messages, users, workers, seconds, cpu, report.is_clean)


@contextmanager
def _stage(postgres: PostgresServer, rabbitmq: RabbitMQServer, workers: int) -> Iterator[Application]:
    name = f"bench_{uuid4().hex[:8]}"
    postgres.databases.create_database(name)
    rabbitmq.management.create_vhost(name)
    application = Application(
        load_settings(
            database_url=postgres.address.url(name),
            broker_url=rabbitmq.address.url(name),
            workers=workers,
            log_level="WARNING",
        )
    )
    try:
        migrate(application.engine)
        yield application
    finally:
        application.engine.dispose()
        rabbitmq.management.delete_vhost(name)
        postgres.databases.drop_database(name)


def _open_accounts(application: Application, users: int) -> None:
    ledger, now = Ledger(application.engine), utc_now()
    for start in range(0, users, _CHUNK):
        commands = [
            OpenAccount(reference_id=f"open-{n}", user_id=f"user-{n:06}", tier="pro")
            for n in range(start, min(start + _CHUNK, users))
        ]
        with ledger.begin() as books:
            known = books.load(commands, now)
            books.write(decide(commands, known, now, application.catalog), known, now)
    with application.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _prefill(link: Link, messages: int, users: int, progress: Progress) -> None:
    for start in range(0, messages, _CHUNK):
        link.publish([_deduction(n, users) for n in range(start, min(start + _CHUNK, messages))])
        progress("prefilling", start + _CHUNK, messages)


def _deduction(n: int, users: int) -> Outgoing:
    command = DeductUsage(
        reference_id=f"upload-{n:08}-{uuid4()}",
        user_id=f"user-{n * 7919 % users:06}",
        tokens=1,
        feature="transcription",
        occurred_at=utc_now(),
    )
    return Outgoing(
        command.to_json(),
        BILLING.exchange,
        command.type,
        {"message_id": f"message-{n:08}", "content_type": "application/json", "app_id": "bench"},
    )


def _drain(application: Application, link: Link, messages: int, progress: Progress) -> tuple[float, float]:
    cpu_before = os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "run"],
        env={**os.environ, **environment_of(application.settings)},
    )
    try:
        while not _replied(link):
            _pause(process)
        began = monotonic()
        already = _replied(link)
        while (replied := _replied(link)) < messages:
            progress("settling", replied, messages)
            _pause(process)
        seconds = (monotonic() - began) * messages / (messages - already)
    finally:
        process.terminate()
        process.wait(timeout=60)
    cpu_after = os.times()
    cpu = (
        cpu_after.children_user
        + cpu_after.children_system
        - cpu_before.children_user
        - cpu_before.children_system
    )
    return seconds, cpu


def _replied(link: Link) -> int:
    return link.depth(BILLING.replies.name)


def _pause(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the worker ended with {process.returncode}")
    sleep(0.05)


def _used(application: Application) -> int:
    with application.engine.connect() as connection:
        return int(connection.execute(text("SELECT sum(used) FROM accounts")).scalar_one())
