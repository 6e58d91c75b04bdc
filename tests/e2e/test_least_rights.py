"""Broker rights named in worker/OPERATING.md: worker, producer, operator and topology need no others."""

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from tests.support.pages import page, section, tables
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import RabbitMQServer
from tests.support.waiting import eventually
from tests.support.witness import Witness
from worker.settings import Settings

OPENING = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "basic"}
CONFLICT = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "pro"}


def rights() -> dict[str, list[str]]:
    """Return configure, write and read of the page's table, by its first column."""
    rows, *_ = tables(section(page("worker/OPERATING.md"), "Users and rights on the broker"))
    return {who: [cell.strip("`").replace("\\|", "|") for cell in cells] for who, *cells in rows}


class Users:
    """Broker users of one test, made by the rows of the page."""

    def __init__(self, rabbitmq: RabbitMQServer, vhost: str) -> None:
        self._rabbitmq, self._vhost = rabbitmq, vhost
        self.names: list[str] = []

    def url_of(self, who: str) -> str:
        """Create a user with the rights of the row ``who``; return its URL."""
        name = f"u{uuid4().hex[:8]}"
        configure, write, read = (right.replace("USER", name) for right in rights()[who])
        self.names.append(name)
        return self._rabbitmq.management.create_user(
            name, uuid4().hex, self._vhost, configure=configure, write=write, read=read
        )


@pytest.fixture
def users(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[Users]:
    made = Users(rabbitmq, broker_url.rpartition("/")[2])
    yield made
    for name in made.names:
        rabbitmq.management.delete_user(name)


def with_url(settings: Settings, url: str) -> Settings:
    return settings.model_validate({**settings.model_dump(), "broker_url": url})


def test_named_rights_suffice_for_worker_and_producer(
    worker_settings: Settings, users: Users, postgres_engine: Engine
) -> None:
    settings = with_url(worker_settings, users.url_of("worker, scheduler"))
    producer = users.url_of("producer with private reply queues")
    with WorkerProcesses(settings) as workers, Witness(producer) as witness:
        process = workers.start("--with-scheduler")
        assert witness.request(OPENING)["code"] == "account_opened"
        assert witness.request(CONFLICT)["code"] == "reference_conflict"
        eventually(lambda: drained(postgres_engine) == 1, what="the dead letter in its table")
        code, log = workers.stop(process)
    assert code == 0, log


def test_named_rights_suffice_for_an_operator(
    worker_settings: Settings, users: Users, workers: WorkerProcesses, witness: Witness
) -> None:
    """A correction, a dead letter seen, mended and replayed, with a worker beside."""
    workers.start("--with-scheduler")
    assert witness.request(OPENING)["code"] == "account_opened"
    assert witness.request(CONFLICT)["code"] == "reference_conflict"
    settings = with_url(worker_settings, users.url_of("operator: command line, console"))
    for arguments in (
        ("adjust", "ann", "500", "--reason", "test"),
        ("replies", "--take", "--limit", "1", "--queue", "billing.replies"),
        ("dead-letters", "list"),
        ("dead-letters", "edit", "1", "--reason", "test", "--from-file", "-"),
        ("dead-letters", "replay", "1", "--reason", "test"),
    ):
        mended = json.dumps({**OPENING, "referenceId": "open-2"}).encode()
        done = run_cli(settings, *arguments, stdin=mended)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def test_named_rights_suffice_to_declare_the_topology(
    worker_settings: Settings, rabbitmq: RabbitMQServer, bare_broker_url: str
) -> None:
    users = Users(rabbitmq, bare_broker_url.rpartition("/")[2])
    settings = with_url(worker_settings, users.url_of("topology declare, verify"))
    for action in ("declare", "verify", "declare"):
        done = run_cli(settings, "topology", action)
        assert done.returncode == 0, (action, done.stdout, done.stderr)
    rabbitmq.management.delete_user(users.names[0])


def drained(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM dead_letters")).scalar_one())
