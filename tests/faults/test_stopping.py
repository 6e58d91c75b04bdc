"""End of a worker, requested or not: within seconds, nothing lost and nothing twice."""

import os
import signal
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from tests.support.background_producer import BackgroundProducer
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.forked_python import ForkedPython
from tests.support.mixed_messages import mixed
from tests.support.processes import WorkerProcesses, worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.settings import Settings

SECONDS = 10.0  # generous: half a second on a quiet machine


def test_worker_stopped_under_load_exits_with_0_and_another_continues(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    process = workers.start("--batch-size", "20")
    url = application.settings.broker_url.get_secret_value()
    with BackgroundProducer(url, mixed(), reply_to=rabbit.reply_queue) as producer:
        eventually(lambda: rabbit.depth(rabbit.reply_queue) > 50, what="the first replies")
        began = monotonic()
        assert workers.stop(process)[0] == 0
        assert monotonic() - began < SECONDS
        waiting = rabbit.depth(rabbit.reply_queue)
        eventually(lambda: len(producer.published) > waiting + 50, what="messages that wait")
    for message in producer.published:
        state.sent(message["referenceId"], message)
    with running(application):
        replies = every_reply(rabbit, state.correlations)
    state.check(replies)
    # Its batch was acknowledged before it ended: nothing was answered twice.
    assert {len(copies) for copies in replies.values()} == {1}
    nothing_is_left(rabbit)


def test_second_signal_ends_a_worker_at_once_even_amid_a_statement(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 20)
    with application.engine.begin() as connection:
        # The worker's transaction waits for this one in the driver, where no Python runs.
        connection.exec_driver_sql("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE")
        process = workers.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        eventually(lambda: connection.exec_driver_sql(waiting).scalar_one(), what="it waits")
        process.terminate()
        eventually(lambda: pending_signals(process.pid) == 0, what="the first has arrived")
        process.terminate()
        assert process.wait(2.0) == 128 + signal.SIGTERM
        connection.rollback()
    with running(application):
        state.check(every_reply(rabbit, state.correlations))
    nothing_is_left(rabbit)


@pytest.mark.slow
def test_stopped_supervisor_stops_its_workers(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    parent = workers.start("--workers", "2")
    eventually(lambda: consumers(rabbit) == 2, what="two consume")
    children = children_of(parent.pid)
    assert workers.stop(parent)[0] == 0
    assert not any(map(is_alive, children))


def test_workers_of_a_killed_supervisor_end(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    parent = workers.start("--workers", "2")
    eventually(lambda: consumers(rabbit) == 2, what="two consume")
    children = children_of(parent.pid)
    parent.kill()
    eventually(lambda: not any(map(is_alive, children)), patience_s=SECONDS, what="no orphans")


def test_supervisor_restarts_a_killed_worker_and_ctrl_c_stops_all_in_order(
    application: Application, worker_settings: Settings, rabbit: RabbitClient
) -> None:
    """The terminal signals the whole process group; a worker that gets two signals would end in mid-batch."""
    state = ExpectedState(application.engine)
    parent = ForkedPython(
        *("worker", "run", "--workers", "2"),
        env=worker_environment(worker_settings),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        eventually(lambda: consumers(rabbit) == 2, what="two consume")
        killed = min(children_of(parent.pid))
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: consumers(rabbit) < 2, what="one is missing")
        publish_some(rabbit, state, 20)
        eventually(lambda: consumers(rabbit) == 2, what="two consume again")
        state.check(every_reply(rabbit, state.correlations))
        children = children_of(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)
        _, log = parent.communicate(timeout=SECONDS)
    finally:
        parent.kill()
        parent.communicate()
    assert parent.returncode == 0
    assert log.decode().count("stopped") == 2
    assert killed not in children
    assert not any(map(is_alive, children))
    nothing_is_left(rabbit)


def children_of(process_id: int) -> set[int]:
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return {int(child) for child in children.split()}


def pending_signals(process_id: int) -> int:
    """Return the pending signals of a process as the kernel's bit mask."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process_id}/status").read_text().splitlines())
    return int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def consumers(rabbit: RabbitClient) -> int:
    queue = BILLING.work[0].name
    return int(rabbit.channel.queue_declare(queue, passive=True).method.consumer_count)
