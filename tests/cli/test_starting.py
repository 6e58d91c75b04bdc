"""Start of the command line: what it imports, how long it takes, and what the shell completes."""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from tests.cli.commands import COMMANDS
from worker.cli.lazy import LazyGroup

ROOT = Path(__file__).parents[2]
#: Packages that take long to import.
HEAVY = {
    "alembic", "amqp", "flask", "kombu", "mako", "pika", "prometheus_client", "psycopg2", "pydantic",
    "pydantic_settings", "rich", "schemas", "sqlalchemy", "waitress", "werkzeug",
}  # fmt: skip
IMPORTED = f"""
import sys
from worker.cli import main
try:
    main()
except SystemExit:
    pass
print(*sorted({{name.partition('.')[0] for name in sys.modules}} & {HEAVY!r}), file=sys.stderr)
"""


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def heavy_imports(*arguments: str, **variables: str) -> set[str]:
    """Return the heavy packages that a command imports."""
    ended = run_python("-c", IMPORTED, *arguments, **variables)
    return set(ended.stderr.splitlines()[-1].split())


def worker_modules(*arguments: str, **variables: str) -> set[str]:
    """Return the modules of the worker that a command imports."""
    listing = IMPORTED.replace(
        f"{{name.partition('.')[0] for name in sys.modules}} & {HEAVY!r}",
        "name for name in sys.modules if name.startswith('worker')",
    )
    ended = run_python("-c", listing, *arguments, **variables)
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("dead-letters", "--help")], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: Sequence[str]) -> None:
    assert heavy_imports(*arguments) == set()


def test_help_imports_no_command() -> None:
    assert worker_modules("--help") == {
        "worker", "worker.cli", "worker.cli.lazy", "worker.cli.root", "worker.cli.streams", "worker.cli.text",
        "worker.cli.encoding", "worker.errors", "worker.runtime", "worker.runtime.printable",
        "worker.runtime.shown_ids",
    }  # fmt: skip


def test_balance_imports_neither_broker_nor_alembic(sqlite_url: str) -> None:
    found = heavy_imports("balance", "nobody", BILLING_DATABASE_URL=sqlite_url)
    assert "sqlalchemy" in found
    assert found & {"alembic", "flask", "kombu", "mako", "pika", "waitress", "werkzeug"} == set()


def test_balance_imports_no_part_of_the_message_path(sqlite_url: str) -> None:
    found = worker_modules("balance", "nobody", BILLING_DATABASE_URL=sqlite_url)
    assert "worker.ledger.queries" in found
    rooms = {".".join(name.split(".")[:2]) for name in found}
    unused = ("batches", "broker", "consumer", "deadletters", "lanes", "messages", "pipeline", "scheduler")
    assert rooms & {f"worker.{room}" for room in unused} == set()


def test_only_migrate_imports_alembic(sqlite_url: str) -> None:
    assert "alembic" in heavy_imports("migrate", BILLING_DATABASE_URL=sqlite_url)
    for command in (("stats",), ("dead-letters", "list"), ("check",)):
        assert "alembic" not in heavy_imports(*command, BILLING_DATABASE_URL=sqlite_url)


def cpu_s(*arguments: str) -> float:
    """Return the least processor time of five runs of Python."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_python(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_takes_at_most_four_times_the_import_of_click() -> None:
    assert cpu_s("-m", "worker", "--help") <= 4 * cpu_s("-c", "import click")


LAZY = {
    (*path, name): lazy
    for path, command in COMMANDS.items()
    if isinstance(command, LazyGroup)
    for name, lazy in command.lazy.items()
}


@pytest.mark.parametrize("path", [path for path in LAZY if not LAZY[path].hidden], ids=" ".join)
def test_table_has_the_first_sentence_of_the_help(path: tuple[str, ...]) -> None:
    first = COMMANDS[path].get_short_help_str(1_000)
    assert LAZY[path].help.rstrip(".") == first.rstrip(".")
    assert not COMMANDS[path].hidden


# -- completion -------------------------------------------------------------------------------------------


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """Folder with a ``billing-worker`` that runs this tree."""
    program = tmp_path / "billing-worker"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m worker "$@"\n')
    program.chmod(0o755)
    return tmp_path


def completed(bin_folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in ("billing-worker", *words))
    script = (
        'eval "$(_BILLING_WORKER_COMPLETE=bash_source billing-worker)"\n'
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}\n"
        "_billing_worker_completion billing-worker\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


def test_bash_completes_commands_and_options(bin_folder: Path) -> None:
    assert completed(bin_folder, "dea") == ["dead-letters"]
    assert completed(bin_folder, "") == root_names()
    assert completed(bin_folder, "dead-letters", "re") == ["replay", "resolve", "restore"]
    assert completed(bin_folder, "dead-letters", "p") == ["purge"], "the old name of drain is hidden"
    assert completed(bin_folder, "history", "--cur") == ["--cursor"]


def root_names() -> list[str]:
    group = COMMANDS[()]
    assert isinstance(group, click.Group)
    return group.list_commands(click.Context(group))
