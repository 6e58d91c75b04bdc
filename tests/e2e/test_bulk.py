"""Bulk on RabbitMQ and PostgreSQL: served last, never starved, and a lane like the others otherwise."""

import json
from typing import Any

from schemas import DeadLetter, OpenAccount
from tests.support.apply_commands import applied
from tests.support.expected_state import nothing_is_left
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING, Outgoing
from worker.ledger.audit import audit

OPEN = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "pro"}
BACKLOG = 12_000


def deduct(reference: str, **more: Any) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "ann", "tokens": 1, **more}


def fill_bulk(application: Application, count: int) -> None:
    """Publish so many deductions in bulk, whose replies nobody wants."""
    link = application.link()
    bodies = (json.dumps(deduct(f"bulk-{number}", replies="none")).encode() for number in range(count))
    messages = [Outgoing(body, BILLING.bulk_exchange, "usage.deduct") for body in bodies]
    for start in range(0, count, 1_000):
        link.publish(messages[start : start + 1_000]).raise_if_refused()
    link.close()


def used(application: Application) -> int:
    with application.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT used FROM accounts").scalar_one())


def test_interactive_message_is_answered_while_a_backlog_waits_in_bulk(
    application: Application, rabbit: RabbitClient
) -> None:
    applied(
        application.engine,
        application.catalog,
        OpenAccount(reference_id="open", user_id="ann", tier="pro"),
    )
    fill_bulk(application, BACKLOG)
    with running(application):
        eventually(lambda: rabbit.depth(BILLING.bulk.name) < BACKLOG, what="bulk goes on")
        for number in range(5):
            assert rabbit.request(deduct(f"job-{number}"))["code"] == "tokens_deducted"
        assert rabbit.depth(BILLING.bulk.name) > 0, "nobody waits for the backlog"
        eventually(lambda: used(application) == BACKLOG + 5, what="all of it is applied")
        assert rabbit.request(deduct("bulk-0"))["duplicate"], "the lanes share their references"
    assert audit(application.engine).is_clean
    assert rabbit.depth(BILLING.replies.name) == 0
    nothing_is_left(rabbit)


def test_other_types_are_refused_in_bulk(application: Application, rabbit: RabbitClient) -> None:
    with running(application):
        in_bulk = {"exchange": "", "routing_key": BILLING.bulk.name}
        reply = rabbit.request(OPEN, **in_bulk)
        assert (reply["status"], reply["reason"], reply["field"]) == ("failed", "wrong_lane", "type")
        assert rabbit.request(OPEN)["code"] == "account_opened", "the refusal stored nothing"
        assert rabbit.request(deduct("d"), exchange=BILLING.bulk_exchange)["code"] == "tokens_deducted"
    ((properties, _),) = rabbit.take(BILLING.dead.name, 1)
    dead_letter = DeadLetter.from_headers(properties.headers)
    assert (dead_letter.reason, dead_letter.queue) == ("wrong_lane", BILLING.bulk.name)
