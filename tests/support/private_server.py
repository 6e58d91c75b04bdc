"""Private server processes for the tests and the benchmarks; base of PostgreSQL and RabbitMQ.

Each server runs from installed binaries on free loopback ports, keeps everything in a temporary
folder of its own and dies with the Python process that started it, even one killed with SIGKILL.
Durability is real unless a caller asks for less: ``fsync`` and ``synchronous_commit`` are on. What a
server acknowledged is there again after ``stop`` and ``resume`` in any case.

The choice of servers of a test run, and the installation of missing binaries, is in
:mod:`tests.support.provision`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Literal, Self, TypeVar

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.02
LOG_TAIL_LINES = 30
_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory, not a shared folder for temporary files
_MEMORY_LEAST_BYTES = 4 * 2**30
StopMode = Literal["fast", "immediate"]


class ServerError(Exception):
    """Failure to find, start or stop a server; the text says what to do next."""


@dataclass(frozen=True)
class ServerOwner:
    """System user of a server; None stands for the user who runs Python."""

    user: int | None = None
    group: int | None = None

    @classmethod
    def unprivileged(cls) -> Self:
        """Return the own user, or a system user for root: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise ServerError("PostgreSQL refuses to run as root and there is no user 'postgres'.")

    def own(self, folder: Path) -> None:
        """Give the folder to the owner."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def popen_arguments(self) -> dict[str, Any]:
        """Return the arguments of Popen for the owner."""
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}


_Launch = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


@cache
def _launcher(_process_id: int) -> SimpleQueue[_Launch]:
    """Return the queue of the thread that starts children; it lives as long as the process.

    The kernel sends the parent-death signal when the *thread* that forked ends, so a server
    resumed from a timer thread would otherwise die with the timer.
    """
    requests: SimpleQueue[_Launch] = SimpleQueue()
    threading.Thread(target=_launch_forever, args=(requests,), name="launcher", daemon=True).start()
    return requests


def _launch_forever(requests: SimpleQueue[_Launch]) -> None:
    while True:
        launch, child = requests.get()
        try:
            child.set_result(launch())
        except OSError as error:
            child.set_exception(error)


def spawn(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    owner: ServerOwner,
    death_signal: Literal["QUIT", "KILL"],
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, with its output in the folder's ``output.log``.

    The session keeps a terminal's Ctrl-C away from the server: the tests stop it in order.
    """
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", death_signal] if setpriv else []

    def launch() -> subprocess.Popen[bytes]:
        with (folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [*prefix, *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **owner.popen_arguments(),
            )

    child: Future[subprocess.Popen[bytes]] = Future()
    _launcher(os.getpid()).put((launch, child))
    return child.result()


def base_environment(folder: Path) -> dict[str, str]:
    """Return an environment with PATH alone: PG…, RABBITMQ_… and ERL_… settings stay out."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "TZ": "UTC"}


_taken_ports: set[int] = set()


def memory_folder() -> Path | None:
    """Return a folder in memory for servers that need not outlive the machine; None without enough room."""
    is_roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_LEAST_BYTES
    return _MEMORY if is_roomy else None


def free_port() -> int:
    """Return a free loopback port, each only once in one process.

    It lies below the ephemeral range: while a server is stopped, a client that keeps trying an
    ephemeral port can connect to itself and hold the port against the server's return.
    """
    while True:
        port = random.randint(12_000, 31_999)
        if port not in _taken_ports and _can_bind(port):
            _taken_ports.add(port)
            return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _children(process_id: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process_id:
                yield int(status.parent.name)


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join([f"--- {log.name}", *lines])


class PrivateServer(ABC):
    """Server process with a folder of its own; base of PostgreSQL and RabbitMQ.

    Also a context manager that closes it. Servers still open at the end of Python are closed.
    """

    name: ClassVar[str]
    _stop_signals: ClassVar[Mapping[StopMode, signal.Signals]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._made_in = os.getpid()
        # A fault test stops a server from a timer while its fixture closes it.
        self._lock = threading.RLock()
        atexit.register(self._close_at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """True while the server's process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        """The process id of the server; raises ServerError when it is stopped."""
        return self._alive().pid

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data; a stopped server stays stopped.

        ``fast`` disconnects clients and shuts down in order, ``immediate`` is a crash. Raises
        ServerError when it is still there after STOP_TIMEOUT_S seconds; it is killed then.
        """
        with self._lock:
            if self._process is not None:
                self.unpause()
                self._process.send_signal(self._stop_signals[mode])
            self._reap()

    def resume(self) -> None:
        """Start a stopped server again, with the same ports and data.

        Raises ServerError, with the end of its log, when it is not ready after START_TIMEOUT_S
        seconds, and at once when it exits or runs already.
        """
        with self._lock:
            if self.running:
                raise ServerError(f"{self.name} runs already: stop it before resuming it.")
            try:
                self._process = self._launch()
                self._wait_until_ready()
            except BaseException:
                self._kill()
                raise

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and resume."""
        self.stop(mode)
        self.resume()

    def pause(self) -> None:
        """Freeze the server and its children (SIGSTOP): connections stay open and hang."""
        process = self._alive()
        process.send_signal(signal.SIGSTOP)
        self._signal_children(process.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        """Resume a frozen server (SIGCONT); harmless on any other."""
        if self._process is not None:
            self._signal_children(self._process.pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server for good and remove its folder; harmless when repeated."""
        atexit.unregister(self._close_at_exit)
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process on the data in the folder."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return True if a real client gets an answer."""

    @abstractmethod
    def _logs(self) -> Sequence[Path]:
        """Files whose ends explain a failed start."""

    def _close_at_exit(self) -> None:
        # A forked child inherits the registration, but not the server.
        if os.getpid() == self._made_in:
            self.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.name} is not running.")
        return self._process

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not stop within {STOP_TIMEOUT_S:.0f} s") from None
        finally:
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _signal_children(self, process_id: int, number: signal.Signals) -> None:
        for child in _children(process_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not self.running:
                raise self._failure("exited while starting")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_INTERVAL_S)

    def _failure(self, what: str) -> ServerError:
        tails = [_tail(log) for log in self._logs()]
        return ServerError("\n".join([f"{self.name} {what}.", *filter(None, tails)]))


_Server = TypeVar("_Server", bound=PrivateServer)


def started(server: _Server, prepare: Callable[[], None]) -> _Server:
    """Prepare and start a server; close it where that fails."""
    try:
        prepare()
        server.resume()
    except BaseException:
        server.close()
        raise
    return server
