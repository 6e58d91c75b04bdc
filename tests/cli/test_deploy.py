"""``deploy``: files of a format, written whole or not at all."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.deployed import DEPLOY
from worker.cli.root import cli
from worker.errors import ConfigurationError

PAGES = {"systemd": "SYSTEMD.md", "kubernetes": "KUBERNETES.md"}


def deploy(*words: str) -> Result:
    return CliRunner().invoke(cli, ["deploy", *words])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", PAGES)
def test_deploy_writes_the_files_of_the_package(form: str, tmp_path: Path) -> None:
    assert deploy(form, "--output", str(tmp_path / "new")).exit_code == 0
    expected = {
        name: data for name, data in content(DEPLOY).items() if name.split("/")[0] in {form, PAGES[form]}
    }
    assert content(tmp_path / "new") == expected
    assert deploy(form, "--output", str(tmp_path / "new")).exit_code == 0


def test_deploy_without_a_folder_lists_files_with_their_purpose() -> None:
    lines = deploy("systemd").stdout.splitlines()
    assert len(lines) == 1 + len([name for name in content(DEPLOY) if name.startswith("systemd/")]) + 1
    assert "systemd/billing-readers.service\tBilling readers: answer queries" in lines


def test_deploy_leaves_changed_files_alone_without_overwrite(tmp_path: Path) -> None:
    changed = tmp_path / "systemd/etc/worker.env"
    changed.parent.mkdir(parents=True)
    changed.write_text("ours\n")
    refused = deploy("systemd", "--output", str(tmp_path))
    assert isinstance(refused.exception, ConfigurationError)
    assert "systemd/etc/worker.env is there with other content" in str(refused.exception)
    assert content(tmp_path) == {"systemd/etc/worker.env": b"ours\n"}
    assert deploy("systemd", "--output", str(tmp_path), "--overwrite").exit_code == 0
    assert changed.read_text() != "ours\n"


def test_deploy_names_the_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "systemd").write_text("a file")
    refused = deploy("systemd", "--output", str(tmp_path))
    assert isinstance(refused.exception, ConfigurationError)
    assert "systemd" in str(refused.exception)


@pytest.mark.parametrize("words", [("compose",), (), ("systemd", "--overwrite")])
def test_deploy_refuses_wrong_words(words: tuple[str, ...]) -> None:
    assert deploy(*words).exit_code == 2
