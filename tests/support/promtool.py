"""promtool, which checks and tests Prometheus' rules: the machine's, else the one of Debian's package.

The package would also start a server that nobody needs here: only the program is taken out of it, and kept in
the user's cache.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.private_server import ServerError

PROMTOOL = "BILLING_TEST_PROMTOOL"
_TIMEOUT_S = 300.0


def promtool(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the program that BILLING_TEST_PROMTOOL names, else the installed or the kept one.

    Raises ServerError, with the way out, where there is none.
    """
    named = environment.get(PROMTOOL)
    candidates = [named] if named else ["promtool", str(_kept(environment))]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        raise ServerError(
            "The tests need promtool. Run `python -m tests.support.provision`, install Debian's prometheus, "
            f"or name the program: export {PROMTOOL}=/usr/bin/promtool"
        )
    return Path(found)


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Take promtool out of Debian's package, unless there is one. Raises ServerError."""
    try:
        promtool(environment)
    except ServerError as missing:
        if environment.get(PROMTOOL) or not shutil.which("apt-get"):
            raise
        try:
            _take_from_package(_kept(environment))
        except ServerError as error:
            raise ServerError(f"{missing}\n\n{error}") from error


def run_promtool(*arguments: str, given: str = "") -> str:
    """Return the output of promtool for ``given`` on its standard input.

    Raises ServerError with the output where it ends with an error.
    """
    return _run([str(promtool()), *arguments], given=given)


def _kept(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "billing-worker" / "promtool"


def _take_from_package(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        try:
            _run(["apt-get", "download", "-q", "prometheus"], folder)
        except ServerError:
            _run(["apt-get", "update", "-q"])  # without its lists it knows no package
            _run(["apt-get", "download", "-q", "prometheus"], folder)
        (package,) = Path(folder).glob("prometheus_*.deb")
        _run(["dpkg-deb", "--extract", str(package), folder])
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        shutil.copy2(Path(folder) / "usr" / "bin" / "promtool", fresh)
        fresh.replace(path)


def _run(command: Sequence[str], folder: str | None = None, given: str = "") -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{command[0]} doesn't run: {error}") from error
    if ended.returncode:
        raise ServerError(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout + ended.stderr
