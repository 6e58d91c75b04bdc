"""Sandbox of a run: a ledger and a virtual host of its own, and the processes of the run.

The measure is the number of replies that wait in a queue, whoever sends them: the worker and those it is
compared with are measured by the same means.
"""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any, TypeVar
from uuid import uuid4

import pika
from sqlalchemy import text

from schemas import Command, OpenAccount
from tests.benchmarks import trees
from tests.support.postgres_server import major_version, postgres_binaries
from tests.support.provision import PostgresServer, RabbitMQServer, postgres_server, rabbitmq_server
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Link, Outgoing
from worker.cli.run import OBJECTS_A_COLLECTION
from worker.core import decide
from worker.ledger.audit import audit
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger
from worker.settings import environment_of, load_settings

ROOT = Path(__file__).parents[2]
_CHUNK = 2_000
_POLL_S = 0.05
_FIRST_POLL_S, _LAST_POLL_S, _LAST_SHARE = 0.005, 0.01, 0.02
_STOP_S = 30.0
_STILL_S = 120.0
_LOG_LINES = 15

T = TypeVar("T")

#: Takes the step that runs, how much of it is done, and how much there is (0: unknown).
Progress = Callable[[str, int, int], None]

#: A process to start: its arguments, and the variables of its environment besides ours.
ProcessCommand = tuple[list[str], dict[str, str]]

#: Callback during a run, with the number of replies and the ids of the processes.
Watch = Callable[[int, Sequence[int]], None]


class BenchmarkError(Exception):
    """Failure of a run, whose measurements don't count; the text has the reason."""


class IncorrectLedgerError(BenchmarkError):
    """Ledger that differs from the messages of the run."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurement of one run of the worker or of a contender.

    ``seconds`` are from the first to the last reply, extrapolated to all ``messages``; ``cpu`` is processor
    time in seconds meanwhile, extrapolated as well, by "worker" (the processes that were started),
    "postgresql" and "rabbitmq", as far as these run here.
    """

    name: str
    messages: int
    seconds: float
    cpu: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Messages processed a second."""
        return self.messages / self.seconds

    def cpu_us(self, part: str) -> float:
        """Processor time of ``part`` a message, in microseconds."""
        return self.cpu[part] / self.messages * 1e6

    @property
    def total_cpu_us(self) -> float | None:
        """Processor time of all parts a message, in microseconds; None for a run too short to have any.

        The system counts it in ticks of some milliseconds: none is no measure of nothing.
        """
        return sum(map(self.cpu_us, self.cpu)) or None

    def to_dict(self) -> dict[str, Any]:
        """Form for the JSON report."""
        return {
            "name": self.name,
            "messages": self.messages,
            "seconds": round(self.seconds, 4),
            "per_second": round(self.per_second, 1),
            "cpu_us": {part: round(self.cpu_us(part), 1) for part in self.cpu},
        }


@dataclass(frozen=True, slots=True)
class Servers:
    """The database server and the broker that all runs of a session share.

    ``template`` is a migrated database to copy; without one each sandbox migrates its own.
    """

    postgres: PostgresServer
    rabbitmq: RabbitMQServer
    template: str | None = None

    def process_ids(self) -> dict[str, list[int]]:
        """Return the roots of the process trees of private servers."""
        parts = {"postgresql": self.postgres, "rabbitmq": self.rabbitmq}
        return {name: [server.process_id] for name, server in parts.items() if hasattr(server, "process_id")}


#: Usual settings for a database that holds ten million entries. Durability stays as it is.
_USAGE = "billing.usage"
_SETTINGS = {"shared_buffers": "2GB", "max_wal_size": "8GB"}
_LZ4_SINCE = 15


@contextmanager
def started_servers() -> Iterator[Servers]:
    """Yield the servers of a session, private unless the environment names others. Raises ServerError."""
    binaries = postgres_binaries()
    compression = "lz4" if binaries and major_version(binaries) >= _LZ4_SINCE else "on"
    settings = {**_SETTINGS, "wal_compression": compression}
    with postgres_server(settings=settings) as postgres, rabbitmq_server() as rabbitmq:
        yield Servers(postgres, rabbitmq)


@contextmanager
def new_sandbox(servers: Servers, **settings: Any) -> Iterator["Sandbox"]:
    """Yield a sandbox with a migrated ledger and topology, removed after the block.

    Most runs ask nothing: their workers have no reader beside them.
    """
    name = f"bench_{uuid4().hex[:8]}"
    servers.postgres.databases.create_database(name, servers.template)
    servers.rabbitmq.management.create_vhost(name)
    application = Application(
        load_settings(
            database_url=servers.postgres.address.url(name),
            broker_url=servers.rabbitmq.address.url(name),
            **{"log_level": "WARNING", "readers": 0, **settings},
        )
    )
    try:
        if servers.template is None:
            migrate(application.engine)
        with _linked(application) as link:
            link.declare(application.topology)
        yield Sandbox(servers, application, name)
    finally:
        application.engine.dispose()
        application.ledger.close()
        servers.rabbitmq.management.delete_vhost(name)
        servers.postgres.databases.drop_database(name)


class Sandbox:
    """Database and virtual host of one run, both called ``name``."""

    def __init__(self, servers: Servers, application: Application, name: str) -> None:
        self.servers, self.application, self.name = servers, application, name

    @property
    def database_url(self) -> str:
        """An SQLAlchemy URL, with its password."""
        return self.application.settings.database_url.get_secret_value()

    @property
    def broker_url(self) -> str:
        """An ``amqp://`` URL, with its password."""
        return self.application.settings.broker_url.get_secret_value()

    def open_accounts(self, users: int, tier: str = "pro") -> None:
        """Open accounts of ``user-000000`` and so on, as if they were old."""
        self.apply(
            OpenAccount(reference_id=f"open-{number}", user_id=user_id(number), tier=tier)
            for number in range(users)
        )
        self.tidy()

    def apply(self, commands: Iterable[Command]) -> None:
        """Apply commands directly to the ledger before the run, without a broker."""
        ledger = Ledger(self.application.engine)
        for chunk in chunks(commands):
            now = utc_now()
            with ledger.begin(chunk, now) as transaction:
                known = transaction.known
                transaction.write(decide(chunk, known, now, self.application.catalog))

    def tidy(self) -> None:
        """Update statistics and make a checkpoint, so that each run begins alike."""
        with self.application.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
                connection.execute(text(statement))

    def prefill(self, messages: Iterable[Outgoing], progress: Progress, *, total: int = 0) -> int:
        """Publish ``messages`` with confirms; return their number. ``total`` is for the progress."""
        done = 0
        with _linked(self.application) as link:
            for chunk in chunks(messages):
                if len(link.publish(chunk).accepted) < len(chunk):
                    raise BenchmarkError("some messages of the prefilling reached no queue")
                done += len(chunk)
                progress("prefilling", done, total)
        return done

    def worker(self, workers: int = 1) -> list[ProcessCommand]:
        """Return the worker as an operator starts it, with so many processes."""
        settings = self.application.settings.model_copy(update={"workers": workers})
        return [([sys.executable, "-m", "worker", "run"], environment_of(settings))]

    def readers(self) -> list[ProcessCommand]:
        """Return one reader of queries, as an operator starts it."""
        settings = self.application.settings.model_copy(update={"readers": 1})
        return [([sys.executable, "-m", "worker", "readers"], environment_of(settings))]

    def drain(
        self,
        name: str,
        commands: Sequence[ProcessCommand],
        messages: int,
        *,
        replies_queue: str = BILLING.replies.name,
        consumers: int = 1,
        progress: Progress,
        watch: Watch | None = None,
    ) -> Measured:
        """Run the processes until there are ``messages`` replies, then stop them (SIGTERM).

        The clock begins with the first replies, but not before ``consumers`` of the usage queue are there:
        what a process spends on starting is not what a message costs. Raises BenchmarkError where one ends
        early, or where nothing is replied for two minutes.
        """
        with _linked(self.application) as link, _running(name, commands) as processes:

            def replied() -> int:
                return link.depth(replies_queue)

            while consumers > 1 and not self._all_share(consumers) and replied() < messages:
                processes.require_alive(since=0)
                sleep(_FIRST_POLL_S)
            return self._clocked(name, processes, messages, replied, progress, watch)

    def await_consumers(self, consumers: int) -> None:
        """Wait until so many workers consume, each its share. Raises BenchmarkError."""
        deadline = monotonic() + _STILL_S
        while not self._all_share(consumers):
            if monotonic() > deadline:
                raise BenchmarkError(f"{consumers} workers don't consume within {_STILL_S:.0f} s")
            sleep(_POLL_S)

    def _all_share(self, workers: int) -> bool:
        """Return True where so many workers consume, and their shares in the partitions are even."""
        if not self._all_consume(workers):
            return False
        if not (partitions := self.application.settings.partitions):
            return True
        leases, now = self.application.partition_leases.held()
        shares = Counter(lease.worker for lease in leases if not lease.is_free(now))
        return len(shares) == workers and set(shares.values()) <= {
            partitions // workers,
            -(-partitions // workers),
        }

    def _all_consume(self, consumers: int) -> bool:
        with pika.BlockingConnection(pika.URLParameters(self.broker_url)) as connection:
            declared = connection.channel().queue_declare(_USAGE, passive=True)
        return int(declared.method.consumer_count) >= consumers

    @contextmanager
    def running(self, name: str, commands: Sequence[ProcessCommand]) -> Iterator[None]:
        """Keep the processes running during the block."""
        with _running(name, commands) as processes:
            yield
            processes.require_running()

    def check(self, *, used: int | None = None) -> None:
        """Check the audit and the number of used tokens. Raises IncorrectLedgerError."""
        report = audit(self.application.engine)
        if not report.is_clean:
            raise IncorrectLedgerError(f"the audit found {dict(report.found)}, {report.findings[0]}")
        if used is not None and (found := self._used()) != used:
            raise IncorrectLedgerError(f"{found} tokens are used, not {used}")

    def deadlocks(self) -> int:
        """Return the deadlocks that PostgreSQL has counted in this database."""
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return self._number(query)

    def processor_seconds(self, processes: Iterable[int]) -> dict[str, float]:
        """Return the processor time so far, by part; ``processes`` are the part "worker"."""
        roots = {"worker": list(processes), **self.servers.process_ids()}
        return {part: trees.processor_seconds(ids) for part, ids in roots.items()}

    def _clocked(
        self,
        name: str,
        processes: "_Processes",
        messages: int,
        replied_by_now: Callable[[], int],
        progress: Progress,
        watch: Watch | None,
    ) -> Measured:
        # The first polls are short: of a small run a second one might see all replies at once.
        began = monotonic()
        while not (already := replied_by_now()):
            began = monotonic()
            processes.require_alive(since=0)
            sleep(_FIRST_POLL_S)
        if already < messages:
            began = monotonic()
        else:
            already = 0
        if watch is not None:
            watch(already, processes.ids)
        cpu_before = self.processor_seconds(processes.ids)
        while (replied := replied_by_now()) < messages:
            progress(f"running: {name}", replied, messages)
            processes.require_alive(since=replied)
            if watch is not None:
                watch(replied, processes.ids)
            # The last polls are short again: they end the measured time.
            sleep(_POLL_S if replied < messages * (1 - _LAST_SHARE) else _LAST_POLL_S)
        seconds = monotonic() - began
        cpu_after = self.processor_seconds(processes.ids)
        if watch is not None:
            watch(replied, processes.ids)
        share = messages / (messages - already)
        cpu = {part: (cpu_after[part] - cpu_before[part]) * share for part in cpu_after}
        return Measured(name, messages, seconds * share, cpu)

    def _used(self) -> int:
        return self._number("SELECT coalesce(sum(used), 0) FROM accounts")

    def _number(self, query: str) -> int:
        with self.application.engine.connect() as connection:
            return int(connection.execute(text(query)).scalar_one())


@contextmanager
def collected_as_in_a_worker() -> Iterator[None]:
    """Collect garbage as ``run`` does: freeze present objects, and collect as rarely."""
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_A_COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def user_id(number: int) -> str:
    """Return the user of an account by number."""
    return f"user-{number:06}"


def chunks(items: Iterable[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """Yield ``items`` in lists of ``size``; the last one may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@contextmanager
def _linked(application: Application) -> Iterator[Link]:
    # A link for each use: one that waits through a long run loses its heartbeat.
    link = application.link()
    try:
        yield link
    finally:
        link.close()


class _Processes:
    """The processes of one run."""

    def __init__(self, name: str, started: Sequence[subprocess.Popen[bytes]], log: Path) -> None:
        self._name, self._started, self._log = name, started, log
        self._last, self._changed = 0, monotonic()

    @property
    def ids(self) -> list[int]:
        """Process ids of those that were started; they may have children."""
        return [process.pid for process in self._started]

    def require_running(self) -> None:
        """Raise BenchmarkError where a process has ended."""
        ended = next((process for process in self._started if process.poll() is not None), None)
        if ended is not None:
            raise BenchmarkError(f"{self._name} ended with {ended.returncode}\n{self._said()}")

    def require_alive(self, since: int) -> None:
        """Raise BenchmarkError where a process has ended, or the count of replies stands still."""
        self.require_running()
        if since != self._last:
            self._last, self._changed = since, monotonic()
        if monotonic() - self._changed > _STILL_S:
            raise BenchmarkError(
                f"{self._name} stands still: {since} replies, and none in {_STILL_S:.0f} s\n{self._said()}"
            )

    def stop(self) -> None:
        """Send SIGTERM; kill the processes that do not end, and those they leave behind."""
        family = trees.members(self.ids)
        for process in self._started:
            process.terminate()
        deadline = monotonic() + _STOP_S
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - monotonic(), 0.1))
        for process_id in set(family) & set(trees.members(family)):
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        for process in self._started:
            process.wait()

    def _said(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def start(
    arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one, in a session of its own: the benchmark gets a Ctrl-C."""
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    return subprocess.Popen(
        [*prefix, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextmanager
def _running(name: str, commands: Sequence[ProcessCommand]) -> Iterator[_Processes]:
    """The processes, their output in a file; none outlives the block, nor this process."""
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
        log = Path(folder) / "output.log"
        started: list[subprocess.Popen[bytes]] = []
        processes = _Processes(name, started, log)
        try:
            with log.open("wb") as output:
                for arguments, environment in commands:
                    started.append(start(arguments, environment, output))
            yield processes
        finally:
            processes.stop()
