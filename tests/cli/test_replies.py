"""``replies``: show the replies in a reply queue, or take them."""

import json
import signal
import subprocess

from tests.cli.console import Cli
from tests.support.forked_python import ForkedPython
from tests.support.processes import worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.settings import load_settings

QUEUE = "billing.replies"


def fill(rabbit: RabbitClient, *bodies: bytes) -> None:
    for number, body in enumerate(bodies):
        rabbit.publish(body, exchange="", routing_key=QUEUE, correlation_id=f"c-{number}")


def test_replies_are_shown_one_json_object_a_line_and_stay(broker_cli: Cli, rabbit: RabbitClient) -> None:
    fill(rabbit, b'{"status": "applied", "referenceId": "\xc3\xbc"}', b'{"status": "rejected"}')
    for _ in range(2):
        shown = broker_cli("replies", "--limit", "2")
        assert (shown.code, shown.err) == (0, "")
        assert [json.loads(line) for line in shown.lines] == [
            {"correlationId": "c-0", "status": "applied", "referenceId": "ü"},
            {"correlationId": "c-1", "status": "rejected"},
        ]
    eventually(lambda: rabbit.depth(QUEUE) == 2)


def test_replies_that_are_taken_are_gone(broker_cli: Cli, rabbit: RabbitClient) -> None:
    fill(rabbit, b"{}", b"{}", b"{}")
    assert len(broker_cli("replies", "--take", "--limit", "2").lines) == 2
    eventually(lambda: rabbit.depth(QUEUE) == 1)
    ((properties, _),) = rabbit.take(QUEUE, 1)
    assert properties.correlation_id == "c-2"


def test_limit_ends_it_without_waiting_for_more(broker_cli: Cli, rabbit: RabbitClient) -> None:
    fill(rabbit, *[b"{}"] * 5)
    assert [json.loads(line)["correlationId"] for line in broker_cli("replies", "--limit", "3").lines] == [
        "c-0",
        "c-1",
        "c-2",
    ]
    eventually(lambda: rabbit.depth(QUEUE) == 5)


def test_replies_holds_no_more_than_it_shows(broker_cli: Cli, rabbit: RabbitClient) -> None:
    """Holding and giving back counts as a delivery; a broker drops a message after too many of them."""
    fill(rabbit, *[b"{}"] * 25)
    assert len(broker_cli("replies").lines) == 20
    eventually(lambda: rabbit.depth(QUEUE) == 25)
    delivered = [properties.headers for properties, _ in rabbit.take(QUEUE, 25)]
    assert sum(bool((headers or {}).get("x-delivery-count")) for headers in delivered) == 20


def test_unreadable_reply_is_shown_as_hexadecimal(broker_cli: Cli, rabbit: RabbitClient) -> None:
    fill(rabbit, b"\xff\x00", b"[1]", b'{"a": "\\ud800"}', b"[" * 10_000, b"")
    shown = broker_cli("replies", "--limit", "5")
    assert shown.code == 0
    assert [json.loads(line) for line in shown.lines] == [
        {"correlationId": "c-0", "unreadable": "ff00"},
        {"correlationId": "c-1", "body": [1]},
        {"correlationId": "c-2", "a": "\ud800"},
        {"correlationId": "c-3", "unreadable": "5b" * 200},
        {"correlationId": "c-4", "unreadable": ""},
    ]


def test_empty_queue_shows_nothing(broker_cli: Cli) -> None:
    ended = broker_cli("replies")
    assert (ended.code, ended.all) == (0, "")


def test_another_queue_can_be_named(broker_cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_declare("billing.replies.app", durable=True)
    rabbit.publish(b'{"a": 1}', exchange="", routing_key="billing.replies.app", correlation_id="c")
    assert json.loads(broker_cli("replies", "--queue", "billing.replies.app", "--limit", "1").out)["a"] == 1


def test_queue_that_is_bound_for_notices_can_be_looked_at(broker_cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_declare("ops.notices", durable=True)
    rabbit.channel.queue_bind("ops.notices", "billing.events", "balance.*")
    notice = {"type": "balance.low", "id": "n-1", "userId": "ann", "available": 0}
    rabbit.publish(notice, exchange="billing.events", correlation_id=None)
    shown = broker_cli("replies", "--queue", "ops.notices", "--limit", "1")
    assert json.loads(shown.out) == {"correlationId": None, **notice}


def test_reply_to_a_batch_is_one_line(broker_cli: Cli, rabbit: RabbitClient) -> None:
    items = [{"status": "applied", "code": "tokens_deducted"}] * 1_000
    fill(rabbit, json.dumps({"status": "applied", "code": "batch_processed", "items": items}).encode())
    (line,) = broker_cli("replies", "--limit", "1").lines
    assert json.loads(line)["items"] == items


def test_queue_that_is_not_there_is_named(broker_cli: Cli) -> None:
    ended = broker_cli("replies", "--queue", "nowhere")
    assert ended.code == 3
    assert "nowhere" in ended.error


def test_follow_shows_replies_until_ctrl_c(broker_url: str, rabbit: RabbitClient) -> None:
    process = ForkedPython(
        *("worker", "replies", "--follow", "--take"),
        env=worker_environment(load_settings(broker_url=broker_url)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    for correlation_id in ("first", "second"):
        rabbit.publish(b"{}", exchange="", routing_key=QUEUE, correlation_id=correlation_id)
        assert json.loads(process.stdout.readline()) == {"correlationId": correlation_id}
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    eventually(lambda: rabbit.depth(QUEUE) <= 1)  # the last one is shown before it is taken
