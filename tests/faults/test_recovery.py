"""Drill: base backup, load, restore to the middle, recover from the journal, by the commands of the manual.

The server that had no accident goes on: what the restored ledger says is compared with it.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import Engine, select

from schemas import OpenAccount
from tests.cli.console import Cli, Ended
from tests.support.apply_commands import applied
from tests.support.broker_users import BrokerUsers
from tests.support.forked_python import ForkedPython
from tests.support.mixed_messages import Message, mixed, open_accounts
from tests.support.pages import page, section
from tests.support.processes import run_cli, worker_environment
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, user_of
from tests.support.restoring import BackedUpPostgres
from tests.support.short_quiet import short_quiet
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING, JournalLimits, Outgoing, open_link
from worker.broker.roles import ROLES
from worker.catalog import load_catalog
from worker.deadletters.store.tables import dead_letters
from worker.ledger import tables
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.settings import Settings, environment_of, load_settings

#: A user of whom a decision hangs on order: usage comes before the payment that would have paid for it.
POOR = "poor"
_COUNTERS = ("allocated", "purchased", "bonus", "refunded", "adjusted", "used", "expired", "reversed")
_SUMS = ("balance", "held", "debt", *_COUNTERS)
_LATE = {"type": "usage.deduct", "referenceId": "late", "userId": POOR, "tokens": 50_000}
_PAID = {
    "type": "payment.succeeded",
    "referenceId": "paid",
    "userId": POOR,
    "packageId": "standard",
    "amountMinor": 1_999,
    "currency": "USD",
}


@dataclass(frozen=True)
class LedgerState:
    """All of a ledger that hangs on no clock: results and holds by reference, sums by user, dead letters."""

    results: Mapping[str, tuple[Any, ...]]
    holds: Mapping[str, tuple[Any, ...]]
    sums: Mapping[str, tuple[Any, ...]]
    dead_letters: frozenset[str]

    @classmethod
    def of(cls, url: str) -> "LedgerState":
        engine = ledger_engine(url)
        operation, hold, account = tables.operations.c, tables.holds.c, tables.accounts.c
        sender = tables.senders.c.broker_user
        names = (operation.user_id, sender, operation.status, operation.code, operation.amount)
        same = operation.sender_id == tables.senders.c.sender_id
        with_sender = tables.operations.outerjoin(tables.senders, same)
        try:
            with engine.connect() as connection:
                results = connection.execute(
                    select(operation.reference_id, *names).select_from(with_sender)
                ).all()
                holds = connection.execute(
                    select(hold.reference_id, hold.amount, hold.captured, hold.state)
                ).all()
                sums = connection.execute(select(account.user_id, *(account[name] for name in _SUMS))).all()
                ids = connection.scalars(select(dead_letters.c.letter_id)).all()
        finally:
            engine.dispose()
        return cls(
            {row[0]: tuple(row[1:]) for row in results},
            {row[0]: tuple(row[1:]) for row in holds},
            {row[0]: tuple(row[1:]) for row in sums},
            frozenset(ids),
        )

    def differences(self, recovered: "LedgerState") -> dict[str, tuple[Any, Any]]:
        """Return the references whose results differ, with both."""
        references = self.results.keys() | recovered.results.keys()
        return {
            reference: (self.results.get(reference), recovered.results.get(reference))
            for reference in references
            if self.results.get(reference) != recovered.results.get(reference)
        }


@pytest.fixture
def backed_up() -> Iterator[BackedUpPostgres]:
    with BackedUpPostgres.started() as server:
        yield server


def worked_off(settings: Settings, count: int) -> None:
    """Wait until the ledger has so many operations, and no message waits."""
    engine = ledger_engine(settings.database_url.get_secret_value())
    with closing(open_link(settings.broker_url.get_secret_value())) as link:
        eventually(lambda: operations(engine) >= count)
        eventually(lambda: not any(link.depth(queue.name) for queue in BILLING.work))
    engine.dispose()


def operations(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.scalars(select(tables.operations.c.reference_id)).all())


def drained(application: Application) -> None:
    with closing(application.link(consume=[BILLING.dead.name])) as link:
        application.service().drain(link, wait_s=0.3)
    application.engine.dispose()


def commands_of_the_page() -> list[list[str]]:
    """Return the words of each command, in order."""
    text = section(page("worker/OPERATING.md"), "Restore the ledger")
    lines = text.split("```sh\n")[1].split("```")[0].splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def operator_url(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[str]:
    """URL of an operator who has the rights of `topology definitions`, and no others."""
    vhost = broker_url.rpartition("/")[2]
    with BrokerUsers(rabbitmq, vhost, [role for role in ROLES if role.name == "ops"]) as users:
        yield users.url("ops")


def rehearsed(
    backed_up: BackedUpPostgres,
    broker_url: str,
    operator_url: str,
    messages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lose the second half of so many messages, bring it back, and compare."""
    name = "billing_drill"
    backed_up.server.databases.create_database(name)
    intact = load_settings(
        broker_url=broker_url,
        database_url=backed_up.server.address.url(name),
        readers=0,
        worker_users=user_of(operator_url),
    )
    count = prepared(intact)
    backed_up.back_up()
    halves = [list(half) for half in halves_of(messages)]
    application = Application(intact)
    since = datetime.now(UTC)  # what the restored ledger has counts once
    with RabbitClient(broker_url) as rabbit:
        with running(application):
            rabbit.publish_all(halves[0], reply_to=BILLING.replies.name)
            rabbit.publish_all(halves[1][: messages // 4], reply_to=BILLING.replies.name)
            backed_up.mark("middle")  # the worker is at work
            rabbit.publish_all(halves[1][messages // 4 :], reply_to=BILLING.replies.name)
            rabbit.publish(b"oops", routing_key="usage.deduct", reply_to=BILLING.replies.name)
            assert rabbit.request(_LATE)["code"] == "insufficient_balance"
            assert rabbit.request(_PAID)["code"] == "tokens_purchased"
            count += references_in(halves) + 2
            worked_off(intact, count)
        drained(application)
        answered = rabbit.depth(BILLING.replies.name)
        with backed_up.restored("middle") as restored:
            settings = intact.model_validate(
                {**intact.model_dump(), "database_url": restored.address.url(name)}
            )
            lost = followed(settings, operator_url, since, count, monkeypatch)
            before, after = (
                LedgerState.of(str(one.database_url.get_secret_value())) for one in (intact, settings)
            )
        assert lost >= messages // 8, "the accident has lost something"
        assert rabbit.depth(BILLING.replies.name) == answered, "nobody waits for replies"
    assert after.results.keys() == before.results.keys()
    assert before.differences(after) == {
        "late": (
            (POOR, rabbit.user, "rejected", "insufficient_balance", before.results["late"][-1]),
            (POOR, rabbit.user, "applied", "tokens_deducted", after.results["late"][-1]),
        )
    }
    assert after.holds == before.holds
    assert {user: sums for user, sums in after.sums.items() if before.sums[user] != sums}.keys() == {POOR}
    assert after.dead_letters == before.dead_letters
    assert len(after.dead_letters) == 1


def prepared(settings: Settings) -> int:
    """Make the ledger with its accounts, and the journal; return the number of its operations."""
    engine = ledger_engine(settings.database_url.get_secret_value())
    migrate(engine)
    open_accounts(engine)
    applied(engine, load_catalog(), OpenAccount(reference_id="open-poor", user_id=POOR, tier="free"))
    count = operations(engine)
    engine.dispose()
    with closing(open_link(settings.broker_url.get_secret_value())) as link:
        link.declare_journal(BILLING, JournalLimits())
    return count


def halves_of(messages: int) -> Iterator[Iterator[Message]]:
    source = mixed()
    for _ in range(2):
        yield islice(source, messages // 2)


def references_in(halves: list[list[Message]]) -> int:
    """Return the number of operations of these messages."""
    return sum(len(message.get("items", (message,))) for half in halves for message in half)


def followed(
    settings: Settings, operator_url: str, since: datetime, count: int, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Run the commands of the manual as the operator; return the number of commands that were lost."""
    cli = Cli(monkeypatch, {**environment_of(settings), "BILLING_BROKER_URL": operator_url})
    ended: list[Ended] = []
    for words in commands_of_the_page():
        if words[0] == "run":
            application = Application(settings)
            with running(application):
                worked_off(settings, count)
            drained(application)
        else:
            ended.append(cli(*[since.isoformat() if word[0].isdigit() else word for word in words]))
    assert [one.code for one in ended] == [0, 0, 1, 0, 0, 0, 0], "\n".join(one.all for one in ended)
    assert " 0 have no outcome, 0 are dead letters" in ended[5].lines[-1]
    return len(ended[2].lines) - 2


def test_restored_ledger_gets_back_what_the_journal_has(
    backed_up: BackedUpPostgres, broker_url: str, operator_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_quiet(monkeypatch)
    rehearsed(backed_up, broker_url, operator_url, 400, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_restored_ledger_gets_back_thousands_of_messages(
    backed_up: BackedUpPostgres, broker_url: str, operator_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed(backed_up, broker_url, operator_url, 10_000, monkeypatch)


@pytest.mark.slow
def test_killed_recovery_goes_on_at_its_place(worker_settings: Settings, rabbit: RabbitClient) -> None:
    with closing(open_link(worker_settings.broker_url.get_secret_value())) as link:
        link.declare_journal(BILLING, JournalLimits())
        link.publish([usage(number) for number in range(2_000)])
    rabbit.channel.queue_purge("billing.usage")
    engine = ledger_engine(worker_settings.database_url.get_secret_value())
    command = ("worker", "recover", "--since", "1h", "--rate", "400/s")
    with ForkedPython(*command, env=worker_environment(worker_settings)) as process:
        eventually(lambda: place_of(engine) > 500)
        process.kill()
    place = place_of(engine)
    assert place < 2_000
    engine.dispose()
    ended = run_cli(worker_settings, "recover", "--resume", "1", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["published"]) == (0, 2_000), ended
    taken = rabbit.take("billing.usage", 2_000)
    surplus = rabbit.depth("billing.usage")
    assert surplus <= 80, "what was published after the last place was recorded, at most a piece"
    taken += rabbit.take("billing.usage", surplus)
    references = {json.loads(body)["referenceId"] for _, body in taken}
    assert references == {f"d-{number}" for number in range(2_000)}


def usage(number: int) -> Outgoing:
    body = {"type": "usage.deduct", "referenceId": f"d-{number}", "userId": "ann", "tokens": 1}
    return Outgoing(json.dumps(body).encode(), "billing", "usage.deduct")


def place_of(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(tables.recoveries.c.next_offset)) or 0)
