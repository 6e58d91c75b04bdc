"""Processes of the command line that start and end during a test, each with a log file."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.forked_python import ForkedPython
from tests.support.processes import STOP_S, worker_environment
from tests.support.waiting import eventually
from worker.settings import Settings

_LEVEL = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) ", re.MULTILINE)


class Member:
    """One process, its arguments and its log."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], path: Path) -> None:
        self.arguments = arguments
        self.was_ended = False  #: True once the test has ended it, or has noted that it ended by itself
        self._path = path
        with path.open("wb") as log, path.with_suffix(".out").open("wb") as out:
            self.process = ForkedPython(
                *("worker", *arguments),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    @property
    def log(self) -> str:
        """Log so far."""
        return self._path.read_text(errors="replace")

    @property
    def warnings(self) -> list[str]:
        """Lines of the log of level WARNING and above."""
        return [line for line in self.log.splitlines() if _LEVEL.match(line)]

    @property
    def outages(self) -> list[str]:
        """Warnings about a server, without those about malformed messages and rejected payments."""
        aside = (" × ", "rejected the payment")
        return [line for line in self.warnings if not any(text in line for text in aside)]

    @property
    def output(self) -> str:
        """Output so far."""
        return self._path.with_suffix(".out").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """True while the process runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process with SIGKILL; harmless after its end."""
        self.was_ended = True
        self.process.kill()
        self.process.wait()

    def stop(self, patience_s: float = STOP_S) -> int:
        """End the process with SIGTERM once it takes signals; return its exit code. Raises TimeoutExpired."""
        self.was_ended = True
        eventually(self._takes_signals, what="it takes signals")
        self.process.terminate()
        return self.process.wait(patience_s)

    def _takes_signals(self) -> bool:
        """Return True once the process handles SIGTERM, or has ended."""
        if not self.is_running:
            return True
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        caught = next(line.partition(":")[2] for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


class ProcessGroup:
    """Processes with the same settings and, beside them, ``variables`` in their environment."""

    def __init__(self, settings: Settings, folder: Path, variables: dict[str, str] | None = None) -> None:
        self._environment = {**worker_environment(settings), **(variables or {})}
        self._folder = folder
        self.members: list[Member] = []

    def start(self, *arguments: str) -> Member:
        """Start ``billing-worker`` with ``arguments``."""
        path = self._folder / f"{os.getpid()}-{id(self)}-{len(self.members)}.log"
        member = Member(arguments, self._environment, path)
        self.members.append(member)
        return member

    def running(self, command: str = "run") -> list[Member]:
        """Return the running processes of one command."""
        return [each for each in self.members if each.arguments[0] == command and each.is_running]

    def stop(self) -> list[int]:
        """End the running processes with SIGTERM, all at once; return the exit codes."""
        running = [member for member in self.members if member.is_running]
        for member in running:
            eventually(member._takes_signals, what="it takes signals")
            member.process.terminate()
        return [member.process.wait(STOP_S) for member in running]

    @property
    def log(self) -> str:
        """Logs of all processes, in order of their start."""
        return "".join(member.log for member in self.members)


@contextmanager
def process_group(
    settings: Settings, folder: Path, variables: dict[str, str] | None = None
) -> Iterator[ProcessGroup]:
    """Yield a group of processes; none outlives the block."""
    members = ProcessGroup(settings, folder, variables)
    try:
        yield members
    finally:
        for member in members.members:
            member.kill()
