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
from dataclasses import dataclass
from time import monotonic

from worker.runtime.backoff import Backoff
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


Start = Callable[[Program], "subprocess.Popen[bytes]"]


@dataclass(slots=True)
class _Child:
    program: Program
    backoff: Backoff
    process: subprocess.Popen[bytes]
    started: float
    restart_at: float | None = None
    has_started: bool = False


def start_program(program: Program) -> "subprocess.Popen[bytes]":
    """Start one supervised ``program``."""
    supervised = ("--supervised", str(os.getpid()))
    command = [sys.executable, "-m", "worker", program.command, *program.options, *supervised]
    # In a group of its own: a Ctrl-C reaches the supervisor alone, and the others once, as SIGTERM from it.
    return subprocess.Popen(command, env={**os.environ, **program.environment}, process_group=0)  # noqa: S603 - our own program


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
    """Keeps each of the ``programs`` running; ``start`` starts one."""

    def __init__(
        self,
        programs: Sequence[Program],
        rng: random.Random,
        *,
        start: Start = start_program,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._programs, self._rng, self._start, self._seconds = programs, rng, start, seconds

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
                stop.wait(_CHECK_EVERY_S)
            return 0
        finally:
            self._stop_all(children)

    def _child(self, program: Program) -> _Child:
        backoff = Backoff(_RESTART_FIRST_S, _RESTART_MOST_S, self._rng)
        return _Child(program, backoff, self._start(program), self._seconds())

    def _check(self, child: _Child) -> int | None:
        """Return the exit code of a worker that died; restart it when its time comes. None: it runs."""
        now, code = self._seconds(), child.process.poll()
        if code is None:
            child.has_started |= now - child.started > _STARTED_S
        elif child.restart_at is None:
            self._plan_restart(child, code, now)
        elif now >= child.restart_at:
            child.process, child.started, child.restart_at = self._start(child.program), now, None
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
            log.error("process %d ended with %d; starting another in %.1f s", child.process.pid, code, wait_s)

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
