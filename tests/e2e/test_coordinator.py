"""A ledger on a node, and everything beside it on the coordinator: a day, reads, corrections, dead letters.

The two databases are a stand-in for a Citus cluster. The node has no other tables than the ledger's, so that
whatever is asked at the wrong place isn't there.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from schemas import OpenAccount
from tests.cli.console import Cli
from tests.support.coordinator import LedgerCluster, cluster
from tests.support.fake_stop import FakeStop
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import Outgoing
from worker.demo.day import day_scenario
from worker.errors import ConfigurationError, LedgerUnavailableError
from worker.ledger.audit import audit
from worker.ledger.erased_ids import digest_of
from worker.ledger.form import LedgerForm
from worker.ledger.tables import erased_ids
from worker.settings import Settings, environment_of, load_settings

MESSAGES = 240


@pytest.fixture(scope="module")
def urls(postgres: PostgresServer, postgres_template: str) -> Iterator[LedgerCluster]:
    """The databases of the module, whose tests have users of their own."""
    with cluster(postgres, postgres_template) as urls:
        yield urls


@pytest.fixture
def worker_settings(broker_url: str, urls: LedgerCluster) -> Settings:
    """Settings of a worker on the node."""
    return load_settings(
        broker_url=broker_url,
        database_url=urls.node,
        coordinator_url=urls.coordinator,
        ledger_form=LedgerForm.DISTRIBUTED,
        readers=0,
    )


@pytest.fixture
def application(worker_settings: Settings) -> Iterator[Application]:
    """The application, whose engines are all closed at the end."""
    application = Application(worker_settings)
    yield application
    for engine in (application.engine, application.batch_engine, application.coordinator_engine):
        engine.dispose()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, worker_settings: Settings, rabbitmq: RabbitMQServer) -> Cli:
    """The command line of the same installation."""
    management = {"BILLING_MANAGEMENT_URL": rabbitmq.address.management_url}
    return Cli(monkeypatch, environment_of(worker_settings) | management)


def apply_all(application: Application) -> None:
    """Let the worker take all that is in its queues."""
    application.require_ledger_of_batches()
    application.consumer(FlagStop()).run(drain=True)


def the_day(application: Application, suffix: str) -> list[str]:
    """Let a day pass; return the references of its messages."""
    now = datetime.now(UTC)
    scenario = day_scenario(random.Random(1), now, application.catalog, messages=MESSAGES, suffix=suffix)
    link = application.link()
    for phase in scenario.phases:
        for message in phase.messages:
            outgoing = Outgoing(
                message.body,
                "billing",
                message.routing_key,
                {"message_id": message.message_id, "app_id": "demo"},
                {},
            )
            assert not link.publish([outgoing]).returned
        apply_all(application)
    link.close()
    return [message.reference_id for message in scenario.messages if message.reference_id is not None]


def count(application: Application, statement: str) -> int:
    with application.engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def test_day_is_kept_on_the_node_and_explained_from_the_coordinator(
    application: Application, cli: Cli, rabbit: RabbitClient
) -> None:
    references = the_day(application, "-one")
    assert count(application, "SELECT count(*) FROM operations") > MESSAGES / 2
    for table in ("claims", "payment_names", "senders", "catalogs", "id_counters"):
        assert count(application, f"SELECT count(*) FROM {table}") > 0  # noqa: S608 - names of ours
    assert rabbit.depth("billing.dead") > 0
    assert cli("dead-letters", "drain").code == 0
    user, *_ = users(application)
    codes = {
        words: cli(*words.format(user=user).split()).code
        for words in (
            "balance {user}",
            "history {user}",
            "lots {user} --all",
            "holds {user} --all",
            "usage {user}",
            "expiring {user} --days 60",
            "expiring --days 60",
            "can-afford {user} 1",
            "statement {user} --from 2026-01-01 --to 2027-01-01",
            "stats",
            "payments",
            "dead-letters list",
            "dead-letters groups --verify",
            "dead-letters show 1",
            "activity",
            "check",
        )
    }
    assert set(codes.values()) == {0}, codes
    explained = [cli("explain", reference).code for reference in references[::20]]
    assert set(explained) <= {0, 4}
    assert explained.count(0) > len(explained) / 2
    report = audit(application.engine, claims_before=datetime.now(UTC) + timedelta(hours=1))
    assert report.is_clean, report.findings


def users(application: Application) -> list[str]:
    with application.engine.connect() as connection:
        return list(connection.execute(text("SELECT user_id FROM accounts ORDER BY sequence DESC")).scalars())


def test_dead_letter_is_edited_and_replayed_into_the_node(
    application: Application, cli: Cli, rabbit: RabbitClient
) -> None:
    opening = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "basic"}
    deduct = {"type": "usage.deduct", "referenceId": "again", "userId": "ann"}
    rabbit.publish(opening, reply_to=None)
    rabbit.publish({**deduct, "tokens": "five"}, reply_to=None)
    apply_all(application)
    assert cli("dead-letters", "drain").code == 0
    number = str(count(application, "SELECT max(number) FROM dead_letters"))
    mended = json.dumps({**deduct, "tokens": 5}).encode()
    done = [cli("dead-letters", "edit", number, "--reason", "test", "--from-file", "-", stdin=mended)]
    with running(application):
        done.append(cli("dead-letters", "replay", number, "--reason", "test"))
    done += [cli(*words.split()) for words in ("explain again", f"dead-letters show {number}", "activity")]
    assert [each.code for each in done] == [0] * 5, done
    assert "tokens_deducted" in done[2].out


def test_user_who_was_erased_before_opens_no_account_on_the_node(
    application: Application, rabbit: RabbitClient
) -> None:
    with application.engine.begin() as connection:
        connection.execute(erased_ids.insert().values(digest=digest_of("gone")))
    opening = {"type": "account.open", "referenceId": "open-gone", "userId": "gone", "tier": "basic"}
    with running(application):
        reply = rabbit.request(opening)
    assert count(application, "SELECT count(*) FROM accounts WHERE user_id = 'gone'") == 0
    assert reply["status"] == "rejected"


def test_pauses_and_processes_are_those_of_the_coordinator(application: Application) -> None:
    with running(application):
        eventually(lambda: count(application, "SELECT count(*) FROM workers") > 0)
        eventually(lambda: application.pause_watch.read_at is not None)


def test_scheduler_finds_what_is_due_from_the_coordinator(
    application: Application, rabbit: RabbitClient
) -> None:
    opening = {"type": "account.open", "referenceId": "open-due", "userId": "due", "tier": "basic"}
    short = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    given = {"type": "credit.bonus", "referenceId": "short", "userId": "due", "tokens": 5, "expiresAt": short}
    rabbit.publish_all([opening, given], reply_to=None)
    apply_all(application)
    ahead = Application(application.settings, clock=lambda: datetime.now(UTC) + timedelta(minutes=1))
    ahead.scheduler().run(FakeStop(waits_left=1))
    assert rabbit.depth("billing.usage") + rabbit.depth("billing.payments") >= 1


def test_probe_writes_both_databases(application: Application, urls: LedgerCluster) -> None:
    application.ledger.probe()
    assert count(application, "SELECT count(*) FROM write_probes") > 0
    assert count(application, "SELECT count(*) FROM claims WHERE user_id = 'billing-worker-probe'") == 0


def test_coordinator_that_is_away_is_an_outage(worker_settings: Settings) -> None:
    away = SecretStr("postgresql://u@127.0.0.1:1/db")
    application = Application(worker_settings.model_copy(update={"coordinator_url": away}))
    opening = OpenAccount(reference_id="away", user_id="away", tier="basic")
    with pytest.raises(LedgerUnavailableError):
        application.ledger.probe()
    with pytest.raises(LedgerUnavailableError), application.ledger.begin([opening], datetime.now(UTC)):
        pass
    application.batch_engine.dispose()


def test_urls_that_are_exchanged_are_refused(worker_settings: Settings, urls: LedgerCluster) -> None:
    exchanged = worker_settings.model_copy(
        update={"database_url": SecretStr(urls.coordinator), "coordinator_url": SecretStr(urls.node)}
    )
    with pytest.raises(ConfigurationError, match="schema is at nothing"):
        Application(exchanged).require_ledger_of_batches()


@pytest.mark.parametrize(
    ("form", "node", "reason"),
    [
        ("whole", "postgresql://u@h/db", "goes with BILLING_LEDGER_FORM=distributed"),
        ("distributed", "sqlite:///file", "must both be postgresql:// URLs"),
    ],
)
def test_coordinator_of_no_distributed_ledger_is_refused(form: str, node: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        load_settings(database_url=node, coordinator_url="postgresql://u@c/db", ledger_form=form)
