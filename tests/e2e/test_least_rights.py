"""Whole jobs with the users of `topology definitions` and the roles of `migrate --roles`, and no others."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pika
import pytest
from sqlalchemy import Engine, text

from schemas import QueryBalance
from tests.cli.console import Cli
from tests.console.visitor import Visitor
from tests.gateways.conftest import door_on, event_of
from tests.support.broker_users import BrokerUsers
from tests.support.database_roles import DatabaseRoles
from tests.support.pages import page, section, tables
from tests.support.processes import WorkerProcesses
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbit_client import RabbitClient, user_of
from tests.support.rabbitmq_management import connected
from tests.support.short_quiet import short_quiet
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.broker import BILLING, JournalLimits, open_link
from worker.broker.roles import (
    FURTHER_ROLES,
    ROLES,
    BrokerRole,
    BrokerUser,
    own_users,
    rights_of,
    sender_rules,
)
from worker.cli.statement import as_csv
from worker.client import BillingClient
from worker.console.app import create_app
from worker.console.context import ConsoleContext
from worker.console.guard import AccessGuard
from worker.settings import Settings, environment_of, load_settings

OPENING = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "basic"}
IN_BULK = {"type": "usage.deduct", "referenceId": "in-bulk", "userId": "ann", "tokens": 1}
CONFLICT = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "pro"}


@pytest.fixture
def users(rabbitmq: RabbitMQServer, bare_broker_url: str) -> Iterator[BrokerUsers]:
    """A user of each role; the vhost has what the definitions make, and nothing else."""
    with BrokerUsers(rabbitmq, bare_broker_url.rpartition("/")[2]) as users:
        yield users


@pytest.fixture
def roles(postgres: PostgresServer, postgres_template: str) -> Iterator[DatabaseRoles]:
    """A database of this test's own, with its roles."""
    with DatabaseRoles(postgres, postgres_template) as roles:
        yield roles.make()


def as_user(settings: Settings, url: str, **changes: Any) -> Settings:
    return settings.model_validate({**settings.model_dump(), "broker_url": url, **changes})


def worker_settings_of(users: BrokerUsers, roles: DatabaseRoles) -> Settings:
    """Return the settings of a worker with its broker user, its database role and the rules for all users."""
    return load_settings(
        broker_url=users.url("worker"),
        database_url=roles.url(roles.names.worker),
        readers=0,
        senders=sender_rules(users.users),
        worker_users=tuple(own_users(users.users)),
    )


def test_page_has_the_rights_of_the_definitions() -> None:
    rows, *_ = tables(section(page("worker/OPERATING.md"), "Users and rights on the broker"))
    shown = [[cell.strip("`").replace("\\|", "|") for cell in cells] for cells in rows]
    assert [row[0] for row in shown] == [role.name for role in (*ROLES, *FURTHER_ROLES)]
    assert [row[2:] for row in shown] == [_rights_shown(role) for role in (*ROLES, *FURTHER_ROLES)]


def _rights_shown(role: BrokerRole) -> list[str]:
    rights = rights_of(BrokerUser("USER", role), BILLING)
    return [right.replace("^$", "") for right in (rights.configure, rights.write, rights.read)]


def test_rights_suffice_for_the_bridge(users: BrokerUsers) -> None:
    url = users.url("gateway")
    with door_on(lambda: open_link(url), sent_as=user_of(url)) as door:
        assert door.post("stripe", event_of("stripe", "intent succeeded")).status_code == 200
        assert door.app.test_client().get("/readyz").status_code == 200


def test_rights_suffice_for_worker_scheduler_reader_and_app(users: BrokerUsers, roles: DatabaseRoles) -> None:
    """A worker with its scheduler, a reader, and an app with each kind of reply address."""
    settings = worker_settings_of(users, roles)
    readers = as_user(settings, users.url("reader"), database_url=roles.url(roles.names.reader), readers=1)
    with (
        WorkerProcesses(settings) as workers,
        WorkerProcesses(readers) as reading,
        RabbitClient(users.url("app")) as rabbit,
        BillingClient(users.url("app")) as client,
    ):
        process = workers.start("--with-scheduler")
        reader = reading.start(command="readers")
        assert rabbit.request(OPENING)["code"] == "account_opened"
        assert rabbit.request(CONFLICT)["code"] == "reference_conflict"
        assert rabbit.request(IN_BULK, exchange="billing.bulk")["code"] == "tokens_deducted"
        assert client.ask(QueryBalance(user_id="ann"), timeout_s=30).type == "answer.balance"
        assert _asked_directly(users.url("app"))["code"] == "tokens_deducted"
        rabbit.publish({**IN_BULK, "referenceId": "default"}, reply_to=None, user_id=rabbit.user)
        ((_, reply),) = rabbit.take("billing.replies", 1)
        assert json.loads(reply)["referenceId"] == "default"
        eventually(lambda: drained(roles.engine) == 1, what="the dead letter in its table")
        ended = [workers.stop(process), reading.stop(reader)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "not consumed" not in ended[0][1]
    for refusal in ("ACCESS_REFUSED", "permission denied"):
        assert refusal not in ended[0][1] + ended[1][1]


def _asked_directly(url: str) -> Any:
    """Return the reply to a command that was sent with RabbitMQ's direct reply-to."""
    with closing(connected(url)) as connection:
        channel, replies = connection.channel(), []
        address = "amq.rabbitmq.reply-to"
        channel.basic_consume(address, lambda *delivery: replies.append(delivery[-1]), auto_ack=True)
        command = json.dumps({**IN_BULK, "referenceId": "direct"}).encode()
        channel.basic_publish(
            "billing", "usage.deduct", command, pika.BasicProperties(reply_to=address, user_id=user_of(url))
        )
        while not replies:
            connection.process_data_events(0.1)
        return json.loads(replies[0])


def test_rights_suffice_for_an_operator(
    users: BrokerUsers, roles: DatabaseRoles, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction, a dead letter drained, seen, mended and replayed, the checks and the console."""
    settings = worker_settings_of(users, roles)
    management = {"management_url": rabbitmq.address.management_url}
    ours = as_user(settings, users.url("ops"), **management)
    cli = Cli(
        monkeypatch, environment_of(ours) | {"BILLING_WORKER_USERS": user_of(users.url("worker")) or ""}
    )
    with WorkerProcesses(settings) as workers, RabbitClient(users.url("app")) as rabbit:
        assert cli("pause", "--type", "usage.deduct", "--reason", "test").code == 0
        workers.start(BILLING_WORKER_USERS=user_of(users.url("ops")) or "")
        assert rabbit.request(OPENING)["code"] == "account_opened"
        held = rabbit.publish({**IN_BULK, "referenceId": "held"})
        eventually(lambda: rabbit.depth(BILLING.held.name) == 1, what="a held message")
        assert cli("resume").code == 0
        assert rabbit.replies({held})[held][0]["code"] == "tokens_deducted"
        assert rabbit.request(CONFLICT)["code"] == "reference_conflict"
        rabbit.publish({**IN_BULK, "referenceId": "unasked"}, reply_to=None, user_id=rabbit.user)
        for arguments in (
            ("adjust", "ann", "500", "--reason", "test"),
            ("dead-letters", "drain"),
            ("dead-letters", "list"),
            ("dead-letters", "edit", "1", "--reason", "test", "--from-file", "-"),
            ("dead-letters", "replay", "1", "--reason", "test"),
            ("dead-letters", "note", "1", "seen"),
            ("dead-letters", "groups", "--verify"),
            ("replies", "--take", "--limit", "1"),
            ("audit",),
            ("report", "revenue", "--by", "month,gateway"),
            ("report", "liability", "--by", "tier"),
            ("explain", "open"),
            ("check",),
        ):
            mended = json.dumps({**OPENING, "userId": "bob", "referenceId": "open-2"}).encode()
            done = cli(*arguments, stdin=mended)
            assert done.code == 0, (arguments, done)
            assert "ACCESS_REFUSED" not in done.all, (arguments, done)
            assert "permission denied" not in done.all, (arguments, done)
        assert "ok   delivery limits: high enough" in cli("check").lines
        overview = overview_of(ours)
    assert "billing.usage" in overview
    assert "ACCESS_REFUSED" not in overview


def overview_of(settings: Settings) -> str:
    """Return the first page of the console."""
    application = Application(settings)
    guard = AccessGuard(None, "127.0.0.1", read_only=False)
    context = ConsoleContext(application, guard, as_csv)
    with closing(context):
        shown = Visitor(create_app(context, b"a secret of the tests").test_client()).get("/")
    application.engine.dispose()
    return shown


def test_check_under_the_rights_of_a_worker_calls_unknown_what_it_can_not_see(
    users: BrokerUsers, roles: DatabaseRoles, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = as_user(
        worker_settings_of(users, roles),
        users.url("worker"),
        management_url=rabbitmq.address.management_url,
    )
    done = Cli(monkeypatch, environment_of(settings))("check")
    assert done.code == 0, done
    (topology,) = [line for line in done.lines if " topology: " in line]
    assert topology == (
        "note topology: unknown: all of it is there; to compare it takes the right to configure, which no "
        "worker needs"
    )
    (limits,) = [line for line in done.lines if " delivery limits: " in line]
    assert limits.startswith("note delivery limits: unknown: ")


def test_named_rights_suffice_to_declare_the_topology(
    rabbitmq: RabbitMQServer, bare_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tables(section(page("worker/OPERATING.md"), "Users and rights on the broker"))[1]
    ((_, *cells),) = rows
    configure, write, read = (cell.strip("`").replace("\\|", "|") for cell in cells)
    vhost = bare_broker_url.rpartition("/")[2]
    url = rabbitmq.management.create_user(
        f"declarer-{vhost}", "secret", vhost, configure=configure, write=write, read=read
    )
    cli = Cli(monkeypatch, {"BILLING_BROKER_URL": url})
    for words in (("declare",), ("verify",), ("declare", "--journal"), ("declare", "--journal")):
        done = cli("topology", *words)
        assert done.code == 0, (words, done)
    rabbitmq.management.delete_user(f"declarer-{vhost}")


def test_rights_suffice_to_recover_and_no_worker_reads_the_journal(
    users: BrokerUsers, roles: DatabaseRoles, bare_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_quiet(monkeypatch)
    with closing(open_link(bare_broker_url)) as link:
        link.declare(BILLING)
        link.declare_journal(BILLING, JournalLimits())
    with RabbitClient(users.url("app")) as rabbit:
        rabbit.publish(OPENING)
        rabbit.publish(IN_BULK, exchange="billing.bulk")
    settings = worker_settings_of(users, roles)
    operator = Cli(monkeypatch, environment_of(as_user(settings, users.url("ops"))))
    done = operator("recover", "--since", "1h")
    assert (done.code, done.out.startswith("published 2,")) == (0, True), done
    worker = Cli(monkeypatch, environment_of(settings))
    assert "ACCESS_REFUSED - access to queue 'billing.journal'" in worker("recover", "--since", "1h").error
    assert "journal: kept in billing.journal" in worker("check").out, "check needs no right to read it"


def drained(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM dead_letters")).scalar_one())
