"""File of users: roles, passwords, permissions."""

from pathlib import Path

import pytest

from worker.console.users import Role, Users, remove_user, write_user
from worker.errors import ConfigurationError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def test_file_is_readable_by_its_owner_alone_and_has_no_password(path: Path) -> None:
    write_user(path, "ann", Role.OPERATOR, "a long password")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "a long password" not in path.read_text()


def test_user_is_authenticated_by_the_right_password_only(path: Path) -> None:
    write_user(path, "ann", Role.OPERATOR, "a long password")
    users = Users(path)
    found = users.authenticate("ann", "a long password")
    assert found is not None
    assert found.is_operator
    assert users.authenticate("ann", "a long passwore") is None
    assert users.authenticate("bob", "a long password") is None


def test_later_entry_of_a_user_replaces_the_earlier_one(path: Path) -> None:
    write_user(path, "ann", Role.OPERATOR, "a long password")
    users = Users(path)
    before = users.get("ann")
    write_user(path, "ann", Role.VIEWER, "a longer password")
    after = users.get("ann")
    assert before is not None
    assert after is not None
    assert not after.is_operator
    assert before.version != after.version
    assert len(users) == 1
    assert remove_user(path, "ann")
    assert not remove_user(path, "ann")
    assert users.get("ann") is None


def test_file_readable_by_others_is_refused(path: Path) -> None:
    write_user(path, "ann", Role.OPERATOR, "a long password")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        len(Users(path))


@pytest.mark.parametrize(
    "line", ["ann", "ann:root:scrypt:1$a$b", "ann:viewer:", "a b:viewer:x$y$z", ":viewer:x$y"]
)
def test_malformed_line_is_refused_with_its_number(line: str, path: Path) -> None:
    path.touch(0o600)
    path.write_text(f"# who\n\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        len(Users(path))


def test_error_of_a_missing_file_names_the_command(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="billing-worker console user"):
        len(Users(path))


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 101, "a\nb", "#ann"])
def test_invalid_name_is_refused(name: str, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a valid name"):
        write_user(path, name, Role.VIEWER, "a long password")


def test_short_password_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too short"):
        write_user(path, "ann", Role.VIEWER, "short")
