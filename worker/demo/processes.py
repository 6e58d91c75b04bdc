"""Processes of a demo, started as an operator would start them, each with a log file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import worker
from worker.errors import DemoError
from worker.settings import Settings, environment_of

STOP_S = 30.0
_LOG_LINES = 15


@dataclass(slots=True)
class DemoProcess:
    """One process of the demo, its log in a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raise DemoError with the end of the log where the process has ended."""
        code = self.popen.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()
            raise DemoError(self.name, code, "\n".join(lines[-_LOG_LINES:]))

    def abort(self) -> None:
        """Kill a producer; let a worker finish its batch."""
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
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def started_worker(settings: Settings, folder: Path) -> Iterator[DemoProcess]:
    """Start `billing-worker run`, for the block."""
    # `--supervised`: the kernel ends the worker with the demo, even with one that is killed.
    arguments = ["-m", "worker", "run", "--supervised", str(os.getpid())]
    with _started("worker", arguments, settings, folder, stdin=subprocess.DEVNULL) as process:
        yield process


@contextmanager
def started_producer(settings: Settings, folder: Path) -> Iterator[DemoProcess]:
    """Start a producer that reads its messages from standard input, for the block."""
    arguments = ["-m", "worker.demo.producer"]
    with _started("producer", arguments, settings, folder, stdin=subprocess.PIPE) as process:
        yield process


@contextmanager
def _started(
    name: str, arguments: list[str], settings: Settings, folder: Path, *, stdin: int
) -> Iterator[DemoProcess]:
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
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = DemoProcess(name, popen, log)
    try:
        yield process
    except BaseException:
        process.abort()
        raise
    finally:
        process.end()


def _import_path() -> str:
    """Return the Python path: this program's own folder before those of the environment."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.pathsep.join([str(Path(worker.__file__).parents[1]), *map(os.path.abspath, given)])
