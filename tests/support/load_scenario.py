"""Processes under load, and the reconciliation of all published messages."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from uuid import uuid4

from tests.support.expected_state import ExpectedState
from tests.support.mixed_messages import USERS
from tests.support.postgres_server import Databases, PostgresAddress
from tests.support.process_group import Member, ProcessGroup, process_group
from tests.support.rabbit_client import RabbitClient
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.reconciliation import Differences, reconcile
from tests.support.reply_collector import ReplyCollector
from tests.support.steady_producer import SteadyProducer, assorted
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import PATIENCE_S, eventually, past
from worker.broker import BILLING, open_link
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.settings import load_settings

USAGE = BILLING.work[-1].name


@dataclass
class LoadScenario:
    """Parts of a load scenario; ``ended`` are exit codes, ``ledger_url`` is the ledger to reconcile."""

    broker_url: str
    ledger_url: str
    state: ExpectedState
    processes: ProcessGroup
    producer: SteadyProducer
    collector: ReplyCollector
    ended: list[int] = field(default_factory=list)

    def lasts(self, seconds: float) -> None:
        """Keep up the load for some seconds."""
        eventually(past(seconds), patience_s=seconds + 1)

    def starts(self, *, workers: int = 1, others: tuple[tuple[str, ...], ...] = ()) -> None:
        """Start workers and other processes, and wait until the workers consume."""
        for arguments in [*[("run",)] * workers, *others]:
            self.processes.start(*arguments)
        self.consumes(workers)

    def consumes(self, workers: int) -> None:
        """Wait until at least so many workers consume."""
        with RabbitClient(self.broker_url) as rabbit:
            eventually(lambda: consumers_of(rabbit, USAGE) >= workers, what=f"{workers} workers")

    def recovers(self, *, patience_s: float = PATIENCE_S) -> float:
        """Wait for the replies to all messages published so far; return the seconds of the wait."""
        began = monotonic()
        expected = [each.correlation_id for each in self.producer.published]
        return self.collector.answered(expected, patience_s=patience_s) - began

    def under_way(self) -> int:
        """Return the number of published messages without a reply."""
        return len(self.collector.unanswered(each.correlation_id for each in self.producer.published))

    def replace(self, member: Member) -> Member:
        """Kill a process and start another one like it."""
        member.kill()
        return self.processes.start(*member.arguments)

    def reconcile(self, *, patience_s: float = PATIENCE_S) -> Differences:
        """End the producer, wait for the replies, end the processes; return the differences."""
        published = self.producer.end()
        expected = {each.correlation_id for each in published}
        # Replies that never come are among the differences.
        deadline = monotonic() + patience_s
        eventually(
            lambda: not self.collector.unanswered(expected) or monotonic() > deadline,
            patience_s=patience_s + 1,
        )
        self.ended += self.processes.stop()
        engine = ledger_engine(self.ledger_url)
        try:
            return reconcile(self.state, engine, self.broker_url, published, self.collector.replies)
        finally:
            engine.dispose()


@contextmanager
def load_scenario(
    folder: Path,
    *,
    broker_url: str,
    database_url: str,
    seen: tuple[str | None, str | None] = (None, None),
    variables: dict[str, str] | None = None,
    seed: int = 1,
    pace: float = 200.0,
    malformed_share: float = 0.01,
    users: Sequence[str] = USERS,
    partitions: int = 0,
) -> Iterator[LoadScenario]:
    """Start a producer and no process yet; the block reconciles.

    ``seen`` are the broker's and the database's URL as the processes know them (through proxies).
    ``partitions`` are those that the producer publishes to.
    """
    settings = load_settings(
        broker_url=seen[0] or broker_url,
        database_url=seen[1] or database_url,
        readers=0,
        partitions=partitions,
    )
    engine = ledger_engine(database_url)
    state = ExpectedState(engine, users)
    engine.dispose()
    with ExitStack() as parts:
        members = parts.enter_context(process_group(settings, folder, variables))
        collector = parts.enter_context(ReplyCollector(broker_url))
        publications = assorted(seed, malformed_share=malformed_share, users=users, partitions=partitions)
        producer = SteadyProducer(broker_url, publications, pace=pace)
        yield LoadScenario(broker_url, database_url, state, members, parts.enter_context(producer), collector)


def assert_clean(under: LoadScenario, *, patience_s: float = PATIENCE_S) -> None:
    """Reconcile; fail the test unless there is no difference and every process ends with 0."""
    found = under.reconcile(patience_s=patience_s)
    assert found.is_clean, f"{found}\n{under.processes.log[-4_000:]}"
    assert set(under.ended) <= {0}, under.ended


def consumers_of(rabbit: RabbitClient, queue: str) -> int:
    """Return the number of consumers of ``queue``."""
    return int(rabbit.channel.queue_declare(queue, passive=True).method.consumer_count)


def new_database(address: PostgresAddress, create: Callable[[str], None] | None = None) -> str:
    """Return the URL of a new, migrated database; ``create`` makes it in a special way."""
    name = f"test_{uuid4().hex[:12]}"
    (create or Databases(address).create_database)(name)
    url = address.url(name)
    engine = ledger_engine(url)
    migrate(engine)
    engine.dispose()
    return url


def new_vhost(server: RabbitMQ) -> str:
    """Return the URL of a new virtual host with topology and policies.

    Dead letters have a delivery limit of 20.
    """
    name = f"test_{uuid4().hex[:12]}"
    server.management.create_vhost(name)
    for policy, (pattern, definition) in BILLING.policies().items():
        server.management.set_policy(name, policy, pattern=pattern, definition=definition)
    server.management.set_policy(
        name, "dead", pattern=r"^billing\.dead$", definition={"delivery-limit": 20}, priority=1
    )
    url = server.address.url(name)
    link = open_link(url)
    link.declare(BILLING)
    link.close()
    return url


def through(proxy: Proxy, url: str) -> str:
    """Return ``url`` with the port of the proxy."""
    head, _, tail = url.rpartition("@")
    _, _, path = tail.partition("/")
    return f"{head}@127.0.0.1:{proxy.port}/{path}"
