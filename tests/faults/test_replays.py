"""Replays on real servers under faults: a killed process, a restarted database, ten thousand dead letters."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import pytest

from schemas import DeadLetterReason, OpenAccount
from tests.support.apply_commands import applied
from tests.support.forked_python import ForkedPython
from tests.support.postgres_server import Postgres
from tests.support.processes import run_cli, worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Delivery, Link, Outgoing, open_link
from worker.catalog import load_catalog
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.queries import Reader
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.policy import Policy
from worker.settings import Settings, load_settings

USERS = [f"u{n}" for n in range(50)]
BUG = Failure(
    DeadLetterReason.UNPROCESSABLE,
    "KeyError: a bug",
    traceback="Traceback …\nKeyError: a bug",
    type="usage.deduct",
)


def open_accounts(application: Application) -> None:
    commands = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro") for user in USERS]
    applied(application.engine, application.catalog, *commands)


def dead(policy: Policy, count: int, first: int = 0) -> Iterator[Outgoing]:
    """Yield dead letters of deductions of one token, whose cause is gone."""
    for n in range(first, first + count):
        user = USERS[n % len(USERS)]
        body = {"type": "usage.deduct", "referenceId": f"r-{n}", "userId": user, "tokens": 1}
        yield dead_letter(policy, json.dumps(body).encode(), BUG, reference=f"r-{n}", user=user)


def dead_letter(policy: Policy, body: bytes, reason: Failure, *, reference: str, user: str) -> Outgoing:
    was = Delivery(body, "billing.usage", "billing", "usage.deduct", 1, properties={"message_id": reference})
    failure = Failure(
        reason.code, reason.message, reason.field, reason.traceback, "usage.deduct", reference, user
    )
    return dead_letter_for(was, failure, policy, tries=1, now=utc_now())


def publish(url: str, dead_letters: Sequence[Outgoing]) -> None:
    link = open_link(url)
    for start in range(0, len(dead_letters), 500):
        assert not link.publish(dead_letters[start : start + 500]).returned
    link.close()


def drain(application: Application, expected: int) -> None:
    link: Link = application.link(consume=[BILLING.dead.name])
    try:
        assert application.service().drain(link, expected=expected, wait_s=0) == expected
    finally:
        link.close()


@contextmanager
def replaying(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the replay command in a process of its own, which ends with the block at the latest."""
    process = ForkedPython(
        *("worker", "dead-letters", "replay", *arguments),
        env=worker_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def spent(application: Application) -> int:
    """Return the sum of tokens that all users have used."""
    reader, catalog = Reader(application.engine), load_catalog()
    return sum(reader.balance(user, utc_now(), catalog).used for user in USERS)


@pytest.mark.slow  # the lease of the killed process runs out first; tests/deadletters kills at each point
def test_replay_of_a_killed_process_resumes_and_applies_each_once(
    application: Application, worker_settings: Settings, broker_url: str
) -> None:
    open_accounts(application)
    publish(broker_url, list(dead(application.policy, 300)))
    drain(application, 300)
    with running(application):
        arguments = ("--code", "unprocessable", "--yes", "--rate", "100/s", "--reason", "mended")
        with replaying(worker_settings, *arguments) as process:
            service = application.service()
            eventually(
                lambda: service.replays().replays and service.replay(1).counts["applied"] >= 20,
                what="the replay is under way",
            )
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
        left = service.replay(1)
        assert left.state == "running", "nobody could say that it is not"
        assert left.open > 0
        resumed = run_cli(worker_settings, "dead-letters", "replay", "resume", "1")
    assert (resumed.returncode, resumed.stdout) == (0, b"replay 1 is finished: 300 applied\n")
    assert b"waiting, if its runner is gone" in resumed.stderr
    assert spent(application) == 300
    assert service.counts().resolved == 300
    assert service.drifts() == []
    assert audit(application.engine).is_clean


def test_ctrl_c_interrupts_a_replay_and_prints_the_command_to_resume(
    application: Application, worker_settings: Settings, broker_url: str
) -> None:
    open_accounts(application)
    publish(broker_url, list(dead(application.policy, 100)))
    drain(application, 100)
    with running(application):
        arguments = ("--code", "unprocessable", "--yes", "--rate", "20/s", "--reason", "mended")
        with replaying(worker_settings, *arguments) as process:
            service = application.service()
            eventually(lambda: service.replays().replays and service.replay(1).counts["applied"] >= 3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert out.startswith(b"replay 1 is paused: ")
        assert b"go on with: billing-worker dead-letters replay resume 1" in err
        assert b"Traceback" not in err


@pytest.fixture(scope="module")
def fragile_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that the test may stop."""
    with Postgres.start() as server:
        yield server


@pytest.mark.slow
def test_replay_continues_after_a_restart_of_the_database(
    fragile_postgres: Postgres, broker_url: str
) -> None:
    name = f"test_{uuid4().hex[:12]}"
    fragile_postgres.databases.create_database(name)
    url = fragile_postgres.address.url(name)
    engine = ledger_engine(url)
    migrate(engine)
    engine.dispose()
    settings = load_settings(broker_url=broker_url, database_url=url, readers=0)
    application = Application(settings)
    open_accounts(application)
    publish(broker_url, list(dead(application.policy, 200)))
    drain(application, 200)
    with running(application):
        arguments = ("--code", "unprocessable", "--yes", "--rate", "60/s", "--reason", "mended")
        with replaying(settings, *arguments) as process:
            service = application.service()
            eventually(lambda: service.replays().replays and service.replay(1).counts["applied"] >= 10)
            fragile_postgres.stop("fast")
            fragile_postgres.resume()
            out, err = process.communicate(timeout=PATIENCE_S)
    application.engine.dispose()
    assert out == b"replay 1 is finished: 200 applied\n", err
    assert process.returncode == 0
    assert b"waiting until it is back" in err
    assert b"it is back: going on" in err
    assert b"Traceback" not in err
    assert spent(application) == 200
    assert application.service().drifts() == []
    application.engine.dispose()


def test_operators_who_discard_and_replay_the_same_dead_letters_share_them(
    application: Application, worker_settings: Settings, broker_url: str
) -> None:
    open_accounts(application)
    publish(broker_url, list(dead(application.policy, 200)))
    drain(application, 200)
    service = application.service()
    with running(application):
        arguments = ("--code", "unprocessable", "--yes", "--rate", "200/s", "--reason", "mended")
        with replaying(worker_settings, *arguments) as process:
            eventually(lambda: service.replays().replays and service.replay(1).counts["applied"] >= 10)
            done = service.discard(DeadLetterFilter(code="unprocessable"), "tests", "eva")
            process.communicate(timeout=PATIENCE_S)
    counts = service.replay(1).counts
    assert counts["applied"] + counts["skipped"] == 200
    assert counts["skipped"] == done.done == service.counts().discarded > 0
    assert spent(application) == counts["applied"]
    assert service.drifts() == []


@pytest.mark.timeout(170)
@pytest.mark.parametrize("many", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_replay_of_a_group_takes_many_dead_letters_and_no_other(
    application: Application, broker_url: str, many: int
) -> None:
    open_accounts(application)
    other = dead_letter(
        application.policy,
        b"oops",
        Failure(DeadLetterReason.NOT_JSON, "The body is not JSON."),
        reference="other",
        user="u0",
    )
    publish(broker_url, [*dead(application.policy, many), other])
    drain(application, many + 1)
    service = application.service()
    groups = service.groups(order="count").groups
    assert [(group.reason, group.waiting, group.users) for group in groups] == [
        ("unprocessable", many, len(USERS)),
        ("not_json", 1, 0),  # its body names no user
    ]
    with running(application), RabbitClient(broker_url):
        created = service.create_replay(DeadLetterFilter(fingerprint=groups[0].fingerprint), "mended", "ann")
        ended = application.replayer().run(created.number, "ann", stop=FlagStop())
    assert (ended.state, ended.counts["applied"]) == ("finished", many)
    assert spent(application) == many
    assert (service.counts().resolved, service.counts().parked) == (many, 1)
    assert service.drifts() == []
