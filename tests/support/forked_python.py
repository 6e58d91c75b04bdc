"""Python programs of the tests, forked from a process that has imported the worker.

A start of ``python -m worker`` spends half a second of processor time on imports, and the tests start
hundreds. Such a program is a process of its own in every other way: it has its own environment, files and
signals, its parent is the test's process, and it can be killed. Tests of the start itself use ``subprocess``.
"""

import ctypes
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]
_REQUEST_MAX = 1 << 20
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # of prctl

_libc = ctypes.CDLL(None)


class ForkedPython(subprocess.Popen[bytes]):
    """``python -m module arguments`` as a forked process; it ends with the process that started it."""

    def __init__(self, module: str, *arguments: str, in_session: bool = False, **options: Any) -> None:
        self._asked = {"module": module, "arguments": arguments, "in_session": in_session}
        super().__init__([sys.executable, "-m", module, *arguments], **options)

    def _execute_child(self, *given: Any) -> None:
        """Start the program: Popen has prepared its pipes, and waits for a child with our process id."""
        cwd, env, pipes = given[5], given[6], given[10:16]
        stdin, stdout, stderr = (
            end if end != -1 else number for number, end in enumerate((pipes[0], pipes[3], pipes[5]))
        )
        place = {"cwd": os.fspath(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
        self.pid = _fork(self._asked | place, [stdin, stdout, stderr])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run_python(
    module: str, *arguments: str, stdin: bytes | None = None, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, and return its code and output, as ``subprocess.run`` does."""
    options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ForkedPython(module, *arguments, **options) as process:
        try:
            out, err = process.communicate(stdin or b"", timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _fork(request: dict[str, Any], files: Sequence[int]) -> int:
    """Have the server fork a program; return its process id, that of a child of ours."""
    server = _server()
    _libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)  # until the program, an orphan, has become our child
    try:
        socket.send_fds(server, [json.dumps(request).encode()], list(files))
        answer = server.recv(100)
    finally:
        _libc.prctl(_SET_SUBREAPER, 0, 0, 0, 0)
    if not answer:
        raise RuntimeError("the process that forks the tests' programs has ended; its errors are above")
    return int(answer)


@cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
    theirs.close()
    _servers.append(server)
    return ours


_servers: list[subprocess.Popen[bytes]] = []


def _serve(requests: socket.socket) -> dict[str, Any]:
    """Fork a program for each request. Return the request in the program alone."""
    while True:
        text, files, _, _ = socket.recv_fds(requests, _REQUEST_MAX, 3)
        if not text:
            os._exit(0)
        receiving, sending = os.pipe()
        between = os.fork()
        if between == 0:
            parent = os.getpid()
            program = os.fork()
            if program:
                os.write(sending, str(program).encode())
                os._exit(0)
            while os.getppid() == parent:  # the parent of a program is the test's process
                time.sleep(0.0005)
            for other in (receiving, sending, requests.detach()):
                os.close(other)
            request: dict[str, Any] = json.loads(text) | {"files": files}
            return request
        os.waitpid(between, 0)  # the program is an orphan from here on, and the test's process takes it
        requests.send(os.read(receiving, 100))
        for file in (receiving, sending, *files):
            os.close(file)


def _become(request: dict[str, Any]) -> None:
    """Take the place of a program that was started anew."""
    _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    if request["in_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [request["module"], *request["arguments"]]
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open for good
    sys.stdout = _stream(1, is_line_wise=os.isatty(1) or is_unbuffered)
    sys.stderr = _stream(2, is_line_wise=True)
    time.tzset()


def _stream(file: int, *, is_line_wise: bool) -> TextIO:
    return open(file, "w", buffering=1 if is_line_wise else -1, encoding="utf-8", closefd=False)


def _import_all() -> None:
    """Import what the commands import when they are called."""
    import gc

    import psycopg2  # noqa: F401

    import worker.bootstrap
    import worker.checks
    import worker.cli.application
    import worker.cli.run
    import worker.cli.serve
    import worker.console.server
    import worker.http.server
    import worker.processes  # noqa: F401

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_all()
    _request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(_request)
    runpy.run_module(_request["module"], run_name="__main__", alter_sys=True)
