"""``console users``: add, remove and list those who may sign in."""

from pathlib import Path

import pytest

from tests.cli.console import Cli

PASSWORD = b"a long password\n"


@pytest.fixture
def users(bare_cli: Cli, tmp_path: Path) -> Path:
    """File of the users that the command line works with."""
    path = tmp_path / "users"
    bare_cli.environment["BILLING_CONSOLE_USERS"] = str(path)
    return path


def test_users_are_added_listed_changed_and_removed(bare_cli: Cli, users: Path) -> None:
    added = bare_cli("console", "users", "add", "ann", "--role", "operator", stdin=PASSWORD)
    assert (added.code, added.out) == (0, "ann may sign in as operator\n")
    bare_cli("console", "users", "add", "bob", "--role", "viewer", stdin=PASSWORD)
    assert bare_cli("console", "users", "list").lines == ["name\trole", "ann\toperator", "bob\tviewer"]
    bare_cli("console", "users", "add", "ann", "--role", "viewer", stdin=PASSWORD)
    assert bare_cli("console", "users", "remove", "bob").out == "removed bob\n"
    assert bare_cli("console", "users", "list", "--json").json == {
        "users": [{"name": "ann", "role": "viewer"}],
        "next": None,
    }
    assert "password" not in users.read_text()


def test_file_is_named_by_the_option_of_either_group(bare_cli: Cli, tmp_path: Path) -> None:
    behind = bare_cli(
        *("console", "users", "add", "ann", "--role", "viewer", "--users", "here"), stdin=PASSWORD
    )
    before = bare_cli("console", "--users", "here", "users", "list")
    assert (behind.code, before.lines[1:]) == (0, ["ann\tviewer"])


def test_user_of_no_name_is_not_removed(bare_cli: Cli, users: Path) -> None:
    ended = bare_cli("console", "users", "remove", "ann")
    assert (ended.code, ended.error) == (2, f"{users} has no user 'ann'")


def test_user_needs_a_file_a_role_and_a_long_password(bare_cli: Cli) -> None:
    add = ("console", "users", "add", "ann")
    assert "name the file: --users FILE" in bare_cli(*add, "--role", "viewer").err
    assert "--role viewer or --role operator" in bare_cli(*add, "--users", "here").err
    short = bare_cli(*add, "--role", "viewer", "--users", "here", stdin=b"short\n")
    assert "at least 10 characters" in short.error
    latin = bare_cli(*add, "--role", "viewer", "--users", "here", stdin=b"a long caf\xe9\n")
    assert (latin.code, "the password is not UTF-8" in latin.err) == (2, True)


def test_command_of_the_version_before_adds_and_removes(bare_cli: Cli, users: Path) -> None:
    added = bare_cli("console", "user", "ann", "--role", "viewer", stdin=PASSWORD)
    assert added.out == "ann may sign in as viewer\n"
    assert bare_cli("console", "user", "ann", "--remove", "--users", str(users)).out == "removed ann\n"
    assert "user " not in bare_cli("console", "--help").out.partition("Commands:")[2].replace("users ", "")
