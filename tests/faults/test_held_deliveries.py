"""Consumers of every kind in an outage of the database; the broker takes back deliveries held too long.

All act the same outage, each with a virtual host, a database and a proxy of its own; the proxy sees the
delivery counts that the broker sends.
"""

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, func, select

from tests.faults.conftest import IMPATIENCE_S
from tests.support.load_scenario import (
    LoadScenario,
    assert_clean,
    consumers_of,
    load_scenario,
    new_database,
    new_vhost,
    through,
)
from tests.support.mixed_messages import open_accounts
from tests.support.postgres_server import Postgres
from tests.support.process_group import Member, ProcessGroup, process_group
from tests.support.rabbit_client import RabbitClient
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import eventually, past
from worker.broker import BILLING
from worker.deadletters.store.tables import dead_letters
from worker.ledger import tables
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.settings import Settings, load_settings

DEAD_LETTERS = 30
COMMAND_CALLS = 5
VARIABLES = {"BILLING_CONSUMER_TIMEOUT_S": str(IMPATIENCE_S), "BILLING_DATABASE_TIMEOUT_S": "5"}
SERVER_AWAY_EXIT = 3

WireDeadLetter = tuple[Any, bytes]


class ConsumerCase:
    """One kind of consumer. ``prepare`` runs before the outage, ``act`` during it, ``check`` after it."""

    def __init__(self, broker_url: str, database_url: str, proxy: Proxy, folder: Path) -> None:
        self.broker_url, self.database_url, self.proxy = broker_url, database_url, proxy
        self.settings = load_settings(
            broker_url=through(proxy, broker_url), database_url=database_url, readers=0
        )
        self.folder = folder
        folder.mkdir()

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        """Start the processes that meet the outage."""

    def act(self) -> None:
        """Act while the database is away."""

    def check(self) -> None:
        """Check the result; here, that no message was returned too often."""
        assert max(self.proxy.delivery_counts, default=0) <= self.returns_max, self.proxy.delivery_counts

    @property
    def returns_max(self) -> int:
        """Maximum returns of one message: one by each process that can hold it."""
        return 1

    def rows(self, *conditions: Any) -> int:
        """Return the number of dead letters in the table."""
        engine = create_engine(self.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            return int(
                connection.execute(
                    select(func.count()).select_from(dead_letters).where(*conditions)
                ).scalar_one()
            )

    def put(self, dead_letters: list[WireDeadLetter]) -> None:
        """Put dead letters into their queue."""
        with RabbitClient(self.broker_url) as rabbit:
            for properties, body in dead_letters:
                rabbit.channel.basic_publish("", BILLING.dead.name, body, properties, mandatory=True)


class WorkerCase(ConsumerCase):
    """A worker under load."""

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        self.under: LoadScenario = parts.enter_context(
            load_scenario(
                self.folder,
                broker_url=self.broker_url,
                database_url=self.database_url,
                seen=(through(self.proxy, self.broker_url), None),
                variables=VARIABLES,
                pace=10,
                malformed_share=0,
            )
        )
        self.under.starts()
        self.under.lasts(1)

    def check(self) -> None:
        self.under.recovers()
        super().check()
        assert_clean(self.under)


class DrainerCase(ConsumerCase):
    """Dead letters that arrive while the database is away, and the scheduler that drains them."""

    commands: tuple[tuple[str, ...], ...] = (("scheduler",),)

    @property
    def returns_max(self) -> int:
        return len(self.commands)

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        self.dead_letters = dead_letters
        self.processes: ProcessGroup = parts.enter_context(
            process_group(self.settings, self.folder, VARIABLES)
        )
        for command in self.commands:
            self.processes.start(*command)
        with RabbitClient(self.broker_url) as rabbit:
            dead = BILLING.dead.name
            eventually(lambda: consumers_of(rabbit, dead) == len(self.commands), what="drainers")

    def act(self) -> None:
        self.put(self.dead_letters)

    def check(self) -> None:
        eventually(lambda: self.rows() >= DEAD_LETTERS, what="every dead letter in the table")
        assert self.rows() == DEAD_LETTERS
        super().check()
        assert set(self.processes.stop()) == {0}


class DrainerBesideWorkerCase(DrainerCase):
    """The drainer of ``run --with-scheduler``."""

    commands = (("run", "--with-scheduler"),)


class TwoDrainersCase(DrainerCase):
    """Two schedulers at once."""

    commands = (("scheduler",), ("scheduler",))


class ReplayCase(ConsumerCase):
    """A replay under way, and the worker that applies what it sends."""

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        engine = ledger_engine(self.database_url)
        open_accounts(engine)
        engine.dispose()
        self.put([edited(dead_letter, number) for number, dead_letter in enumerate(dead_letters)])
        self.processes: ProcessGroup = parts.enter_context(
            process_group(self.settings, self.folder, VARIABLES)
        )
        self.processes.start("run")
        assert self.processes.start("dead-letters", "drain").process.wait(60) == 0
        arguments = ("--code", "not_json", "--yes", "--rate", "5/s", "--reason", "edited")
        self.replay: Member = self.processes.start("dead-letters", "replay", *arguments)
        eventually(lambda: self.resolved() >= 2, what="the replay is under way")

    def resolved(self) -> int:
        """Return the number of resolved dead letters."""
        return self.rows(dead_letters.c.status == "resolved")

    def check(self) -> None:
        eventually(lambda: self.resolved() == DEAD_LETTERS or not self.replay.is_running)
        if self.resolved() < DEAD_LETTERS:  # it printed the command that resumes it
            again = self.processes.start("dead-letters", "replay", "resume", "1")
            assert again.process.wait(60) == 0, again.log + again.output
        assert "Traceback" not in self.replay.log
        assert self.resolved() == DEAD_LETTERS
        super().check()
        engine = ledger_engine(self.database_url)
        with engine.connect() as connection:
            mine = select(func.count()).where(tables.operations.c.reference_id.startswith("replayed-"))
            assert connection.execute(mine).scalar_one() == DEAD_LETTERS
        assert audit(engine).findings == ()
        engine.dispose()


class CommandCase(ConsumerCase):
    """Commands that drain dead letters."""

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        self.put(dead_letters)
        self.processes: ProcessGroup = parts.enter_context(
            process_group(self.settings, self.folder, VARIABLES)
        )

    def act(self) -> None:
        self.codes = [
            self.processes.start("dead-letters", "drain").process.wait(60) for _ in range(COMMAND_CALLS)
        ]

    def check(self) -> None:
        assert self.codes == [SERVER_AWAY_EXIT] * COMMAND_CALLS
        assert self.processes.start("dead-letters", "drain").process.wait(60) == 0
        assert self.rows() == DEAD_LETTERS
        super().check()


class RepliesCase(ConsumerCase):
    """``replies --follow --take``, which needs no database."""

    def prepare(self, parts: ExitStack, dead_letters: list[WireDeadLetter]) -> None:
        self.processes: ProcessGroup = parts.enter_context(
            process_group(self.settings, self.folder, VARIABLES)
        )
        self.shown: Member = self.processes.start("replies", "--follow", "--take")
        self.publish(0)

    def act(self) -> None:
        self.publish(DEAD_LETTERS)

    def publish(self, first: int) -> None:
        """Publish some replies, numbered from ``first``."""
        with RabbitClient(self.broker_url) as rabbit:
            for number in range(first, first + DEAD_LETTERS):
                body = json.dumps({"status": "applied", "referenceId": f"r-{number}"}).encode()
                rabbit.publish(body, exchange="", routing_key=BILLING.replies.name)

    def check(self) -> None:
        eventually(lambda: len(self.shown.output.splitlines()) >= 2 * DEAD_LETTERS, what="all are shown")
        assert self.shown.is_running, self.shown.log
        self.shown.process.send_signal(signal.SIGINT)
        self.shown.process.wait(30)
        references = [json.loads(line)["referenceId"] for line in self.shown.output.splitlines()]
        assert sorted(references) == sorted(f"r-{number}" for number in range(2 * DEAD_LETTERS))
        assert "Traceback" not in self.shown.log
        super().check()


KINDS: Mapping[str, type[ConsumerCase]] = {
    "worker": WorkerCase,
    "drainer beside scheduler": DrainerCase,
    "drainer beside worker": DrainerBesideWorkerCase,
    "two schedulers": TwoDrainersCase,
    "replay": ReplayCase,
    "dead-letters": CommandCase,
    "replies": RepliesCase,
}


def edited(dead_letter: WireDeadLetter, number: int) -> WireDeadLetter:
    """Return the dead letter with a body that can be applied."""
    properties, _ = dead_letter
    body = {"type": "usage.deduct", "referenceId": f"replayed-{number}", "userId": "user-0", "tokens": 1}
    return properties, json.dumps(body).encode()


def real_dead_letters(settings: Settings, folder: Path) -> list[WireDeadLetter]:
    """Return dead letters that a worker has sent, as they are on the wire."""
    with (
        RabbitClient(settings.broker_url.get_secret_value()) as rabbit,
        process_group(settings, folder) as members,
    ):
        for number in range(DEAD_LETTERS):
            body = f'{{"type": "usage.deduct", "referenceId": "bad-{number}"'.encode()
            rabbit.publish(body, routing_key="usage.deduct", message_id=f"bad-{number}")
        members.start("run")
        taken = rabbit.take(BILLING.dead.name, DEAD_LETTERS)
    for properties, _ in taken:
        properties.headers = {
            name: value for name, value in properties.headers.items() if name != "x-delivery-count"
        }
        properties.expiration = None
    return taken


@pytest.fixture(scope="module", params=[60, 600], ids=["60s", "600s"])
def after_outage(
    request: pytest.FixtureRequest,
    fragile_postgres: Postgres,
    impatient_rabbitmq: RabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, ConsumerCase]]:
    """Every case after an outage of 60 or 600 seconds."""
    seconds: float = request.param
    folder = tmp_path_factory.mktemp("held")
    with ExitStack() as parts:
        source = load_settings(
            broker_url=new_vhost(impatient_rabbitmq), database_url=new_database(fragile_postgres.address)
        )
        dead_letters = real_dead_letters(source, folder)
        cases = {
            name: kind(
                new_vhost(impatient_rabbitmq),
                new_database(fragile_postgres.address),
                parts.enter_context(Proxy(impatient_rabbitmq.address.port)),
                folder / kind.__name__,
            )
            for name, kind in KINDS.items()
        }
        for case in cases.values():
            case.prepare(parts, dead_letters)
        fragile_postgres.stop()
        over = past(seconds)
        try:
            for case in cases.values():
                case.act()
            eventually(over, patience_s=seconds + 1)
        finally:
            fragile_postgres.resume()
        yield cases


@pytest.mark.slow
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("name", KINDS)
def test_consumer_returns_no_delivery_twice_and_loses_none(
    name: str, after_outage: Mapping[str, ConsumerCase]
) -> None:
    after_outage[name].check()
