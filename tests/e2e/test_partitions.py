"""Partitioned queues with a real worker: order of messages, wrong keys, and batches of many users."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from schemas import Command, DeductUsage, OpenAccount, UsageBatch, partition_of, routing_key, slot_of
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker import pipeline
from worker.bootstrap import Application
from worker.broker import BILLING, open_link
from worker.catalog import Catalog
from worker.client import BillingClient
from worker.console.queues import QueueProbe
from worker.core import Plan, decide
from worker.core.known import Known
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.audit import audit
from worker.ledger.form import LedgerForm, distribute
from worker.ledger.tables import accounts, entries, operations
from worker.settings import Settings

PARTITIONS = 8
TOPOLOGY = BILLING.partitioned(PARTITIONS)
USERS = [f"u-{number}" for number in range(12)]


@pytest.fixture
def worker_settings(worker_settings: Settings) -> Settings:
    """Settings of workers on partitioned queues, with batches that are much smaller than what waits."""
    with closing(open_link(worker_settings.broker_url.get_secret_value())) as link:
        link.declare(TOPOLOGY)
    return worker_settings.model_copy(update={"partitions": PARTITIONS, "batch_size": 20, "prefetch": 60})


@pytest.fixture
def form() -> LedgerForm:
    """Form of the ledger; a test may name another."""
    return LedgerForm.WHOLE


@pytest.fixture
def application(application: Application, form: LedgerForm) -> Application:
    """The application, whose ledger has an account for each user."""
    application.settings = application.settings.model_copy(update={"ledger_form": form})
    opened = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in USERS]
    applied(application.engine, application.catalog, *opened)
    if form is LedgerForm.DISTRIBUTED:
        with application.engine.begin() as connection:
            distribute(connection)
    return application


@pytest.fixture
def client(worker_settings: Settings) -> Iterator[BillingClient]:
    url = worker_settings.broker_url.get_secret_value()
    with BillingClient(url, partitions=PARTITIONS) as client:
        yield client


def key_of(message: dict[str, Any]) -> str:
    return routing_key(message["type"], message["userId"], PARTITIONS)


def any_messages(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return messages of both lanes, of all users in turn by chance."""
    lanes = {"usage.deduct": {"tokens": 1}, "credit.bonus": {"tokens": 2}}
    made: list[dict[str, Any]] = []
    for place in range(count):
        type_ = rng.choice([*lanes])
        made.append({"type": type_, "referenceId": f"{place}", "userId": rng.choice(USERS)} | lanes[type_])
    return made


def posted(application: Application, user: str, type_: str) -> list[str]:
    """Return the references of a user's entries of a type, in the order in which they were posted."""
    with application.engine.connect() as connection:
        found = connection.execute(
            select(operations.c.reference_id)
            .join(entries, entries.c.operation_id == operations.c.operation_id)
            .where(operations.c.user_id == user, operations.c.type == type_)
            .order_by(entries.c.sequence)
        )
        return [reference for (reference,) in found]


def of(messages: Sequence[dict[str, Any]], user: str, type_: str) -> list[str]:
    return [one["referenceId"] for one in messages if (one["userId"], one["type"]) == (user, type_)]


def faulty(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    """Let the worker meet a fault at a reference: its batch is bisected until it stands alone."""

    def decides(commands: Sequence[Command], known: Known, now: datetime, catalog: Catalog) -> Plan:
        if any(command.reference_id == reference for command in commands):
            raise RuntimeError("a fault of the worker's")
        return decide(commands, known, now, catalog)

    monkeypatch.setattr(pipeline, "decide", decides)


@pytest.mark.parametrize(
    ("form", "fault"), [(LedgerForm.WHOLE, None), (LedgerForm.WHOLE, "177"), (LedgerForm.ONE_SLOT, "177")]
)
def test_entries_of_a_user_within_a_lane_are_in_the_order_of_publishing(
    fault: str | None, application: Application, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = any_messages(random.Random(19), 400)
    if fault is not None:
        faulty(monkeypatch, fault)
    correlations = [rabbit.publish(message, routing_key=key_of(message)) for message in messages]
    with running(application):
        rabbit.replies(correlations)
    kept = [message for message in messages if message["referenceId"] != fault]
    for user in USERS:
        for type_ in ("usage.deduct", "credit.bonus"):
            assert posted(application, user, type_) == of(kept, user, type_)
    assert application.metrics.misrouted._value.get() == 0
    assert audit(application.engine).is_clean


def test_message_waits_in_the_queue_of_its_partition(rabbit: RabbitClient, client: BillingClient) -> None:
    client.send(DeductUsage(reference_id="d-1", user_id="u-1", tokens=1))
    client.send(DeductUsage(reference_id="d-2", user_id="u-1", tokens=1), lane="bulk")

    partition = partition_of(slot_of("u-1"), PARTITIONS)
    for lane in ("billing.usage", "billing.bulk"):
        assert rabbit.depth(f"{lane}.{partition:02d}") == 1
        assert rabbit.depth(lane) == 0


def test_message_by_another_partition_or_none_is_applied_and_a_wrong_one_is_counted(
    application: Application, rabbit: RabbitClient
) -> None:
    wrong = (partition_of(slot_of("u-1"), PARTITIONS) + 1) % PARTITIONS
    deduct = {"type": "usage.deduct", "userId": "u-1", "tokens": 1}
    with running(application):
        without = rabbit.request(deduct | {"referenceId": "without"})
        misrouted = rabbit.request(
            deduct | {"referenceId": "misrouted"}, routing_key=f"usage.deduct.{wrong:02d}"
        )
    assert (without["code"], misrouted["code"]) == ("tokens_deducted", "tokens_deducted")
    assert misrouted["balanceAfter"] == without["balanceAfter"] - 1
    assert application.metrics.misrouted._value.get() == 1


def test_partitions_above_the_number_that_is_set_are_served_until_they_are_deleted(
    application: Application, worker_settings: Settings, rabbit: RabbitClient
) -> None:
    with closing(open_link(worker_settings.broker_url.get_secret_value())) as link:
        link.declare(BILLING.partitioned(16))
    messages = [
        {"type": "usage.deduct", "referenceId": f"d-{user}", "userId": user, "tokens": 1} for user in USERS
    ]
    correlations = [
        rabbit.publish(message, routing_key=routing_key("usage.deduct", str(message["userId"]), 16))
        for message in messages
    ]
    with running(application):
        replies = rabbit.replies(correlations)
    assert {reply["code"] for each in replies.values() for reply in each} == {"tokens_deducted"}
    moved = sum(partition_of(slot_of(user), 16) != partition_of(slot_of(user), PARTITIONS) for user in USERS)
    assert application.metrics.misrouted._value.get() == moved


def test_batch_of_many_users_is_applied_in_parts_and_answered_as_one(
    application: Application, client: BillingClient, rabbit: RabbitClient
) -> None:
    items = tuple(
        DeductUsage(reference_id=f"item-{place}", user_id=user, tokens=100 * place)
        for place, user in enumerate([*USERS, "nobody"])
    )
    batch = UsageBatch(reference_id="ingest-1", items=items)
    with running(application):
        reply = client.request(batch)
        again = client.request(batch)
    assert (reply.reference_id, reply.applied, reply.rejected, reply.failed) == ("ingest-1", 12, 1, 0)
    assert [item.reference_id for item in reply.items or ()] == [item.reference_id for item in items]
    assert [item.amount for item in reply.items or ()][:-1] == [100 * place for place in range(12)]
    assert not reply.duplicate
    assert (again.duplicate, again.applied) == (True, 12)
    eventually(lambda: rabbit.depth("billing.usage") == 0, what="an empty queue")
    with application.engine.connect() as connection:
        found = connection.execute(select(accounts.c.user_id, accounts.c.balance))
        balances = {row.user_id: row.balance for row in found}
    assert balances == {user: 10_000 - 100 * place for place, user in enumerate(USERS)}


@pytest.mark.parametrize("form", [LedgerForm.WHOLE, LedgerForm.DISTRIBUTED])
def test_batch_that_nobody_has_split_is_applied_where_it_waits(
    application: Application, rabbit: RabbitClient
) -> None:
    items = [
        {"type": "usage.deduct", "referenceId": f"item-{place}", "userId": user, "tokens": 1}
        for place, user in enumerate(USERS)
    ]
    with running(application):
        reply = rabbit.request({"type": "usage.batch", "referenceId": "ingest-1", "items": items})
    assert (reply["applied"], reply["rejected"], reply["failed"]) == (len(USERS), 0, 0)
    assert [item["referenceId"] for item in reply["items"]] == [item["referenceId"] for item in items]
    assert application.metrics.misrouted._value.get() == 0


def test_refusal_of_another_type_than_the_key_names_says_how_keys_are_made(
    application: Application, rabbit: RabbitClient
) -> None:
    bonus = {"type": "credit.bonus", "referenceId": "b-1", "userId": "u-1", "tokens": 1}
    with running(application):
        refused = rabbit.request(bonus, routing_key="usage.deduct.01")
    assert (refused["status"], refused["reason"]) == ("failed", "wrong_routing_key")
    ((dead_letter, _),) = rabbit.take("billing.dead", 1)
    assert dead_letter.headers["x-billing-routing-key"] == "usage.deduct.01"
    assert dead_letter.headers["x-billing-queue"] == "billing.usage.01"


def test_replay_finds_the_partition_of_its_message_anew(
    application: Application, rabbit: RabbitClient
) -> None:
    wrong = (partition_of(slot_of("u-1"), PARTITIONS) + 1) % PARTITIONS
    fault = {"type": "usage.deduct", "referenceId": "d-1", "userId": "u-1", "tokenz": 5}
    service, link = application.service(), application.link(consume=[BILLING.dead.name])
    with running(application), closing(link):
        rabbit.publish(fault, routing_key=f"usage.deduct.{wrong:02d}")
        eventually(lambda: (service.drain(link, wait_s=0.05), service.counts().parked)[1] == 1)
        (line,) = service.page().dead_letters
        body = service.dead_letter(line.number).body
        service.edit(line.number, body.replace(b"tokenz", b"tokens"), "a typo", "ann", instead_of=body)
        replay = service.create_replay(DeadLetterFilter(), "mended", "ann")
        ended = application.replayer().run(replay.number, "ann", stop=FlagStop())
    assert ended.counts["applied"] == 1
    assert application.metrics.misrouted._value.get() == 0, "it came by the wrong partition again"


def test_console_counts_a_lane_with_its_partitions(application: Application, rabbit: RabbitClient) -> None:
    deduct = {"type": "usage.deduct", "userId": "u-1", "tokens": 1}
    rabbit.publish(deduct | {"referenceId": "d-1"}, routing_key="usage.deduct.07")
    rabbit.publish(deduct | {"referenceId": "d-2"})
    probe = QueueProbe(application.link, application.topology)
    try:
        status = probe.read()
    finally:
        probe.close()
    usage = next(queue for queue in status.depths if queue.name == "billing.usage")
    assert (usage.depth, usage.consumers, status.work) == (2, 0, 2)
    assert usage.contents == "usage.*; with its 8 partitions"
