"""Checks of the project's files: versions, constraints, license, types."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.pages import page
from tests.support.processes import ROOT
from worker import __version__
from worker.observability.files import DASHBOARD, RULES, RUNBOOK

PROJECT: dict[str, Any] = tomllib.loads(page("pyproject.toml"))["project"]
CONSTRAINTS = page("constraints.txt").splitlines()


def requirements() -> Iterator[Requirement]:
    """Yield what the project and its extras need from others."""
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            yield requirement


def test_constraints_are_exact_versions_without_addresses() -> None:
    assert [
        line for line in CONSTRAINTS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line)
    ] == []


def test_constraints_meet_every_requirement() -> None:
    pinned = {
        canonicalize_name(name): version for name, version in (line.split("==") for line in CONSTRAINTS)
    }
    for requirement in requirements():
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_every_install_of_the_makefile_is_constrained() -> None:
    makefile = page("Makefile")
    assert re.findall(r"^PIP +:= .*install.*", makefile, re.MULTILINE)[0].endswith("-c $(PINNED)")
    assert makefile.count("pip install") == 1
    for stamp in ("BASE", "DEV", "BENCH"):
        assert f"$({stamp}): pyproject.toml $(PINNED)" in makefile


def test_license_files_exist() -> None:
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_both_packages_ship_their_types() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("worker", "schemas"))


def test_wheel_has_the_rules_the_runbook_and_the_dashboard() -> None:
    builder = WheelBuilder(str(ROOT))
    shipped = {file.distribution_path for file in builder.recurse_included_files()}
    for path in (RULES, RUNBOOK, DASHBOARD):
        assert str(path.relative_to(ROOT)) in shipped


def test_changelog_begins_with_the_version() -> None:
    newest, *_ = re.findall(r"^## (\S+)", page("worker/CHANGELOG.md"), re.MULTILINE)
    assert newest == __version__
