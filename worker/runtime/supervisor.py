"""Several worker processes under one parent: started, restarted when they die, stopped together."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Exit code of a worker that is configured wrongly; a restart won't help.
CONFIGURATION_EXIT = 2
#: Exit code of a worker that passed a limit of faults (``--on-limit exit``); another one would do so too.
LIMIT_EXIT = 5
_STOP_GRACE_S = 30.0
_RESTART_FIRST_S, _RESTART_MOST_S = 0.5, 30.0
_STEADY_S = 60.0
_SETTLED_S = 5.0


@dataclass(slots=True)
class _Child:
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    started: float
    wait_s: float = _RESTART_FIRST_S
    restart_at: float | None = field(default=None)
    has_settled: bool = False


def supervise(environments: Sequence[Mapping[str, str]], stop: Stop) -> int:
    """Run a worker in each of ``environments`` until ``stop``.

    Returns the exit code: 0, or the one of a worker that no restart can mend. A limit that one passes stops
    the others too: they run the same program on the same messages.
    """
    children = [_start(environment) for environment in environments]
    try:
        while not stop.requested:
            for child in children:
                code = _look_after(child)
                if code == LIMIT_EXIT:
                    log.critical("worker %d stopped at a limit: stopping all", child.process.pid)
                    return code
                # Later it may be a passing refusal of a server that starts up: then it is restarted.
                if code == CONFIGURATION_EXIT and not child.has_settled:
                    return code
            stop.wait(0.2)
        return 0
    finally:
        _stop_all(children)


def follow_parent(parent: int) -> None:
    """Ask the kernel to end this worker with its supervisor, even one killed with SIGKILL (Linux).

    ``parent`` is the supervisor's process id.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def _start(environment: Mapping[str, str]) -> _Child:
    command = [sys.executable, "-m", "worker", "run", "--workers", "1", "--supervised", str(os.getpid())]
    # In a group of its own: a Ctrl-C reaches the supervisor alone, and the workers once, as SIGTERM from it.
    process = subprocess.Popen(command, env={**os.environ, **environment}, process_group=0)  # noqa: S603 - our own program
    return _Child(environment, process, started=time.monotonic())


def _look_after(child: _Child) -> int | None:
    """Restart a worker that died, later each time it dies young."""
    now = time.monotonic()
    code = child.process.poll()
    if code is None:
        child.has_settled |= now - child.started > _SETTLED_S
        return None
    if code == LIMIT_EXIT:
        return code
    if child.restart_at is None:
        lived_s = now - child.started
        child.wait_s = _RESTART_FIRST_S if lived_s > _STEADY_S else min(child.wait_s * 2, _RESTART_MOST_S)
        child.restart_at = now + child.wait_s
        if code != CONFIGURATION_EXIT:
            log.error(
                "worker %d ended with %d; starting another in %.1f s", child.process.pid, code, child.wait_s
            )
    elif now >= child.restart_at:
        fresh = _start(child.environment)
        child.process, child.started, child.restart_at = fresh.process, fresh.started, None
    return code


def _stop_all(children: list[_Child]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            child.process.terminate()
    deadline = time.monotonic() + _STOP_GRACE_S
    for child in children:
        try:
            child.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            log.error("worker %d does not stop; killing it", child.process.pid)  # noqa: TRY400 - no fault of ours
            child.process.kill()
            child.process.wait()
