"""Several processes under one parent: started, restarted when they die, stopped together."""

import ctypes
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

from worker.runtime import log_fields
from worker.runtime.backoff import Backoff
from worker.runtime.child_report import ChildReport
from worker.runtime.hang_up import HangUp
from worker.runtime.log_fields import LogEvent
from worker.runtime.process_health import LIVE_S
from worker.runtime.service_manager import ServiceManager, ServiceReport
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Exit code of a worker that is configured wrongly; a restart won't help.
CONFIGURATION_EXIT = 2
#: Exit code of a worker that passed a limit of faults (``--on-limit exit``); another one would do so too.
LIMIT_EXIT = 5
#: Exit code of a worker whose database does not support a statement; it won't for another worker.
UNSUPPORTED_EXIT = 6
_STOP_GRACE_S = 30.0
_RESTART_FIRST_S, _RESTART_MOST_S = 0.5, 30.0
_CHECK_EVERY_S = 0.2
#: Life of a worker after which its next restart is quick again.
_STEADY_S = 60.0
#: Life of a worker after which its configuration counts as right.
_STARTED_S = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """Program to keep running: our command with its options, and variables beside those of the parent."""

    command: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    report: int | None = None  #: the end of a pipe into which it reports the turns of its loop


Start = Callable[[Program], "subprocess.Popen[bytes]"]


@dataclass(slots=True)
class _Child:
    program: Program
    backoff: Backoff
    process: subprocess.Popen[bytes]
    report: ChildReport
    started: float
    restart_at: float | None = None
    has_started: bool = False
    must_hang_up: bool = False


def start_program(program: Program) -> "subprocess.Popen[bytes]":
    """Start one supervised ``program``."""
    supervised: tuple[str, ...] = ("--supervised", str(os.getpid()))
    passed = () if program.report is None else (program.report,)
    if program.report is not None:
        supervised += ("--report", str(program.report))
    command = [sys.executable, "-m", "worker", program.command, *program.options, *supervised]
    # In a group of its own: a Ctrl-C reaches the supervisor alone, and the others once, as SIGTERM from it.
    environment = {**os.environ, **program.environment}
    return subprocess.Popen(command, env=environment, process_group=0, pass_fds=passed)  # noqa: S603 - our own program


def follow_parent(parent: int) -> None:
    """Ask the kernel to end this process with its supervisor, even one killed with SIGKILL (Linux).

    ``parent`` is the supervisor's process id.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Keeps each of the ``programs`` running; ``start`` starts one.

    ``service`` is told how they are; a program whose loop has not turned for ``live_s`` hangs. They get a
    SIGHUP for each of ``hang_up``, where ``judge`` finds what they would read good.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        rng: random.Random,
        *,
        start: Start = start_program,
        service: ServiceManager | None = None,
        live_s: float = LIVE_S,
        hang_up: HangUp | None = None,
        judge: Callable[[], bool] = lambda: True,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._programs, self._rng, self._start, self._seconds = programs, rng, start, seconds
        self._service = ServiceReport(service or ServiceManager(), seconds=seconds)
        self._live_s, self._hang_up, self._judge = live_s, hang_up or HangUp(), judge

    def run(self, stop: Stop) -> int:
        """Run until ``stop``. Return the exit code: 0, or that of a worker that no restart can mend.

        A limit that one passes stops the others too, and so does a statement that the database does not
        support: they run the same program on the same messages.
        """
        children = [self._child(program) for program in self._programs]
        try:
            while not stop.requested:
                for child in children:
                    code = self._check(child)
                    if code in {LIMIT_EXIT, UNSUPPORTED_EXIT}:
                        log.critical("process %d stopped for good: stopping all", child.process.pid)
                        return code
                    # Later it may be a passing refusal of a server that starts up: then it is restarted.
                    if code == CONFIGURATION_EXIT and not child.has_started:
                        return code
                self._pass_hang_up(children)
                self._report(children)
                stop.wait(_CHECK_EVERY_S)
            return 0
        finally:
            self._service.stopping()
            self._stop_all(children)

    def _child(self, program: Program) -> _Child:
        backoff = Backoff(_RESTART_FIRST_S, _RESTART_MOST_S, self._rng)
        return _Child(program, backoff, *self._started(program), self._seconds())

    def _started(self, program: Program) -> "tuple[subprocess.Popen[bytes], ChildReport]":
        """Start ``program``; return it, with the pipe of its reports."""
        report = ChildReport(self._seconds())
        try:
            return self._start(replace(program, report=report.writing)), report
        finally:
            report.close_writing()

    def _pass_hang_up(self, children: list[_Child]) -> None:
        """Pass a SIGHUP on; a child that starts gets it once its loop turns, when it can take it."""
        if self._hang_up.take() and self._judge():
            for child in children:
                child.must_hang_up = True
        for child in children:
            if child.must_hang_up and child.report.has_come and child.process.poll() is None:
                child.must_hang_up = False
                child.process.send_signal(signal.SIGHUP)

    def _report(self, children: list[_Child]) -> None:
        """Report to the service manager how the children are."""
        now = self._seconds()
        for child in children:
            child.report.read(now)
        hanging = [child for child in children if not self._is_live(child, now)]
        working = sum(child.report.works and child.restart_at is None for child in children)
        obstacles = [f"{child.program.command} {child.process.pid} hangs" for child in hanging]
        if working < len(children):
            obstacles.insert(0, f"{working} of {len(children)} processes work")
        self._service.update(obstacles, is_live=not hanging)

    def _is_live(self, child: _Child, now: float) -> bool:
        """Return True for a child whose loop turns, and for one that is started again soon."""
        return child.restart_at is not None or child.report.is_live(now, self._live_s)

    def _check(self, child: _Child) -> int | None:
        """Return the exit code of a worker that died; restart it when its time comes. None: it runs."""
        now, code = self._seconds(), child.process.poll()
        if code is None:
            child.has_started |= now - child.started > _STARTED_S
        elif child.restart_at is None:
            self._plan_restart(child, code, now)
        elif now >= child.restart_at:
            child.report.close()
            child.process, child.report = self._started(child.program)
            child.started, child.restart_at, child.must_hang_up = now, None, False
            return None
        return code

    @staticmethod
    def _plan_restart(child: _Child, code: int, now: float) -> None:
        """Plan the restart of a worker that died: later each time it dies young."""
        if now - child.started > _STEADY_S:
            child.backoff.reset()
        wait_s = child.backoff.next()
        child.restart_at = now + wait_s
        if code not in {LIMIT_EXIT, UNSUPPORTED_EXIT, CONFIGURATION_EXIT}:
            log.error(
                "process %d ended with %d; starting another in %.1f s",
                child.process.pid,
                code,
                wait_s,
                extra=log_fields.fields(LogEvent.PROCESS_ENDED, code=str(code)),
            )

    def _stop_all(self, children: list[_Child]) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                child.process.terminate()
        deadline = self._seconds() + _STOP_GRACE_S
        for child in children:
            try:
                child.process.wait(max(deadline - self._seconds(), 0.1))
            except subprocess.TimeoutExpired:
                log.error("process %d does not stop; killing it", child.process.pid)  # noqa: TRY400 - no fault of ours
                child.process.kill()
                child.process.wait()
            child.report.close()
