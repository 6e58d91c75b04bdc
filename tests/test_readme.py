"""Checks of the README: its commands parse, its variables exist, its program prints the output shown."""

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest

from tests.support.processes import ROOT, WorkerProcesses
from worker.cli.console import ConsoleSettings
from worker.cli.root import cli
from worker.settings import ENV_PREFIX, Settings

README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    {
        re.sub(r"\s+", " ", found)
        for found in re.findall(r"`(billing-worker [^`…]+)`", README)
        + re.findall(r"^(billing-worker .+)$", README, re.MULTILINE)
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_one_the_program_knows(line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line)[1:]
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, resolved, words = command.resolve_command(context, words)
        assert resolved is not None, f"no command {name}"
        command, context = resolved, click.Context(resolved, parent=context)
    if words or not isinstance(command, click.Group):
        command.make_context(command.name, words, resilient_parsing="--help" in words)


def test_the_variables_of_the_readme_are_settings_and_all_settings_stand_there() -> None:
    named = set(re.findall(rf"{ENV_PREFIX}(?!TEST_)([A-Z_]+)\b", README))
    settings = {name.upper() for name in Settings.model_fields}
    settings |= {f"CONSOLE_{name.upper()}" for name in ConsoleSettings.model_fields}
    assert named - settings == set()
    assert settings - named == set()


def test_the_targets_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_program_of_the_readme_says_what_it_says_there(
    workers: WorkerProcesses, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    promised = re.findall(r"print\(.*\)  # (.*)", program)
    monkeypatch.setenv("BILLING_BROKER_URL", broker_url)
    workers.start()
    output = io.StringIO()
    scope: dict[str, object] = {}
    with redirect_stdout(output):
        exec(program, scope)  # noqa: S102 - the README's own
    scope["connection"].close()  # type: ignore[attr-defined]  # pika's
    assert output.getvalue().splitlines() == promised


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for path in re.findall(r"`((?:worker|schemas|tests)/[\w./]*|docker-compose\.yml)`", README):
        assert (Path(ROOT) / path).exists(), path
