"""Health of a process: turns of its loop, obstacles, and its answers on the port for machines."""

import json
import os
import threading
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tests.support.fake_stop import FakeStop
from tests.support.private_server import free_port
from worker.metrics import Metrics, ProcessRole
from worker.runtime.child_report import ChildReport
from worker.runtime.process_health import ProcessHealth, WatchedStop


class TurnClock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> TurnClock:
    return TurnClock()


@pytest.fixture
def health(clock: TurnClock) -> ProcessHealth:
    return ProcessHealth(60, seconds=clock)


def test_process_is_live_while_its_loop_turns(health: ProcessHealth, clock: TurnClock) -> None:
    clock.now += 60
    assert health.is_live
    clock.now += 1
    assert not health.is_live
    health.turned()
    assert health.is_live


def test_each_look_at_the_stop_is_a_turn(health: ProcessHealth, clock: TurnClock) -> None:
    stop = health.watched(FakeStop())
    clock.now += 61
    assert not stop.requested
    assert health.is_live


def test_long_wait_has_turns_in_it() -> None:
    turns: list[None] = []
    WatchedStop(FakeStop(), lambda: turns.append(None)).wait(10)
    assert len(turns) == 10


def test_look_of_another_thread_is_no_turn(health: ProcessHealth, clock: TurnClock) -> None:
    stop = health.watched(FakeStop())
    clock.now += 61
    thread = threading.Thread(target=lambda: stop.requested)
    thread.start()
    thread.join()
    assert not health.is_live


def test_process_without_known_obstacles_is_starting(health: ProcessHealth) -> None:
    assert health.obstacles() == ["it is starting"]
    health.add_obstacle(lambda: None)
    assert health.obstacles() == []


def test_servers_are_asked_only_where_somebody_may_wait(health: ProcessHealth) -> None:
    health.add_obstacle(lambda: "paused: billing.usage")
    health.add_probe(lambda: "the ledger takes no writes")
    assert health.obstacles() == ["paused: billing.usage"]
    assert health.obstacles(probed=True) == ["paused: billing.usage", "the ledger takes no writes"]


def test_supervisor_learns_of_turns_and_of_obstacles(health: ProcessHealth, clock: TurnClock) -> None:
    report = ChildReport(0)
    health.report_to(os.dup(report.writing))
    report.close_writing()
    report.read(1)
    assert not report.has_come
    health.turned()
    report.read(2)
    assert (report.has_come, report.works) == (True, False)
    health.add_obstacle(lambda: None)
    health.turned()
    report.read(3)
    assert not report.works  # once a second is enough
    clock.now += 1
    health.turned()
    report.read(4)
    assert report.works
    assert report.is_live(64, 60)
    assert not report.is_live(65, 60)
    report.close()


def test_report_to_nobody_stops_nothing(health: ProcessHealth) -> None:
    report = ChildReport(0)
    health.report_to(os.dup(report.writing))
    report.close_writing()
    report.close()
    health.turned()


# -- on the port ------------------------------------------------------------------------------------------


@pytest.fixture
def port(health: ProcessHealth) -> int:
    port = free_port()
    Metrics().serve("127.0.0.1", port, ProcessRole.WORKER, health=health)
    return port


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_port_answers_livez_by_the_turns_alone(health: ProcessHealth, clock: TurnClock, port: int) -> None:
    health.add_obstacle(lambda: "the database is away")
    assert ask(port, "/livez") == (200, '{"state": "live"}\n')
    clock.now += 61
    status, body = ask(port, "/livez")
    assert (status, json.loads(body)["state"]) == (503, "stuck")


def test_port_answers_readyz_with_the_obstacles(health: ProcessHealth, clock: TurnClock, port: int) -> None:
    assert ask(port, "/readyz") == (503, '{"state": "not ready", "obstacles": ["it is starting"]}\n')
    health.add_obstacle(lambda: None)
    assert ask(port, "/readyz") == (200, '{"state": "ready"}\n')
    health.add_probe(lambda: "the ledger takes no writes")
    status, body = ask(port, "/readyz")
    assert (status, json.loads(body)["obstacles"]) == (503, ["the ledger takes no writes"])
    clock.now += 61
    assert len(json.loads(ask(port, "/readyz")[1])["obstacles"]) == 2


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livez/x", "/healthz", "/metricsx"])
def test_port_knows_no_other_path(port: int, path: str) -> None:
    status, body = ask(port, path)
    assert (status, json.loads(body)) == (404, {"paths": ["/metrics", "/livez", "/readyz"]})


def test_port_serves_metrics_and_reads_alone(port: int) -> None:
    status, body = ask(port, "/metrics")
    assert status == 200
    assert "billing_worker_batch_seconds" in body
    assert ask(port, "/livez", "POST")[0] == 405
    assert ask(port, "/livez", "HEAD") == (200, "")
