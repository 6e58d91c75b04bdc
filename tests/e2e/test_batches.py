"""``usage.batch`` on RabbitMQ and PostgreSQL: a thousand commands in one message, one reply."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from schemas import DeadLetter, Reply
from schemas.usage import BATCH_MAX_ITEMS
from tests.support.expected_state import nothing_is_left
from tests.support.fault_injection import CrashingWorkers
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.audit import audit
from worker.ledger.tables import accounts, operations

#: Default maximum size of a message in RabbitMQ 4.0 and later; before it was 128 MiB.
MESSAGE_MAX_BYTES = 16 * 1024 * 1024

Message = dict[str, Any]


def opening(user: str, tier: str = "pro") -> Message:
    return {"type": "account.open", "referenceId": f"open-{user}", "userId": user, "tier": tier}


def batch(reference: str, items: list[Message], user: str = "ann") -> Message:
    return {"type": "usage.batch", "referenceId": reference, "userId": user, "items": items}


def deduct(reference: str, tokens: int = 1, **more: Any) -> Message:
    return {"type": "usage.deduct", "referenceId": reference, "tokens": tokens, **more}


def used(application: Application) -> dict[str, int]:
    with application.engine.connect() as connection:
        rows = connection.execute(select(accounts.c.user_id, accounts.c.used))
        return {row.user_id: row.used for row in rows}


def test_batch_of_a_thousand_mixed_items_gets_one_reply(
    application: Application, rabbit: RabbitClient
) -> None:
    """The names have the maximum length, and each third item is rejected, with all fields of a rejection."""
    long = "f" * 64
    kinds: list[Message] = [
        {"type": "usage.deduct", "tokens": 3, "feature": long},
        {"type": "usage.record", "meter": "ocr", "quantity": 1, "userId": "bob"},
        {"type": "usage.deduct", "tokens": 10**15, "userId": "bob"},
    ]
    items = [{**kinds[n % 3], "referenceId": f"{n:080}"} for n in range(BATCH_MAX_ITEMS)]
    with running(application):
        for user in ("ann", "bob"):
            rabbit.request(opening(user))
        correlation_id = rabbit.publish(batch("b", items))
        ((properties, body),) = rabbit.take(rabbit.reply_queue, 1)
        again = rabbit.request(batch("b", items))
    assert properties.correlation_id == correlation_id
    assert len(body) < MESSAGE_MAX_BYTES // 16
    reply = Reply.model_validate_json(body)
    assert (reply.message, reply.applied, reply.rejected) == (
        "Processed 1000 items: 667 applied, 333 rejected",
        667,
        333,
    )
    assert reply.items is not None
    assert [item.reference_id for item in reply.items] == [item["referenceId"] for item in items]
    assert [item.user_id for item in reply.items[:2]] == ["ann", "bob"]
    assert used(application) == {"ann": 3 * 334, "bob": 120 * 333}
    assert again["duplicate"] is True
    assert {item["duplicate"] for item in again["items"]} == {True}
    assert audit(application.engine).is_clean
    nothing_is_left(rabbit)


def test_several_workers_apply_large_batches_beside_small_messages(
    application: Application, rabbit: RabbitClient, workers: WorkerProcesses
) -> None:
    for _ in range(2):
        workers.start()
    for user in ("ann", "bob"):
        rabbit.request(opening(user))
    expected = {"ann": 0, "bob": 0}
    correlations = []
    for n in range(12):
        user = ("ann", "bob")[n % 2]
        items = [deduct(f"b{n}-{i}", 1) for i in range(300)]
        correlations.append(rabbit.publish(batch(f"b{n}", items, user)))
        # One item of an earlier batch by itself, while another worker may hold that batch.
        single = deduct(f"b{n - 2 if n > 1 else n}-{n}", 1, userId=user)
        correlations.append(rabbit.publish(single))
        expected[user] += 300
    replies = rabbit.replies(correlations)
    assert {reply["status"] for some in replies.values() for reply in some} == {"applied"}
    assert used(application) == expected
    assert audit(application.engine).is_clean
    nothing_is_left(rabbit)


@pytest.mark.parametrize(
    ("crash_point", "duplicates"), [("written", [False]), ("committed", [True]), ("confirmed", [False, True])]
)
def test_batch_of_a_killed_worker_is_applied_once(
    application: Application, rabbit: RabbitClient, crash_point: str, duplicates: list[bool]
) -> None:
    items = [deduct(f"i{n}", 2) for n in range(50)]
    with running(application):
        rabbit.request(opening("ann"))
    rabbit.publish(batch("b", items))
    with CrashingWorkers(application.settings) as crashing_workers:
        process = crashing_workers.start_at(crash_point, 1, batch_size=10)
        process.join(PATIENCE_S)
        assert process.exitcode == -9
    with running(application):
        replies = [json.loads(body) for _, body in rabbit.take(rabbit.reply_queue, len(duplicates))]
    nothing_is_left(rabbit)
    assert rabbit.depth(rabbit.reply_queue) == 0
    assert [reply["duplicate"] for reply in replies] == duplicates
    assert {(reply["applied"], reply["rejected"]) for reply in replies} == {(50, 0)}
    assert used(application) == {"ann": 100}
    with application.engine.connect() as connection:
        stored = connection.execute(select(func.count()).select_from(operations)).scalar_one()
    assert stored == 51, "the batch's own reference names nothing in the ledger"
    assert audit(application.engine).is_clean


def test_conflict_in_a_batch_makes_one_dead_letter_with_the_place_of_the_item(
    application: Application, rabbit: RabbitClient
) -> None:
    with running(application):
        rabbit.request(opening("ann"))
        rabbit.request(deduct("x", 7, userId="ann"))
        message = batch("b", [deduct("a"), deduct("b"), deduct("c"), deduct("x", 8), deduct("d")])
        reply = rabbit.request(message)
    assert (reply["applied"], reply["rejected"]) == (4, 1)
    assert reply["items"][3]["code"] == "reference_conflict"
    ((properties, body),) = rabbit.take(BILLING.dead.name, 1)
    dead_letter = DeadLetter.from_headers(properties.headers)
    assert (dead_letter.reason, dead_letter.field, dead_letter.reference_id) == (
        "reference_conflict",
        "items.3.tokens",
        "b",
    )
    assert json.loads(body) == message
    assert used(application) == {"ann": 11}


def test_malformed_item_among_a_thousand_fails_alone(application: Application, rabbit: RabbitClient) -> None:
    """The batch is one dead letter, whose replay changes no balance."""
    items = [deduct(f"i{n}") for n in range(BATCH_MAX_ITEMS)]
    items[7] = deduct("i7", -1, colour="red")
    message = batch("b", items)
    with running(application):
        rabbit.request(opening("ann"))
        reply = rabbit.request(message)
        ((properties, body),) = rabbit.take(BILLING.dead.name, 1)
        assert used(application) == {"ann": 999}
        again = rabbit.request(json.loads(body))
    assert reply["message"] == "Processed 1000 items: 999 applied, 0 rejected, 1 malformed"
    assert [item["referenceId"] for item in reply["items"]] == [item["referenceId"] for item in items]
    bad = reply["items"].pop(7)
    assert (bad["status"], bad["code"], bad["reason"], bad["field"]) == (
        *("failed", "malformed", "unknown_field", "items.7.colour"),
    )
    assert {item["code"] for item in reply["items"]} == {"tokens_deducted"}
    dead_letter = DeadLetter.from_headers(properties.headers)
    assert (dead_letter.reason, dead_letter.field, dead_letter.reference_id) == (
        "unknown_field",
        "items.7.colour",
        "b",
    )
    assert json.loads(body) == message
    assert (again["duplicate"], again["applied"], again["failed"]) == (True, 999, 1)
    assert rabbit.depth(BILLING.dead.name) == 1, "of the replay"
    assert used(application) == {"ann": 999}
    assert audit(application.engine).is_clean
