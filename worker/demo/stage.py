"""The processes of a demo: a worker and a producer, as an operator would start them, and the reply reader."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import worker
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Link
from worker.demo.producer import line_for
from worker.demo.script import DemoMessage
from worker.demo.tally import Tally
from worker.errors import BillingError, BrokerUnavailableError
from worker.ledger.migrations import migrate
from worker.settings import Settings, environment_of

_PATIENCE_S = 60.0
_STOP_S = 30.0
_LOG_LINES = 15


class DemoError(BillingError):
    """A process of the demo ended too early; ``log`` is the end of its log."""

    def __init__(self, name: str, code: int | None, log: str) -> None:
        super().__init__(f"the {name} ended with {code}")
        self.log = log


@dataclass(slots=True)
class Process:
    """One process of the demo, its log in a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raise DemoError with the end of the log, where it has ended."""
        code = self.popen.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()
            raise DemoError(self.name, code, "\n".join(lines[-_LOG_LINES:]))

    def interrupt(self) -> None:
        """Stop a producer at once; leave a worker to finish its batch."""
        if self.popen.stdin is not None:
            self.popen.kill()

    def end(self) -> None:
        """Close its input or, where it has none, ask it to stop; wait until it has ended."""
        if self.popen.stdin is not None:
            with suppress(OSError):
                self.popen.stdin.close()
        else:
            self.popen.terminate()
        try:
            self.popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def started(name: str, arguments: list[str], settings: Settings, folder: Path) -> Iterator[Process]:
    """Start a Python process with these settings; it does not outlive the block.

    It has a session of its own: Ctrl-C on a terminal is for the demo, which ends the others in order. It runs
    in the demo's folder: a `.env` file where the demo was called has no effect here.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *arguments],
            env={**os.environ, **environment_of(settings), "PYTHONPATH": _import_path()},
            cwd=folder,
            stdin=subprocess.PIPE if name == "producer" else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(name, popen, log)
    try:
        yield process
    except BaseException:
        process.interrupt()
        raise
    finally:
        process.end()


def _import_path() -> str:
    """Return the Python path: this program's own folder before those of the environment."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.pathsep.join([str(Path(worker.__file__).parents[1]), *map(os.path.abspath, given)])


class Stage:
    """Plays acts: hands them to the producer, and reads replies until everything is answered."""

    def __init__(self, worker: Process, producer: Process, heard: Link, queues: "DemoQueues") -> None:
        self._worker, self._producer, self._heard, self._queues = worker, producer, heard, queues
        self._answers: list[float] = []

    def seconds(self) -> float:
        """Return the seconds from the first answer to the last."""
        return self._answers[-1] - self._answers[0] if self._answers else 0.0

    def exit_codes(self) -> dict[str, int | None]:
        """Return the exit codes by name; None while a process runs."""
        return {process.name: process.popen.returncode for process in (self._worker, self._producer)}

    def wait_until(self, moment: datetime, tally: Tally, look: Callable[[], None]) -> None:
        """Let time pass, and read replies meanwhile."""
        while utc_now() <= moment:
            self._listen(tally, look)

    def play(self, messages: dict[str, DemoMessage], tally: Tally, look: Callable[[], None]) -> None:
        """Send ``messages`` and wait for their answers.

        Ends without those that don't come for a minute in which nothing else comes either.
        """
        self._send(messages)
        heard = monotonic()
        while not messages.keys() <= tally.replies.keys():
            if self._listen(tally, look):
                heard = monotonic()
            elif monotonic() - heard > _PATIENCE_S:
                return
            else:
                self._worker.require_alive()
                self._producer.require_alive()

    def end(self, tally: Tally) -> None:
        """End the processes in order, and read their last messages: notices go out after the replies."""
        self._producer.end()
        self._worker.end()
        while self._listen(tally, lambda: None):
            pass

    def _listen(self, tally: Tally, look: Callable[[], None]) -> bool:
        """Read once; returns True where anything has come."""
        deliveries = self._heard.receive(100, 0.2)
        replies = [delivery for delivery in deliveries if delivery.queue == self._queues.replies]
        tally.take(replies)
        tally.hear(delivery for delivery in deliveries if delivery.queue == self._queues.notices)
        self._heard.acknowledge(deliveries)
        self._heard.keep_alive()
        look()
        if replies:
            self._answers = [*self._answers[:1], monotonic()]
        return bool(deliveries)

    def _send(self, messages: dict[str, DemoMessage]) -> None:
        pipe = self._producer.popen.stdin
        assert pipe is not None  # noqa: S101 - it was started with one
        try:
            pipe.write(line_for(list(messages.items()), self._queues.replies))
            pipe.flush()
        except BrokenPipeError:
            self._producer.popen.wait(_STOP_S)
            self._producer.require_alive()


class DemoQueues(NamedTuple):
    """Queues that a demo reads: the replies to its messages, and every notice."""

    replies: str
    notices: str


@contextmanager
def stage(application: Application, folder: Path, queues: DemoQueues) -> Iterator[Stage]:
    """A migrated ledger, a declared topology, a worker and a producer; all ended with the block."""
    settings = application.settings
    migrate(application.engine)
    # `--supervised`: the kernel ends the worker with the demo, even with one that is killed.
    run_worker = ["-m", "worker", "run", "--supervised", str(os.getpid())]
    with (
        _listening_link(application, queues) as heard,
        started("worker", run_worker, settings, folder) as worker,
        started("producer", ["-m", "worker.demo.producer"], settings, folder) as producer,
    ):
        yield Stage(worker, producer, heard, queues)


@contextmanager
def _listening_link(application: Application, queues: DemoQueues) -> Iterator[Link]:
    link = application.link()
    try:
        link.declare(BILLING)
        link.declare_temporary(queues.replies)
        link.listen(queues.notices)
    finally:
        link.close()
    link = application.link(consume=list(queues))
    try:
        yield link
    finally:
        with suppress(BrokerUnavailableError):
            for queue in queues:
                link.delete(queue)
        link.close()


def correlated(run: str, acts: Iterable[Iterable[DemoMessage]]) -> list[dict[str, DemoMessage]]:
    """Return each message of each act under a correlation id of its own."""
    number = iter(range(1, sys.maxsize))
    return [{f"{run}-{next(number):06}": message for message in act} for act in acts]
