"""Checks of the pages: links, files, commands, flags, variables, names and tables are true."""

import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

import click
import pytest
from prometheus_client.metrics_core import Metric
from pydantic import AliasChoices, SecretStr

from tests.benchmarks.__main__ import main as benchmarks
from tests.benchmarks.registry import BENCHMARKS
from tests.faults.chaos import main as chaos
from tests.observability.expressions import labels_by_series, registries
from tests.support import promtool, provision
from tests.support.pages import anchors, code_spans, commands, links, page, section, tables
from tests.support.processes import ROOT, WorkerProcesses
from tests.support.source_files import files_below
from worker.cli.bridge import BridgeSettings
from worker.cli.console import ConsoleSettings
from worker.cli.root import cli
from worker.metrics import ProcessRole
from worker.settings import ENV_PREFIX, Settings, load_settings

README, ARCHITECTURE, OPERATING = "README.md", "worker/ARCHITECTURE.md", "worker/OPERATING.md"
CHANGELOG = "worker/CHANGELOG.md"
PAGES = (
    README,
    ARCHITECTURE,
    OPERATING,
    "worker/DECISIONS.md",
    "worker/DISTRIBUTED.md",
    "worker/GROWING.md",
    CHANGELOG,
    "worker/deploy/SYSTEMD.md",
    "worker/deploy/COMPOSE.md",
    "worker/deploy/KUBERNETES.md",
    "schemas/README.md",
    "schemas/typescript/README.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
    "tests/contracts/README.md",
    "worker/observability/RUNBOOK.md",
)
ROOMS = ("worker", "schemas", "tests")
#: Pages that speak of the present alone; the changelog names what is gone.
OF_TODAY = tuple(path for path in PAGES if path != CHANGELOG)


# -- every page -------------------------------------------------------------------------------------------


def test_every_page_is_checked() -> None:
    found = [*ROOT.glob("*.md"), *(page for room in ROOMS for page in files_below(ROOT / room, ".md"))]
    assert {str(path.relative_to(ROOT)) for path in found} == set(PAGES)


@pytest.mark.parametrize("path", PAGES)
def test_links_of_a_page_lead_somewhere(path: str) -> None:
    for link in links(page(path)):
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("path", OF_TODAY)
def test_files_named_on_a_page_exist(path: str) -> None:
    text = page(path)
    named = re.findall(r"(?<![\w/.-])((?:worker|schemas|tests)/[\w./]*[\w/])", text)
    for name in named + re.findall(r"`([\w-]+\.(?:yml|toml|txt))`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", OF_TODAY)
def test_functions_and_modules_named_on_a_page_exist(path: str) -> None:
    for name in re.findall(r"`((?:worker|schemas|tests)(?:\.\w+)+)`", page(path)):
        if name.endswith(".__main__"):  # to import it would run it
            assert find_spec(name) is not None
        else:
            resolve_name(name)


@pytest.mark.parametrize(("path", "line"), [(path, line) for path in PAGES for line in commands(page(path))])
def test_command_of_a_page_is_one_the_program_knows(path: str, line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line)[1:]
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, resolved, words = command.resolve_command(context, words)
        assert resolved is not None, f"no command {name}"
        command, context = resolved, click.Context(resolved, parent=context)
    if words or not isinstance(command, click.Group):
        command.make_context(command.name, words, resilient_parsing="--help" in words)


@pytest.mark.parametrize("path", OF_TODAY)
def test_flags_named_on_a_page_exist(path: str) -> None:
    known = {flag for command in (cli, benchmarks, chaos) for flag in flags_of(command)} | {"--help"}
    for code in code_spans(page(path)):
        if code.startswith(("--", "run ", "topology ")):
            named = re.findall(r"(?<!\S)--[a-z-]+", code)
            assert set(named) <= known, code


@pytest.mark.parametrize("path", OF_TODAY)
def test_variables_named_on_a_page_exist(path: str) -> None:
    named = set(re.findall(rf"\b{ENV_PREFIX}[A-Z_]+[A-Z]\b", page(path)))
    tests = {
        value for module in (provision, promtool) for value in vars(module).values() if isinstance(value, str)
    }
    assert named - set(settings()) - old_variables() - tests == set()


@pytest.mark.parametrize("path", PAGES)
def test_make_targets_of_a_page_are_in_the_makefile(path: str) -> None:
    makefile = page("Makefile")
    for target in re.findall(r"(?:^|`)make (\w+)", page(path), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def flags_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from flags_of(inner)


# -- README -----------------------------------------------------------------------------------------------


def test_readme_has_at_most_120_lines() -> None:
    assert len(page(README).splitlines()) <= 120


def test_program_of_the_readme_prints_what_it_says(
    workers: WorkerProcesses, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", page(README), re.DOTALL)
    promised = re.findall(r"print\(.*\)  # (.*)", program)
    monkeypatch.setenv("BILLING_BROKER_URL", broker_url)
    workers.start()
    output = io.StringIO()
    scope: dict[str, object] = {}
    with redirect_stdout(output):
        exec(program, scope)  # noqa: S102 - the README's own
    scope["connection"].close()  # type: ignore[attr-defined]  # pika's
    assert output.getvalue().splitlines() == promised


# -- operating --------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """Return every variable with its default."""
    return {
        prefix + name.upper(): field.default
        for model, prefix in (
            (Settings, ENV_PREFIX),
            (ConsoleSettings, f"{ENV_PREFIX}CONSOLE_"),
            (BridgeSettings, f"{ENV_PREFIX}BRIDGE_"),
        )
        for name, field in model.model_fields.items()
    }


def old_variables() -> set[str]:
    """Return the names of earlier versions that are still taken."""
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    return {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}


def shown(default: object) -> str:
    match default:
        case SecretStr():
            return f"`{default.get_secret_value()}`"
        case None | () | {}:
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case float() | int() if default == 10**15:
            return "`10^15`"
        case float():
            return f"`{default:g}`"
    return f"`{default}`"


def test_settings_table_lists_every_variable_and_its_default() -> None:
    (rows,) = tables(section(page(OPERATING), "Settings"))
    listed = {code_spans(name)[0]: default for name, default, _ in rows}
    assert listed == {name: shown(default) for name, default in settings().items()}


def test_metrics_table_lists_every_metric_with_its_process_and_labels() -> None:
    (rows,) = tables(section(page(OPERATING), "Metrics and alerts"))
    listed = {
        code_spans(name)[0]: (process, {word for word in labels.split(", ") if word})
        for name, process, labels, _ in rows
    }
    assert len(listed) == len(rows)
    own = {
        process: {
            family.name + _ENDS.get(family.type, ""): family
            for family in registry.collect()
            if family.name.startswith("billing_")
        }
        for process, registry in zip((*ProcessRole, "audit"), registries(), strict=True)
    }
    common = set.intersection(*(set(own[role]) for role in ProcessRole))
    expected = {
        name: (
            "every" if name in common else str(process),
            labels_by_series()[_series(name, family)] - {"le"},
        )
        for process, families in own.items()
        for name, family in families.items()
    }
    assert listed == expected


_ENDS = {"counter": "_total", "info": "_info"}


def _series(name: str, family: Metric) -> str:
    return f"{name}_count" if family.type == "histogram" else name


def test_example_of_senders_is_a_setting() -> None:
    (text,) = re.findall(r"export BILLING_SENDERS='(.+)'", page(OPERATING))
    assert load_settings(senders=text).senders.keys() == {"payment.*", "usage.*"}


def test_table_of_exit_codes_says_what_the_help_says() -> None:
    (rows,) = tables(section(page(OPERATING), "Exit codes"))
    promised = re.findall(r"(\d) ([^;(]+?)(?= \(|;|\.$)", cli.epilog or "")
    for code, means in rows:
        (said,) = [text for number, text in promised if number == code]
        assert means.startswith(said), code


# -- architecture -----------------------------------------------------------------------------------------


def layers() -> list[list[str]]:
    """Return the layers of the import contract, top to bottom."""
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (lines,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [re.split(r" [:|] ", line) for line in lines]


def test_map_has_the_layers_of_the_import_contract() -> None:
    rows, _ = tables(section(page(ARCHITECTURE), "The map"))
    assert [code_spans(rooms) for _, rooms, _ in rows] == layers()


def test_every_room_is_on_the_map() -> None:
    text = section(page(ARCHITECTURE), "The map")
    rooms = {
        path.stem
        for path in (ROOT / "worker").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    assert {room for room in rooms if f"`worker.{room}`" not in text} == set()


# -- tests and benchmarks ---------------------------------------------------------------------------------


def test_fixtures_of_the_page_exist() -> None:
    conftest = page("tests/conftest.py")
    (rows,) = tables(section(page("tests/README.md"), "Fixtures"))
    for names, _ in rows:
        for name in code_spans(names):
            assert f"@pytest.fixture\ndef {name}(" in re.sub(r"(fixture)\(.*\)\n", r"\1\n", conftest), name


def test_every_folder_of_tests_has_its_place_on_the_page() -> None:
    text = section(page("tests/README.md"), "Where a test goes")
    folders = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("*.py"))}
    assert {name for name in folders - {"support"} if f"`tests/{name}/`" not in text} == set()


def test_table_of_benchmarks_lists_all_of_them() -> None:
    (rows,) = tables(section(page("tests/benchmarks/README.md"), "What is measured"))
    assert [code_spans(name)[0] for name, _ in rows] == [benchmark.name for benchmark in BENCHMARKS]


def test_benchmarks_of_the_page_are_run_by_their_names() -> None:
    names = {benchmark.name for benchmark in BENCHMARKS} | {"list"}
    text = page("tests/benchmarks/README.md")
    for words in re.findall(
        r'(?:WHAT="?|tests\.benchmarks )([a-z -]+?)(?:"|\s--|\s*$|\s{2,})', text, re.MULTILINE
    ):
        assert set(words.split()) <= names, words
