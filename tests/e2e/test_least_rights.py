"""Broker rights named in worker/OPERATING.md: worker, producer, operator and topology need no others."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url, text

from tests.cli.console import Cli
from tests.gateways.conftest import door_on, event_of
from tests.support.pages import page, section, tables
from tests.support.processes import WorkerProcesses
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbit_client import RabbitClient, user_of
from tests.support.short_quiet import short_quiet
from tests.support.waiting import eventually
from worker.broker import BILLING, JournalLimits, open_link
from worker.settings import Settings, environment_of

OPENING = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "basic"}
IN_BULK = {"type": "usage.deduct", "referenceId": "in-bulk", "userId": "ann", "tokens": 1}
CONFLICT = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "pro"}


def rights() -> dict[str, list[str]]:
    """Return configure, write and read of the page's table, by its first column."""
    rows, *_ = tables(section(page("worker/OPERATING.md"), "Users and rights on the broker"))
    return {who: [cell.strip("`").replace("\\|", "|") for cell in cells] for who, *cells in rows}


class BrokerUsers:
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
def users(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[BrokerUsers]:
    made = BrokerUsers(rabbitmq, broker_url.rpartition("/")[2])
    yield made
    for name in made.names:
        rabbitmq.management.delete_user(name)


def test_named_rights_suffice_for_the_bridge(users: BrokerUsers) -> None:
    url = users.url_of("bridge")
    with door_on(lambda: open_link(url), sent_as=user_of(url)) as door:
        assert door.post("stripe", event_of("stripe", "intent succeeded")).status_code == 200
        assert door.app.test_client().get("/readyz").status_code == 200


def with_url(settings: Settings, url: str) -> Settings:
    return settings.model_validate({**settings.model_dump(), "broker_url": url})


def test_named_rights_suffice_for_worker_and_producer(
    worker_settings: Settings, users: BrokerUsers, postgres_engine: Engine
) -> None:
    settings = with_url(worker_settings, users.url_of("worker, scheduler"))
    producer = users.url_of("producer with private reply queues")
    with WorkerProcesses(settings) as workers, RabbitClient(producer) as rabbit:
        process = workers.start("--with-scheduler")
        assert rabbit.request(OPENING)["code"] == "account_opened"
        assert rabbit.request(CONFLICT)["code"] == "reference_conflict"
        assert rabbit.request(IN_BULK, exchange="billing.bulk")["code"] == "tokens_deducted"
        eventually(lambda: drained(postgres_engine) == 1, what="the dead letter in its table")
        code, log = workers.stop(process)
    assert (code, "billing.bulk is not consumed" in log) == (0, False), log


def test_named_rights_suffice_for_an_operator(
    worker_settings: Settings,
    users: BrokerUsers,
    workers: WorkerProcesses,
    rabbit: RabbitClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A correction, a dead letter seen, mended and replayed, with a worker beside."""
    url = users.url_of("operator: command line, console")
    workers.start("--with-scheduler", BILLING_WORKER_USERS=user_of(url))
    assert rabbit.request(OPENING)["code"] == "account_opened"
    assert rabbit.request(CONFLICT)["code"] == "reference_conflict"
    settings = with_url(worker_settings, url)
    cli = Cli(monkeypatch, environment_of(settings) | {"BILLING_WORKER_USERS": rabbit.user})
    for arguments in (
        ("adjust", "ann", "500", "--reason", "test"),
        ("replies", "--take", "--limit", "1", "--queue", "billing.replies"),
        ("dead-letters", "list"),
        ("dead-letters", "edit", "1", "--reason", "test", "--from-file", "-"),
        ("dead-letters", "replay", "1", "--reason", "test"),
    ):
        mended = json.dumps({**OPENING, "referenceId": "open-2"}).encode()
        done = cli(*arguments, stdin=mended)
        assert done.code == 0, (arguments, done)


def test_named_rights_suffice_to_declare_the_topology(
    worker_settings: Settings, rabbitmq: RabbitMQServer, bare_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = BrokerUsers(rabbitmq, bare_broker_url.rpartition("/")[2])
    settings = with_url(worker_settings, users.url_of("topology declare, verify"))
    cli = Cli(monkeypatch, environment_of(settings))
    for words in (("declare",), ("verify",), ("declare", "--journal"), ("declare", "--journal")):
        done = cli("topology", *words)
        assert done.code == 0, (words, done)
    rabbitmq.management.delete_user(users.names[0])


def test_named_rights_suffice_to_recover_and_no_worker_reads_the_journal(
    worker_settings: Settings,
    users: BrokerUsers,
    rabbit: RabbitClient,
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_quiet(monkeypatch)
    with closing(open_link(broker_url)) as link:
        link.declare_journal(BILLING, JournalLimits())
    rabbit.publish(OPENING)
    rabbit.publish(IN_BULK, exchange="billing.bulk")
    operator = Cli(monkeypatch, environment_of(with_url(worker_settings, users.url_of("recover"))))
    done = operator("recover", "--since", "1h")
    assert (done.code, done.out.startswith("published 2,")) == (0, True), done
    worker_url = users.url_of("worker, scheduler")
    worker = Cli(monkeypatch, environment_of(with_url(worker_settings, worker_url)))
    assert "ACCESS_REFUSED - access to queue 'billing.journal'" in worker("recover", "--since", "1h").error
    assert "journal: kept in billing.journal" in worker("check").out, "check needs no right to read it"


def test_named_rights_in_the_database_suffice_for_worker_and_scheduler(
    worker_settings: Settings,
    postgres: PostgresServer,
    postgres_engine: Engine,
    rabbit: RabbitClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (statements,) = re.findall(
        r"```sql\n(.*?)```",
        section(page("worker/OPERATING.md"), "Users and rights in the database"),
        re.DOTALL,
    )
    name = f"r{uuid4().hex[:8]}"
    database = postgres_engine.url.database or ""
    with postgres_engine.begin() as connection:
        for statement in (
            statements.replace("billing_worker", name)
            .replace("DATABASE billing", f"DATABASE {database}")
            .split(";")[:-1]
        ):
            connection.exec_driver_sql(statement)
    url = postgres.address.url(database)
    ours = make_url(url).set(username=name, password="secret").render_as_string(hide_password=False)
    settings = worker_settings.model_validate({**worker_settings.model_dump(), "database_url": ours})
    cli = Cli(monkeypatch, environment_of(settings))
    try:
        with WorkerProcesses(settings) as workers:
            process = workers.start("--with-scheduler")
            assert rabbit.request(OPENING)["code"] == "account_opened"
            assert rabbit.request(CONFLICT)["code"] == "reference_conflict"
            eventually(lambda: drained(postgres_engine) == 1, what="the dead letter in its table")
            code, log = workers.stop(process)
        assert (code, "permission" in log) == (0, False), log
        for arguments in (("check",), ("audit",), ("balance", "ann"), ("dead-letters", "note", "1", "seen")):
            done = cli(*arguments)
            assert "permission denied" not in done.all, (arguments, done)
            assert arguments == ("check",) or done.code == 0, (arguments, done)
    finally:
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def drained(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM dead_letters")).scalar_one())
