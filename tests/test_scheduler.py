"""Scheduler: due changes are published now and then and applied once, whoever publishes, however often."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, func, select, text

from schemas import (
    BonusCredit,
    Command,
    OpenAccount,
    PaymentRefunded,
    PaymentSucceeded,
    ReserveUsage,
    SettleAccount,
    routing_key,
)
from tests.support.apply_commands import applied
from tests.support.fake_stop import FakeStop
from tests.support.fakes import FakeLink
from tests.support.fault_injection import _CONTEXT, after, die
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import BILLING, Link, Outgoing, PublishResult, open_link
from worker.broker.rabbitmq.link import AmqpLink
from worker.catalog import Catalog
from worker.cli.run import _readers, _workers
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.ledger.audit import audit
from worker.ledger.due import DueAccount, due_accounts
from worker.ledger.engine import ledger_engine
from worker.ledger.tables import accounts, operations, waiting_events
from worker.messages.policy import SCHEDULER_APP_ID
from worker.metrics import Metrics
from worker.processes import run_scheduler, run_worker
from worker.scheduler import REMEMBERED_FOR, Scheduler, reference_of
from worker.settings import Settings, load_settings

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
PAYMENTS = BILLING.queue_of("account.settle").name
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3600, 86_400))


class Broker(FakeLink):
    """A broker in memory, in whose payments queue ``waiting`` messages wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.opened = 0

    def depth(self, queue: str) -> int:
        assert BILLING.lane_of(queue) == PAYMENTS
        return self.waiting

    def connect(self) -> Link:
        self.opened += 1
        return self

    @property
    def references(self) -> list[str]:
        """References of all published commands, in order."""
        return [SettleAccount.model_validate_json(message.body).reference_id for message in self.published]


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """A SQLite ledger: these tests are the same on every database."""
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


Schedulers = Callable[..., Scheduler]


@pytest.fixture
def schedulers(engine: Engine, broker: Broker, metrics: Metrics) -> Schedulers:
    """Make schedulers on the test's ledger and the broker in memory."""

    def make(**options: Any) -> Scheduler:
        given: dict[str, Any] = {"connect": broker.connect, "engine": engine, "interval_s": 5.0, "rate": 200}
        return Scheduler(**given | options, clock=lambda: NOW, rng=random.Random(1), metrics=metrics)

    return make


def held(user: str, ttl_s: int = 60, tokens: int = 100) -> list[Command]:
    """Return the commands for an account with a hold that runs out."""
    return [
        OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro"),
        ReserveUsage(reference_id=f"hold-{user}", user_id=user, tokens=tokens, ttl_seconds=ttl_s),
    ]


def fill(engine: Engine, catalog: Catalog, count: int, *, now: datetime = NOW, step_s: int = 0) -> None:
    """Open ``count`` accounts with holds that run out from a minute after ``now`` on, ``step_s`` apart."""
    users = [f"u{n:05}" for n in range(count)]
    commands = [command for n, user in enumerate(users) for command in held(user, 60 + step_s * n)]
    applied(engine, catalog, *commands, now=now)


# -- publishing -------------------------------------------------------------------------------------------


def test_command_goes_to_the_partition_of_its_user(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    applied(engine, catalog, *held("ann"), now=NOW)
    schedulers(topology=BILLING.partitioned(8)).tick(NOW + timedelta(minutes=2))
    (command,) = broker.published
    assert command.routing_key == routing_key("account.settle", "ann", 8)


def test_due_account_becomes_a_command_whose_reference_is_the_account_and_the_time(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker, metrics: Metrics
) -> None:
    applied(engine, catalog, *held("ann"), now=NOW)
    scheduler = schedulers(sent_as="billing")
    assert scheduler.tick(NOW + MINUTE - timedelta(microseconds=1)) == 0
    assert broker.opened == 0, "there is nothing to publish"
    assert scheduler.tick(NOW + MINUTE) == 1
    (message,) = broker.published
    (due,) = due_accounts(engine, NOW + MINUTE, 10)
    reference = f"due:{due.account_id}:2026-11-22T10:16:00.000000+00:00"
    assert SettleAccount.model_validate_json(message.body) == SettleAccount(
        reference_id=reference, user_id="ann"
    )
    assert (message.exchange, message.routing_key) == ("billing", "account.settle")
    assert message.properties == {
        "content_type": "application/json",
        "message_id": reference,
        "app_id": SCHEDULER_APP_ID,
        "user_id": "billing",
    }
    assert broker.closed
    assert metrics.registry.get_sample_value("billing_worker_scheduled_total") == 1
    assert metrics.registry.get_sample_value("billing_worker_overdue_seconds") == 0


def test_two_schedulers_give_it_the_same_reference(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 3)
    first, second = schedulers(), schedulers()
    assert (first.tick(NOW + MINUTE), second.tick(NOW + MINUTE + 20 * SECOND)) == (3, 3)
    assert broker.references[:3] == broker.references[3:]
    assert len(set(broker.references)) == 3


def test_published_command_is_left_to_the_workers_for_a_while(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 2)
    scheduler, due = schedulers(), NOW + MINUTE
    assert scheduler.tick(due) == 2
    assert scheduler.tick(due + REMEMBERED_FOR - SECOND) == 0
    assert scheduler.tick(due + REMEMBERED_FOR) == 2
    assert len(set(broker.references)) == 2


def test_reference_that_posted_nothing_gets_a_successor_each_hour(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    """A worker whose clock is far behind finds nothing due, and yet uses up the reference."""
    fill(engine, catalog, 1)
    scheduler, due = schedulers(), NOW + MINUTE
    for late in (0 * HOUR, HOUR - REMEMBERED_FOR, HOUR, HOUR + REMEMBERED_FOR, 25 * HOUR):
        assert scheduler.tick(due + late) == 1
    first, same, anew, same_again, next_day = broker.references
    assert first == same
    assert anew == same_again == f"{first}:1"
    assert next_day == f"{first}:25"


def test_references_are_the_same_in_every_time_zone() -> None:
    elsewhere = datetime.fromisoformat("2026-11-22T12:15:00.000001+02:00")
    assert reference_of(DueAccount(7, "u", elsewhere), NOW + MINUTE) == (
        "due:7:2026-11-22T10:15:00.000001+00:00"
    )


# -- rate -------------------------------------------------------------------------------------------------


def test_backlog_is_published_at_the_rate_longest_due_first(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker, metrics: Metrics
) -> None:
    fill(engine, catalog, 25, step_s=60)
    expected = [reference_of(due, NOW + HOUR) for due in due_accounts(engine, NOW + HOUR, 100)]
    scheduler = schedulers(rate=2)
    assert [scheduler.tick(NOW + HOUR + n * 5 * SECOND) for n in range(4)] == [10, 10, 5, 0]
    assert broker.references == expected
    assert metrics.registry.get_sample_value("billing_worker_overdue_seconds") == 3600 + 15 - 60


def test_accounts_that_cannot_be_posted_do_not_block_others(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    """No worker posts anything here, and each account still gets its turn again and again."""
    fill(engine, catalog, 25, step_s=1)
    scheduler = schedulers(rate=2)
    published = [scheduler.tick(NOW + HOUR + n * REMEMBERED_FOR) for n in range(9)]
    assert published == [10, 10, 5] * 3
    turns = Counter(SettleAccount.model_validate_json(message.body).user_id for message in broker.published)
    assert (len(turns), set(turns.values())) == (25, {3})


def test_queue_that_is_not_emptied_is_not_filled(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 25)
    scheduler = schedulers(rate=2)
    published = []
    for broker.waiting in (0, 10, 4, 999, 0, 0):
        published.append(scheduler.tick(NOW + HOUR))
    assert published == [10, 0, 6, 0, 9, 0]
    assert len(set(broker.references)) == len(broker.references) == 25


# -- failures ---------------------------------------------------------------------------------------------


def test_full_queue_gets_only_the_refused_messages_again(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 4)
    scheduler = schedulers()
    original = broker.publish

    def refuse_half(messages: Sequence[Outgoing]) -> PublishResult:
        original(messages[:2])
        broker.refusing = {"account.settle"}
        return replace(original(messages[2:]), messages=messages)

    broker.publish = refuse_half  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailableError, match="refused 2 messages"):
        scheduler.tick(NOW + HOUR)
    broker.publish, broker.refusing = original, set()  # type: ignore[method-assign]
    assert scheduler.tick(NOW + HOUR) == 2
    assert len(set(broker.references)) == len(broker.references) == 4


def test_missing_queue_names_the_command_that_helps(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 1)
    broker.unroutable = {"account.settle"}
    with pytest.raises(BrokerUnavailableError, match="topology declare"):
        schedulers().tick(NOW + HOUR)


def test_scheduler_runs_one_tick_an_interval_until_it_is_stopped(
    schedulers: Schedulers, broker: Broker, metrics: Metrics
) -> None:
    stop = FakeStop(3)
    schedulers(interval_s=7.5).run(stop)
    assert stop.waited_s == [7.5] * 3
    assert broker.opened == 1, "a wrong password ends it at the start"
    last = metrics.registry.get_sample_value("billing_worker_last_tick_timestamp_seconds")
    assert last == (NOW - SECOND).timestamp()


def test_scheduler_leaves_a_second_to_clocks_that_are_behind(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    applied(engine, catalog, *held("ann"), now=NOW - MINUTE)
    applied(engine, catalog, *held("bob"), now=NOW - MINUTE - SECOND)
    schedulers().run(FakeStop(1))
    assert [SettleAccount.model_validate_json(message.body).user_id for message in broker.published] == [
        "bob"
    ]


def test_broker_outage_is_logged_once_and_waited_out(
    engine: Engine,
    catalog: Catalog,
    schedulers: Schedulers,
    broker: Broker,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    fill(engine, catalog, 1, now=NOW - HOUR)
    stop = FakeStop(13)

    def connect() -> Link:
        return broker.connect() if stop.waits_left == 1 else open_link("amqp://guest:guest@127.0.0.1:1/")

    schedulers(connect=connect).run(stop)
    assert len(broker.published) == 1
    assert stop.waited_s[-1] == 5.0
    assert stop.waited_s[0] < 0.5
    assert max(stop.waited_s) <= 15.0
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "INFO"]
    assert metrics.registry.get_sample_value("billing_worker_outages_total", {"server": "broker"}) == 1


def test_broker_outage_lasts_until_something_is_published(
    engine: Engine,
    catalog: Catalog,
    schedulers: Schedulers,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A tick without anything due says nothing of the broker."""
    caplog.set_level(logging.INFO)
    is_away = True

    def connect() -> Link:
        if is_away:
            raise BrokerUnavailableError("refused")
        return broker.connect()

    scheduler = schedulers(connect=connect)
    applied(engine, catalog, *held("ann"), now=NOW - HOUR)
    scheduler.run(FakeStop(2))
    applied(engine, catalog, *held("ann")[:1], now=NOW)  # posts what is due
    scheduler.run(FakeStop(2))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    is_away = False
    applied(engine, catalog, *held("bob"), now=NOW - HOUR)
    scheduler.run(FakeStop(2))
    assert "the broker is back" in caplog.text


def test_database_outage_is_logged_once_and_waited_out(
    schedulers: Schedulers, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    away = ledger_engine("postgresql://nobody@127.0.0.1:1/none")
    schedulers(engine=away).run(FakeStop(3))
    assert metrics.registry.get_sample_value("billing_worker_outages_total", {"server": "database"}) == 1
    assert len(caplog.records) == 1
    assert "trying again" in caplog.text


def test_broker_that_refuses_ends_the_scheduler_at_its_start_and_is_waited_for_later(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    fill(engine, catalog, 1, now=NOW - HOUR)

    def refuse() -> Link:
        raise ConfigurationError("no such vhost")

    with pytest.raises(ConfigurationError):
        schedulers(connect=refuse).run(FakeStop(1))
    stop = FakeStop(2)

    def connect() -> Link:
        broker.opened += 1
        return refuse() if broker.opened == 2 else broker

    schedulers(connect=connect).run(stop)
    assert stop.waited_s[0] < stop.waited_s[1] == 5.0
    assert len(broker.published) == 1


# -- query for due accounts -------------------------------------------------------------------------------


def test_accounts_are_found_page_by_page_also_where_many_fell_due_at_once(
    database_url: str, catalog: Catalog
) -> None:
    engine = ledger_engine(database_url)
    fill(engine, catalog, 7)
    applied(engine, catalog, *held("late", 61), now=NOW)
    pages: list[list[DueAccount]] = [due_accounts(engine, NOW + HOUR, 3)]
    while pages[-1]:
        pages.append(due_accounts(engine, NOW + HOUR, 3, after=pages[-1][-1]))
    found = [due.user_id for page in pages for due in page]
    assert found == [*(f"u{n:05}" for n in range(7)), "late"]
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert due_accounts(engine, NOW, 3) == []
    engine.dispose()


@pytest.mark.parametrize("after", [None, DueAccount(77, "user-77", NOW - 300 * DAY)])
def test_due_accounts_are_found_by_an_index(postgres_engine: Engine, after: DueAccount | None) -> None:
    with postgres_engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO accounts"
                " (account_id, slot, user_id, tier, anchor, granted_until, opened_at, updated_at, due_at)"
                " SELECT n, get_byte(sha256(convert_to('user-' || n, 'UTF8')), 0) >> 2, 'user-' || n, 'free',"
                " :now, :now, :now, :now, CASE WHEN n % 4 = 0"
                " THEN CAST(:now AS timestamptz) + (n - 1000) * interval '1 minute' END"
                " FROM generate_series(1, 40000) AS n"
            ),
            {"now": NOW},
        )
        connection.execute(text("ANALYZE accounts"))
    statements: list[tuple[str, Any]] = []

    @event.listens_for(postgres_engine, "before_cursor_execute")
    def _remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    found = due_accounts(postgres_engine, NOW, 1_000, after=after)
    assert len(found) == 250
    (statement, parameters) = statements[-1]
    with postgres_engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    assert any("ix_accounts_due_at" in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan


# -- on real servers --------------------------------------------------------------------------------------


def posted(engine: Engine) -> Counter[str]:
    """Return the number of applied ``account.settle`` commands by user."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(operations.c.user_id, func.count().label("count"))
            .where(operations.c.type == "account.settle", operations.c.status == "applied")
            .group_by(operations.c.user_id)
        )
        return Counter({row.user_id: row.count for row in rows})


def nothing_is_due(engine: Engine) -> bool:
    return due_accounts(engine, datetime.now(UTC), 1) == []


def balances(engine: Engine) -> dict[str, tuple[int, int]]:
    """Return the balance of each user and its held tokens."""
    with engine.connect() as connection:
        rows = connection.execute(select(accounts.c.user_id, accounts.c.balance, accounts.c.held))
        return {row.user_id: (row.balance, row.held) for row in rows}


def test_two_schedulers_and_a_worker_post_what_fell_due_once(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    """A hold that runs out, credit that expires, a free tier's next period, and an account with all of it."""
    now = datetime.now(UTC)
    applied(application.engine, catalog, *held("holder"), now=now - HOUR)
    applied(
        application.engine,
        catalog,
        OpenAccount(reference_id="open-old", user_id="old", tier="pro"),
        BonusCredit(reference_id="bonus-old", user_id="old", tokens=50, expires_at=now - MINUTE),
        now=now - DAY,
    )
    applied(
        application.engine,
        catalog,
        OpenAccount(reference_id="open-free", user_id="free", tier="free"),
        now=now - 35 * DAY,
    )
    applied(
        application.engine,
        catalog,
        OpenAccount(reference_id="open-all", user_id="all", tier="free"),
        BonusCredit(reference_id="bonus-all", user_id="all", tokens=70, expires_at=now - DAY),
        ReserveUsage(reference_id="hold-all", user_id="all", tokens=60, ttl_seconds=3600),
        now=now - 35 * DAY,
    )
    schedulers = [application.scheduler() for _ in range(2)]
    assert [scheduler.tick(now) for scheduler in schedulers] == [4, 4]
    with running(application):
        eventually(lambda: nothing_is_due(application.engine), what="all is posted")
        eventually(lambda: rabbit.depth(PAYMENTS) == 0, what="the second scheduler's too")
        assert [scheduler.tick(now + MINUTE) for scheduler in schedulers] == [0, 0]
    assert posted(application.engine) == {"holder": 1, "old": 1, "free": 1, "all": 1}
    assert balances(application.engine) == {
        "holder": (500_000, 0),
        "old": (500_000, 0),
        "free": (10_000, 0),
        "all": (10_000, 0),
    }
    assert audit(application.engine).is_clean
    assert rabbit.depth(BILLING.replies.name) == 0, "nobody asked"
    assert rabbit.depth(BILLING.dead.name) == 0


def test_scheduler_catches_up_at_its_rate_after_a_day(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    """Two thousand holds ran out in a day; the rate allows eighty a second."""
    now = datetime.now(UTC)
    fill(application.engine, catalog, 2_000, now=now - DAY - HOUR, step_s=40)
    application.settings = application.settings.model_copy(
        update={"scheduler_rate": 80, "scheduler_interval_s": 5.0}
    )
    scheduler = application.scheduler()
    published: list[int] = []
    with running(application):
        while sum(published) < 2_000:
            published.append(scheduler.tick(now + len(published) * 5 * SECOND))
            eventually(lambda: rabbit.depth(PAYMENTS) == 0, what="the worker has kept up")
        eventually(lambda: nothing_is_due(application.engine), what="all is posted")
        assert scheduler.tick(now + MINUTE) == 0
    assert published == [400] * 5
    assert set(posted(application.engine).values()) == {1}
    assert sum(posted(application.engine).values()) == 2_000
    with application.engine.connect() as connection:
        assert connection.execute(select(func.sum(accounts.c.held))).scalar_one() == 0
    assert audit(application.engine).is_clean


def _die_after_publishing(settings: Settings) -> None:
    logging.disable()
    after(AmqpLink, "publish")(die)
    run_scheduler(Application(settings), FlagStop())


def test_killed_scheduler_publishes_again_and_nothing_is_applied_twice(
    application: Application, catalog: Catalog, worker_settings: Settings, rabbit: RabbitClient
) -> None:
    fill(application.engine, catalog, 5, now=datetime.now(UTC) - 10 * MINUTE)
    process = _CONTEXT.Process(target=_die_after_publishing, args=(worker_settings,))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -9
    assert rabbit.depth(PAYMENTS) == 5
    assert application.scheduler().tick(datetime.now(UTC)) == 5
    with running(application):
        eventually(lambda: nothing_is_due(application.engine), what="all is posted")
        eventually(lambda: rabbit.depth(PAYMENTS) == 0, what="the second time too")
    assert set(posted(application.engine).values()) == {1}
    assert audit(application.engine).is_clean


def test_command_that_posts_what_is_due_before_the_schedulers_leaves_nothing_to_post(
    application: Application, catalog: Catalog, rabbit: RabbitClient
) -> None:
    now = datetime.now(UTC)
    applied(application.engine, catalog, *held("ann"), now=now - HOUR)
    assert application.scheduler().tick(now) == 1
    applied(application.engine, catalog, *held("ann")[:1], now=now)
    applied(application.engine, catalog, BonusCredit(reference_id="b", user_id="ann", tokens=1), now=now)
    with running(application):
        eventually(lambda: rabbit.depth(PAYMENTS) == 0 and posted(application.engine), what="it is applied")
    assert balances(application.engine) == {"ann": (500_001, 0)}
    assert audit(application.engine).is_clean


# -- as a process -----------------------------------------------------------------------------------------


def test_once_publishes_what_is_due_and_ends(
    application: Application, catalog: Catalog, worker_settings: Settings, rabbit: RabbitClient
) -> None:
    fill(application.engine, catalog, 3, now=datetime.now(UTC) - HOUR)
    ended = run_cli(worker_settings, "scheduler", "--once")
    assert (ended.returncode, ended.stdout) == (0, b"published 3 commands for what fell due\n"), ended.stderr
    ((properties, body), *_) = rabbit.take(PAYMENTS, 3)
    assert SettleAccount.model_validate_json(body).user_id == "u00000"
    assert (properties.app_id, properties.delivery_mode) == (SCHEDULER_APP_ID, 2)
    assert properties.user_id in worker_settings.broker_url.get_secret_value(), "rules of senders go by it"


def test_scheduler_ends_with_0_at_sigterm(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    process = workers.start("scheduler", module="worker.__main__", BILLING_LOG_LEVEL="INFO")
    assert process.stderr is not None
    assert b"scheduling what falls due in postgresql" in process.stderr.readline()
    code, log = workers.stop(process)
    assert code == 0, log
    assert log.endswith("stopped\n")


def test_wrong_password_ends_the_scheduler_at_its_start(worker_settings: Settings) -> None:
    wrong = worker_settings.broker_url.get_secret_value().replace("://", "://nobody-")
    application = Application(worker_settings.model_copy(update={"broker_url": SecretStr(wrong)}))
    with pytest.raises(ConfigurationError, match="refuses"):
        run_scheduler(application, FlagStop())
    application.engine.dispose()


def test_ledger_without_tables_ends_the_scheduler_at_its_start(
    worker_settings: Settings, tmp_path: Path
) -> None:
    empty = SecretStr(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    application = Application(worker_settings.model_copy(update={"database_url": empty}))
    with pytest.raises(ConfigurationError, match="billing-worker migrate"):
        run_scheduler(application, FlagStop())
    application.engine.dispose()


def test_worker_runs_a_scheduler_beside_its_work(
    application: Application, catalog: Catalog, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    fill(application.engine, catalog, 3, now=datetime.now(UTC) - HOUR)
    worker = workers.start("--with-scheduler", BILLING_SCHEDULER_INTERVAL_S="0.1")
    eventually(lambda: nothing_is_due(application.engine), what="all is posted")
    code, log = workers.stop(worker)
    assert code == 0, log
    assert set(posted(application.engine).values()) == {1}


def test_first_of_several_workers_runs_the_scheduler() -> None:
    settings = load_settings(workers=3)
    flags = [
        program.environment["BILLING_WITH_SCHEDULER"] for program in _workers(settings, with_scheduler=True)
    ]
    assert flags == ["True", "False", "False"]
    never = _workers(settings, with_scheduler=False)
    assert {program.environment["BILLING_WITH_SCHEDULER"] for program in never} == {"False"}


def test_processes_of_one_run_serve_their_metrics_on_ports_of_their_own() -> None:
    settings = load_settings(workers=2, readers=2, metrics_port=9_000)
    programs = [*_workers(settings, with_scheduler=False), *_readers(settings, settings.workers)]
    assert [program.command for program in programs] == ["run", "run", "readers", "readers"]
    ports = [program.environment["BILLING_METRICS_PORT"] for program in programs]
    assert ports == ["9000", "9001", "9002", "9003"]


def test_worker_ends_with_the_error_of_its_scheduler(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug of the scheduler's")

    monkeypatch.setattr(Scheduler, "run", fail)
    with pytest.raises(ZeroDivisionError):
        run_worker(application, FlagStop(), with_scheduler=True)


def test_scheduler_publishes_over_the_embedded_transport(
    sqlite_url: str, catalog: Catalog, tmp_path: Path
) -> None:
    application = Application(
        load_settings(broker_url=f"sqla+sqlite:///{tmp_path / 'broker.sqlite3'}", database_url=sqlite_url)
    )
    fill(application.engine, catalog, 3, now=datetime.now(UTC) - HOUR)
    assert application.scheduler().tick(datetime.now(UTC)) == 3
    run_worker(application, FlagStop(), drain=True)
    assert nothing_is_due(application.engine)
    assert application.link().depth(BILLING.replies.name) == 0
    application.engine.dispose()


# -- what waits for a payment that is there ---------------------------------------------------------------


def paid(reference: str, **more: Any) -> PaymentSucceeded:
    fields = {"user_id": "ann", "package_id": "standard", "amount_minor": 1_999, "currency": "USD", **more}
    return PaymentSucceeded.model_validate({"reference_id": reference, **fields})


def refunded(reference: str, payment: str) -> PaymentRefunded:
    fields = {"original_reference_id": payment, "amount_minor": 500, "currency": "USD"}
    return PaymentRefunded.model_validate({"reference_id": reference, **fields})


@pytest.fixture
def left_waiting(engine: Engine, catalog: Catalog) -> None:
    """Refunds of two payments that wait although the payments are there: these got their names later."""
    applied(engine, catalog, OpenAccount(reference_id="open", user_id="ann", tier="free"), now=NOW)
    for number in (1, 2):
        applied(engine, catalog, refunded(f"re_{number}", f"ch_{number}"), paid(f"pi_{number}"), now=NOW)
        applied(engine, catalog, paid(f"pi_{number}", also_known_as=[f"ch_{number}"]), now=NOW)


@pytest.mark.usefixtures("left_waiting")
def test_event_that_waits_for_a_payment_that_is_there_is_taken_in(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    scheduler = schedulers()
    assert scheduler.tick(NOW + MINUTE) == 0, "it may be under way"
    moments = [NOW + n * MINUTE for n in (2, 3, 4, 5)]
    published = []
    for moment in moments:
        published.append(scheduler.tick(moment))
        commands = [SettleAccount.model_validate_json(message.body) for message in broker.published]
        applied(engine, catalog, *commands, now=moment)
    assert published == [1, 1, 0, 0], "a payment is taken in at a time"
    assert len(set(broker.references)) == 2
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(waiting_events)).scalar_one() == 0


@pytest.mark.usefixtures("left_waiting")
def test_waiting_event_has_the_same_reference_from_every_scheduler(
    schedulers: Schedulers, broker: Broker
) -> None:
    moment = NOW + 2 * MINUTE
    assert [schedulers().tick(moment) for _ in range(2)] == [1, 1]
    assert schedulers().tick(moment + HOUR) == 1
    one, other, later = broker.references
    assert one == other
    assert later == f"{one}:1"
    assert one.startswith("due:")
    assert len(one) < 100


@pytest.mark.usefixtures("left_waiting")
def test_waiting_event_is_not_published_again_while_it_is_under_way(
    schedulers: Schedulers, broker: Broker
) -> None:
    scheduler = schedulers()
    assert scheduler.tick(NOW + 2 * MINUTE) == 1
    assert scheduler.tick(NOW + 2 * MINUTE + SECOND) == 0
    assert scheduler.tick(NOW + 2 * MINUTE + REMEMBERED_FOR) == 1


def test_event_without_its_payment_brings_no_command(
    engine: Engine, catalog: Catalog, schedulers: Schedulers, broker: Broker
) -> None:
    applied(engine, catalog, refunded("re_1", "pi_1"), now=NOW)
    assert schedulers().tick(NOW + DAY) == 0
    assert broker.opened == 0


@pytest.mark.usefixtures("left_waiting")
def test_waiting_events_leave_room_for_what_is_due(schedulers: Schedulers, broker: Broker) -> None:
    broker.waiting = 1
    assert schedulers(interval_s=1.0, rate=1).tick(NOW + 2 * MINUTE) == 0
