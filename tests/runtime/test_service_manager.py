"""Notifications to the service manager, over real datagram sockets; a hanging child silences them."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.fake_stop import FakeStop
from tests.support.notify_socket import NotifySocket
from tests.support.processes import ROOT
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop
from worker.runtime.process_health import ProcessHealth
from worker.runtime.service_manager import ServiceManager, ServiceReport, reported
from worker.runtime.supervisor import Program, Supervisor


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotifySocket]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@billing-{uuid4().hex}"
    with closing(NotifySocket(address)) as listener:
        yield listener


def environment(address: str, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": address, **more}


def test_service_manager_is_taken_out_of_the_environment(listener: NotifySocket) -> None:
    variables = environment(
        listener.address, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()), OTHER="x"
    )
    manager = ServiceManager.take(variables)
    assert variables == {"OTHER": "x"}
    assert manager.watchdog_s == 30
    manager.send("READY=1", "STATUS=works")
    assert listener.receive() == ["READY=1", "STATUS=works"]


def test_watchdog_of_another_process_is_none_of_ours() -> None:
    assert ServiceManager.take(environment("@x", WATCHDOG_USEC="5", WATCHDOG_PID="1")).watchdog_s is None
    assert ServiceManager.take(environment("@x", WATCHDOG_USEC="nonsense")).watchdog_s is None


def test_untaken_notification_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager.take({}).send("READY=1")
    assert caplog.records == []
    ServiceManager.take(environment("vsock:2:1")).send("READY=1")
    gone = ServiceManager.take(environment(str(tmp_path / "gone")))
    for _ in range(2):
        gone.send("READY=1")
    assert len(caplog.records) == 2


class Sent(ServiceManager):
    """Service manager that keeps what it is sent."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        super().__init__("@nowhere", watchdog_s)
        self.lines: list[str] = []

    def send(self, *lines: str) -> None:
        self.lines += lines

    def new(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def test_report_is_ready_once_and_alive_at_half_of_the_watchdogs_time() -> None:
    sent, now = Sent(watchdog_s=10), [0.0]
    report = ServiceReport(sent, seconds=lambda: now[0])
    report.update(["the broker is away"], is_live=True)
    assert sent.new() == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=the broker is away", "WATCHDOG=1"]
    report.update(["the broker is away"], is_live=True)
    assert sent.new() == []
    report.update([], is_live=True)
    assert sent.new() == ["READY=1", "STATUS=works"]
    now[0] = 5
    report.update(["paused: billing.usage"], is_live=True)
    assert sent.new() == ["STATUS=paused: billing.usage", "WATCHDOG=1"]
    now[0] = 10
    report.update(["run 7 hangs"], is_live=False)
    assert sent.new() == ["STATUS=run 7 hangs"]
    report.stopping()
    assert sent.new()[0] == "STOPPING=1"


def test_start_that_hangs_is_neither_ready_nor_given_more_time() -> None:
    sent = Sent()
    report = ServiceReport(sent)
    report.update(["run 7 hangs"], is_live=False)
    assert sent.new() == ["STATUS=run 7 hangs"]
    report.update([], is_live=False)
    assert sent.new() == ["STATUS=works"]
    report.update([], is_live=True)
    assert sent.new() == ["READY=1"]


def test_report_without_a_watchdog_sends_no_sign_of_life() -> None:
    sent = Sent()
    ServiceReport(sent).update([], is_live=True)
    assert sent.lines == ["READY=1", "STATUS=works"]


def test_single_process_reports_itself(listener: NotifySocket) -> None:
    health, stop = ProcessHealth(), FakeStop()
    health.add_obstacle(lambda: None)
    with reported(ServiceManager(listener.address, 60), health, stop):
        assert set(listener.receive()) == {"READY=1", "STATUS=works", "WATCHDOG=1"}
        stop.requested = True
        assert listener.receive()[0] == "STOPPING=1"


# -- a supervisor and a real child ------------------------------------------------------------------------

_CHILD = """
import sys, time
from worker.runtime.process_health import ProcessHealth
health = ProcessHealth()
health.report_to(int(sys.argv[1]))
health.add_obstacle(lambda: None)
while True:
    health.turned()
    time.sleep(0.05)
"""


def start(program: Program) -> "subprocess.Popen[bytes]":
    assert program.report is not None
    command = [sys.executable, "-c", _CHILD, str(program.report)]
    assert "NOTIFY_SOCKET" not in os.environ
    return subprocess.Popen(command, pass_fds=[program.report], env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_stopped_child_ends_the_signs_of_life_and_its_return_brings_them_back(tmp_path: Path) -> None:
    children: list[subprocess.Popen[bytes]] = []
    stop = FlagStop()

    def started(program: Program) -> Any:
        children.append(start(program))
        return children[-1]

    with closing(NotifySocket(str(tmp_path / "notify"))) as listener:
        service = ServiceManager(listener.address, watchdog_s=0.4)
        supervisor = Supervisor(
            [Program("run", (), {})], random.Random(1), start=started, service=service, live_s=1.5
        )
        thread = threading.Thread(target=supervisor.run, args=(stop,))
        thread.start()
        try:
            assert "STATUS=0 of 1 processes work" in listener.until("READY=1")
            listener.until("WATCHDOG=1")
            children[0].send_signal(signal.SIGSTOP)
            listener.until(f"STATUS=run {children[0].pid} hangs")
            assert listener.is_silent_for(0.8)
            children[0].send_signal(signal.SIGCONT)
            assert "STATUS=works" in listener.until("WATCHDOG=1")
        finally:
            stop.requested = True
            eventually(lambda: not thread.is_alive(), what="the supervisor ends")
        assert "STOPPING=1" in listener.until("STOPPING=1")
        assert children[0].returncode == -signal.SIGTERM
