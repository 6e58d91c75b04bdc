"""Python programs of the tests, forked from a process that has imported the worker.

A start of ``python -m worker`` spends half a second of processor time on imports, and the tests start
hundreds. Such a program is a process of its own in every other way: it has its own environment, files and
signals, its parent is the test's process, and it can be killed. The programs of a supervisor, and of one
that ``forks``, are forked in turn. Tests of the start itself use ``subprocess``.
"""

import ctypes
import gc
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]
_REQUEST_MAX = 1 << 20
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # of prctl

_libc = ctypes.CDLL(None)
_Popen = subprocess.Popen  # which a test may have replaced by ``Forking``


class ForkedPython(subprocess.Popen[bytes]):
    """``python -m module arguments`` as a forked process; it ends with the process that started it."""

    def __init__(self, module: str, *arguments: str, forks: bool = False, **options: Any) -> None:
        self._forks = forks
        super().__init__([sys.executable, "-m", module, *arguments], **options)

    def _execute_child(self, *given: Any) -> None:
        """Start the program: Popen has prepared its pipes, and waits for a child with our process id."""
        _start(self, given, partial(_fork, _server(), forks=self._forks))


class Forking(subprocess.Popen[Any]):
    """Process of any command: forked, if it is ``python -m module``; to stand for ``subprocess.Popen``."""

    def _execute_child(self, *given: Any) -> None:
        if given[0][:2] == [sys.executable, "-m"]:
            _start(self, given, partial(_fork, _server()))
        else:
            super()._execute_child(*given)  # type: ignore[misc]


class _ForkedAgain(subprocess.Popen[Any]):
    """Process that a forked program starts: forked too, if it is a Python program.

    A supervisor, which has nothing open, is forked itself. A program that ``forks`` has a process for that,
    forked at its start: a fork of one that has an SQLite file open could not use that file.
    """

    def _execute_child(self, *given: Any) -> None:
        is_python = given[0][:2] == [sys.executable, "-m"]
        if is_python and _own_servers:
            _start(self, given, partial(_fork, _own_servers[0]))
        elif is_python and given[-1] == 0:
            _start(self, given, _fork_here)
        else:
            super()._execute_child(*given)  # type: ignore[misc]


def _start(process: subprocess.Popen[Any], given: Sequence[Any], fork: Callable[..., int]) -> None:
    (_, _, module, *arguments), cwd, env, pipes = given[0], given[5], given[6], given[10:16]
    place = {"cwd": os.fspath(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
    group = {"in_session": given[-2], "process_group": given[-1], "kept": list(given[4])}
    files = [end if end != -1 else number for number, end in enumerate((pipes[0], pipes[3], pipes[5]))]
    process.pid = fork({"module": module, "arguments": arguments} | place | group, files)
    process._child_created = True  # type: ignore[attr-defined]
    process._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


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


def _fork(
    server: socket.socket, request: dict[str, Any], files: Sequence[int], *, forks: bool = False
) -> int:
    """Have the server fork a program; return its process id, that of a child of ours."""
    _libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)  # until the program, an orphan, has become our child
    try:
        socket.send_fds(server, [json.dumps(request | {"forks": forks}).encode()], list(files))
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
    server = _Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
    theirs.close()
    _servers.append(server)
    return ours


_servers: list[subprocess.Popen[bytes]] = []
_own_servers: list[socket.socket] = []


def _with_server(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a process that forks our programs; return what this process, ours or one of those, has to run."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        asked = _serve(theirs)
        _become(asked)
        return asked
    theirs.close()
    _own_servers.append(ours)
    return request


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
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    if request["in_session"]:
        os.setsid()
    if request["process_group"] >= 0:
        os.setpgid(0, request["process_group"])
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
    subprocess.Popen = _ForkedAgain  # type: ignore[misc]


def _fork_here(request: dict[str, Any], files: Sequence[int]) -> int:
    """Fork a program from this one, wherever that stands: the new one never returns there."""
    sys.stdout.flush()
    sys.stderr.flush()
    program = os.fork()
    if program == 0:
        code = 1
        try:
            code = _run_here(request, files)
        finally:
            os._exit(code)  # what the other program has open is not ours to end
    return program


def _run_here(request: dict[str, Any], files: Sequence[int]) -> int:
    """Run a program in the copy of another one. Return its exit code."""
    gc.freeze()  # connections of the other program are not ours to close
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for handled in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(handled, signal.SIG_DFL)
    _become(request | {"files": [os.dup(file) for file in files]})
    _close_all_but(request["kept"])
    code: Any = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _close_all_but(kept: Sequence[int]) -> None:
    """Close all files but the standard streams and those that are passed on."""
    first = 3
    for file in sorted(kept):
        os.closerange(first, file)
        first = file + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _stream(file: int, *, is_line_wise: bool) -> TextIO:
    return open(file, "w", buffering=1 if is_line_wise else -1, encoding="utf-8", closefd=False)


def _import_all() -> None:
    """Import what the commands import when they are called."""
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
    _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    _become(_request)
    if _request["forks"]:
        _request = _with_server(_request)
    runpy.run_module(_request["module"], run_name="__main__", alter_sys=True)
