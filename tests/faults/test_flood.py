"""A bug on every message stops the worker: few dead letters, and a backlog that waits for a good one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from urllib.request import urlopen

import pytest
from sqlalchemy import Engine, text

from schemas import DeadLetter
from tests.support.processes import WorkerProcesses
from tests.support.traffic import Truth, every_reply, mixed, nothing_is_left, publish_some
from tests.support.waiting import eventually
from tests.support.witness import Witness
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.flood import Flood, FloodLimit
from worker.ledger.store import Ledger
from worker.pipeline import Pipeline
from worker.supervisor import FLOOD_EXIT

LIMIT = 10
MESSAGES = 80


@contextmanager
def a_bug_on(engine: Engine, references: str) -> Iterator[None]:
    """No outcome of a reference like ``references`` can be written, as after a deploy that is wrong."""
    check = f"CHECK (reference_id NOT LIKE '{references}') NOT VALID"
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE operations ADD CONSTRAINT bug {check}"))
    yield
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE operations DROP CONSTRAINT bug"))


def waiting(witness: Witness) -> int:
    return sum(witness.depth(queue.name) for queue in BILLING.work)


def letters(witness: Witness) -> int:
    return witness.depth(BILLING.dead.name)


def delivery_counts(witness: Witness) -> list[int]:
    """How often what waits has been delivered before, message by message."""
    counts = []
    for queue in BILLING.work:
        for _ in range(witness.depth(queue.name)):
            _, properties, _ = witness.channel.basic_get(queue.name)
            counts.append(int((properties.headers or {}).get("x-delivery-count", 0)))
    return counts


def ended(workers: WorkerProcesses, *arguments: str) -> tuple[int, str]:
    """The exit code and the log of a worker that ends by itself."""
    process = workers.start("--batch-size", "20", *arguments, BILLING_FLOOD_IN_A_ROW=str(LIMIT))
    _, log = process.communicate(timeout=60)
    return process.returncode, log.decode()


def send_again(witness: Witness, count: int) -> None:
    """What replaying the letters does: to where they came from."""
    for properties, body in witness.take(BILLING.dead.name, count):
        letter = DeadLetter.from_headers(properties.headers)
        witness.publish(
            body,
            routing_key=letter.routing_key,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
        )


def test_a_bug_on_every_message_stops_the_worker_and_a_good_one_applies_all_that_waited(
    application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    truth = Truth(application.engine)
    publish_some(witness, truth, MESSAGES)
    with a_bug_on(application.engine, "%"):
        code, log = ended(workers)
        assert code == FLOOD_EXIT
        (said,) = [line for line in log.splitlines() if "CRITICAL" in line]
        assert "faults in a row" in said
        assert "unprocessable" in said
        assert "billing-worker dead-letters groups" in said
        assert "Traceback" not in log
        sent = letters(witness)
        assert 0 < sent <= LIMIT
        eventually(lambda: waiting(witness) == MESSAGES - sent, what="the rest waits")
    send_again(witness, sent)
    with running(application):
        # Those that were letters have two answers: that they failed, and what came of them in the end.
        eventually(lambda: witness.depth(witness.reply_queue) == MESSAGES + sent, what="every answer")
    told = every_reply(witness, truth.correlations)
    assert {answers[-1]["status"] for answers in told.values()} <= {"applied", "rejected"}
    truth.ledger_holds()
    nothing_is_left(witness)


def test_a_worker_that_is_started_again_and_again_takes_its_limit_each_time_and_suspects_nobody(
    application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    truth = Truth(application.engine)
    publish_some(witness, truth, MESSAGES)
    with a_bug_on(application.engine, "%"):
        for starts in range(1, 4):
            assert ended(workers)[0] == FLOOD_EXIT
            assert letters(witness) <= starts * LIMIT
    counts = delivery_counts(witness)
    assert max(counts) <= 3
    assert sum(count > 0 for count in counts) <= 2 * len(BILLING.work)


def test_a_flood_stops_all_workers_of_a_supervisor(
    application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    truth = Truth(application.engine)
    publish_some(witness, truth, MESSAGES)
    with a_bug_on(application.engine, "%"):
        code, log = ended(workers, "--workers", "2")
    assert code == FLOOD_EXIT
    assert "stopping all" in log
    assert "starting another" not in log
    sent = letters(witness)
    assert 0 < sent <= 2 * LIMIT
    eventually(lambda: waiting(witness) == MESSAGES - sent, what="the rest waits")


def test_the_metrics_say_flooded_until_the_worker_is_told_to_stop(
    application: Application, workers: WorkerProcesses, witness: Witness
) -> None:
    publish_some(witness, Truth(application.engine), MESSAGES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with a_bug_on(application.engine, "%"):
        process = workers.start("--metrics-port", str(port), BILLING_FLOOD_IN_A_ROW=str(LIMIT))
        eventually(lambda: "billing_worker_flooded 1.0" in metrics(port), what="it is flooded")
        assert f"billing_worker_faults_in_a_row {LIMIT + 1}.0" in metrics(port)
        eventually(lambda: waiting(witness) == MESSAGES - letters(witness), what="it holds nothing")
        assert workers.stop(process)[0] == FLOOD_EXIT


def metrics(port: int) -> str:
    """What is served on the port; nothing before it is."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return str(page.read(), "utf-8")
    except OSError:
        return ""


def test_one_bad_message_in_twenty_goes_on_for_ever(
    application: Application, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits so tight that any other count would pass them."""
    tight = FloodLimit(in_a_row=2, share=0.2, window=40, least=1, least_beyond=0)
    original = Application.pipeline

    def guarded(self: Application, ledger: Ledger) -> Pipeline:
        pipeline = original(self, ledger)
        pipeline.flood = Flood(tight)
        return pipeline

    monkeypatch.setattr(Application, "pipeline", guarded)
    truth, expected = Truth(application.engine), set[str]()
    stream = mixed(prefix="m")
    poison = {"type": "usage.deduct", "userId": "user-0", "tokens": 17}
    for number in range(20):
        for message in islice(stream, 19):
            truth.sent(witness.publish(message), message)
        bad = {**poison, "referenceId": f"poison-{number}"} if number % 2 else b"broken"
        expected.add(witness.publish(bad, routing_key="usage.deduct"))
    with a_bug_on(application.engine, "poison-%"), running(application):
        replies = every_reply(witness, {*truth.correlations, *expected})
    truth.holds(replies)
    assert letters(witness) == len(expected)
    nothing_is_left(witness)
