"""One command a thousand times, alone and in batches, from ten connections at once, into three workers."""

import json
from threading import Barrier, Thread

import pika

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.expected_state import balances, content_of, every_reply
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient, user_of
from worker.bootstrap import Application
from worker.catalog import Catalog
from worker.ledger.audit import audit

CONNECTIONS, EACH, WORKERS = 10, 100, 3
COMMAND = {"type": "usage.deduct", "referenceId": "the-same", "userId": "u", "tokens": 1_234}
BATCH = {"type": "usage.batch", "referenceId": "a-batch", "items": [COMMAND]}


def test_thousand_copies_have_one_effect_and_the_same_reply_each(
    application: Application, catalog: Catalog, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    applied(application.engine, catalog, OpenAccount(reference_id="o", user_id="u", tier="free"))
    for _ in range(WORKERS):
        workers.start("--batch-size", "20", "--prefetch", "20")  # so that each gets its share
    url = application.settings.broker_url.get_secret_value()
    start = Barrier(CONNECTIONS)
    threads = [
        Thread(target=publish_copies, args=(url, str(number), rabbit.reply_queue, start))
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replies = every_reply(rabbit, {f"{n}-{copy}" for n in range(CONNECTIONS) for copy in range(EACH)})
    given = [item for each in replies.values() for reply in each for item in reply.get("items", [reply])]
    assert len(given) == CONNECTIONS * EACH
    assert [reply["duplicate"] for reply in given].count(False) == 1
    assert all(content_of(reply) == content_of(given[0]) for reply in given)
    assert (given[0]["code"], given[0]["balanceAfter"]) == ("tokens_deducted", 10_000 - 1_234)
    assert balances(application.engine) == {"u": 10_000 - 1_234}
    report = audit(application.engine)
    assert report.findings == ()
    assert report.examined["entries"] == 2  # the opening and the deduction


def publish_copies(url: str, name: str, reply_to: str, start: Barrier) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    start.wait(60)
    for copy in range(EACH):
        message = BATCH if copy % 5 == 0 else COMMAND
        properties = pika.BasicProperties(
            correlation_id=f"{name}-{copy}", reply_to=reply_to, delivery_mode=2, user_id=user_of(url)
        )
        channel.basic_publish(
            "billing", str(message["type"]), json.dumps(message).encode(), properties, mandatory=True
        )
    connection.close()
