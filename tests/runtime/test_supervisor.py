"""Supervisor: workers are restarted when they die, and stopped together."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from worker.runtime.hang_up import HangUp
from worker.runtime.process_health import WORKS
from worker.runtime.supervisor import CONFIGURATION_EXIT, LIMIT_EXIT, UNSUPPORTED_EXIT, Program, Supervisor


@dataclass
class FakeProcess:
    """Process that ends when its test says so; ``ignores_sigterm`` needs to be killed."""

    program: Program
    pid: int
    code: int | None = None
    ignores_sigterm: bool = False
    signals: list[int] = field(default_factory=list)

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        if not self.ignores_sigterm and self.code is None:
            self.code = -signal.SIGTERM

    def kill(self) -> None:
        self.code = -signal.SIGKILL

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.code


@dataclass
class SupervisorWorld:
    """Clock, stop and processes of one supervisor; ``on_wait`` is called at each of its waits."""

    on_wait: Callable[["SupervisorWorld"], None]
    now: float = 0.0
    requested: bool = False
    processes: list[FakeProcess] = field(default_factory=list)
    started_at: list[float] = field(default_factory=list)
    reports: bool = False
    hang_up: HangUp = field(default_factory=HangUp)
    is_good: bool = True

    def start(self, program: Program) -> FakeProcess:
        if self.reports and program.report is not None:
            os.write(program.report, WORKS)
        self.processes.append(FakeProcess(program, len(self.processes)))
        self.started_at.append(self.now)
        return self.processes[-1]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.on_wait(self)

    def run(self, *names: str) -> int:
        programs = [Program(name, (), {}) for name in names]
        start = cast(Any, self.start)
        supervisor = Supervisor(
            programs,
            random.Random(1),
            start=start,
            hang_up=self.hang_up,
            judge=lambda: self.is_good,
            seconds=lambda: self.now,
        )
        return supervisor.run(self)


def test_stop_ends_all_workers() -> None:
    world = SupervisorWorld(lambda world: setattr(world, "requested", True))
    assert world.run("a", "b") == 0
    assert [process.code for process in world.processes] == [-signal.SIGTERM] * 2


def test_worker_that_dies_is_started_again_in_its_environment() -> None:
    def die_once(world: SupervisorWorld) -> None:
        world.processes[0].code = 1
        world.requested = len(world.processes) == 3

    world = SupervisorWorld(die_once)
    assert world.run("a", "b") == 0
    assert [process.program.command for process in world.processes] == ["a", "b", "a"]


def test_worker_that_dies_young_is_started_later_each_time() -> None:
    def die(world: SupervisorWorld) -> None:
        world.processes[-1].code = 1
        world.requested = len(world.processes) == 10

    world = SupervisorWorld(die)
    world.run("a")
    waits = [after - before for before, after in zip(world.started_at, world.started_at[1:], strict=False)]
    assert waits[0] < 2 < waits[3] < waits[-1]
    assert max(waits) < 50


def test_worker_that_lived_long_is_started_again_soon() -> None:
    def live_then_die(world: SupervisorWorld) -> None:
        is_eighth = len(world.processes) == 8
        if not is_eighth or world.now - world.started_at[-1] > 61:
            world.processes[-1].code = 1
        world.requested = len(world.processes) == 9

    world = SupervisorWorld(live_then_die)
    world.run("a")
    assert world.started_at[-1] - world.started_at[-2] < 61 + 2


@pytest.mark.parametrize("code", [LIMIT_EXIT, UNSUPPORTED_EXIT, CONFIGURATION_EXIT])
def test_exit_that_no_restart_mends_ends_all(code: int) -> None:
    world = SupervisorWorld(lambda world: setattr(world.processes[1], "code", code))
    assert world.run("a", "b") == code
    assert len(world.processes) == 2
    assert world.processes[0].code == -signal.SIGTERM


def test_worker_that_had_started_may_be_refused_for_a_while() -> None:
    def refuse_later(world: SupervisorWorld) -> None:
        if world.now > 6:
            world.processes[0].code = CONFIGURATION_EXIT
        world.requested = len(world.processes) == 2

    assert SupervisorWorld(refuse_later).run("a") == 0


def test_worker_that_does_not_stop_is_killed() -> None:
    def hang(world: SupervisorWorld) -> None:
        world.processes[0].ignores_sigterm = world.requested = True

    world = SupervisorWorld(hang)
    world.run("a")
    assert world.processes[0].code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's request is Linux's own")
def test_worker_whose_supervisor_died_first_ends() -> None:
    code = f"from worker.runtime.supervisor import follow_parent; follow_parent({os.getppid()}); input()"
    ended = subprocess.run([sys.executable, "-c", code], input=b"", timeout=60, check=False)
    assert ended.returncode == -signal.SIGTERM


def _ends_after(waits: int) -> Callable[[SupervisorWorld], None]:
    def on_wait(world: SupervisorWorld) -> None:
        world.requested = world.now > waits * 0.2

    return on_wait


def test_hang_up_is_passed_once_to_each_process_whose_loop_turns() -> None:
    world = SupervisorWorld(_ends_after(5), reports=True)
    world.hang_up.request()
    world.run("a", "b")
    assert [process.signals for process in world.processes] == [[signal.SIGHUP]] * 2


@pytest.mark.parametrize(("reports", "is_good"), [(False, True), (True, False)])
def test_hang_up_reaches_no_process_that_starts_and_none_for_what_is_bad(
    *, reports: bool, is_good: bool
) -> None:
    world = SupervisorWorld(_ends_after(5), reports=reports, is_good=is_good)
    world.hang_up.request()
    world.run("a")
    assert world.processes[0].signals == []
