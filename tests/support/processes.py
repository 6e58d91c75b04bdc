"""Worker processes, started as an operator starts them."""

import os
import subprocess
from types import TracebackType
from typing import Self

from tests.support.forked_python import ROOT as ROOT
from tests.support.forked_python import ForkedPython, run_python
from worker.settings import Settings, environment_of

STOP_S = 30.0


def worker_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a process with these settings."""
    return {**os.environ, **environment_of(settings), "PYTHONPATH": str(ROOT)}


def run_cli(
    settings: Settings, *arguments: str, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end, for at most a minute."""
    return run_python("worker", *arguments, stdin=stdin, env=worker_environment(settings))


class WorkerProcesses:
    """Worker processes with the same settings; none outlives the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def start(
        self, *arguments: str, module: str = "worker", command: str = "run", **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m worker run`` (or another command, or module); its log is piped."""
        process = ForkedPython(
            module,
            *((command,) if module == "worker" else ()),
            *arguments,
            env={**worker_environment(self._settings), **variables},
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Send SIGTERM; return the exit code and the log."""
        process.terminate()
        _, log = process.communicate(timeout=STOP_S)
        return process.returncode, log.decode()
