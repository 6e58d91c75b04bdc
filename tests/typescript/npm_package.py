"""The npm package of ``schemas/typescript``: installed, compiled, and run."""

import fcntl
import os
import subprocess
from pathlib import Path

from tests.support.node import install, node
from tests.support.processes import ROOT

FOLDER = ROOT / "schemas" / "typescript"
_TIMEOUT_S = 200.0  # twenty seconds on a quiet machine


def run(*command: str, folder: Path = FOLDER, **variables: str) -> str:
    """Run ``npm`` or ``node`` with arguments and return the output; fail with all of it."""
    install(FOLDER)
    programs = {"node": (str(node().program),), "npm": node().npm, "tsc": _tsc()}
    path = f"{node().program.parent}{os.pathsep}{os.environ['PATH']}"  # scripts look for Node there
    done = subprocess.run(
        [*programs[command[0]], *command[1:]],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def compile_package() -> None:
    """Compile the package to ``dist``, its tests to ``build``."""
    install(FOLDER)
    with (FOLDER / "tsconfig.json").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test processes write the same files
        _remove_stale()
        run("tsc", "-p", "tsconfig.build.json")
        run("tsc", "-p", "tsconfig.test.json")


def _remove_stale() -> None:
    """Remove what was compiled from a module that is gone: it would be packed too."""
    for compiled in (FOLDER / "dist").rglob("*.js"):
        source = (FOLDER / "src" / compiled.relative_to(FOLDER / "dist")).with_suffix(".ts")
        if not source.exists():
            compiled.unlink()
            compiled.with_suffix(".d.ts").unlink(missing_ok=True)


def _tsc() -> tuple[str, ...]:
    return (str(node().program), str(FOLDER / "node_modules" / "typescript" / "bin" / "tsc"))
