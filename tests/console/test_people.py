"""File of the people who may sign in, and limit of sign-in attempts."""

from pathlib import Path

import pytest

from worker.console.attempts import Attempts
from worker.console.people import People, Role, remove_person, write_person
from worker.errors import ConfigurationError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people"


def test_the_file_is_for_its_owner_alone_and_holds_no_password(path: Path) -> None:
    write_person(path, "ann", Role.OPERATOR, "a long password")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "a long password" not in path.read_text()


def test_a_person_is_known_by_the_right_password_only(path: Path) -> None:
    write_person(path, "ann", Role.OPERATOR, "a long password")
    people = People(path)
    found = people.signed_in("ann", "a long password")
    assert found is not None
    assert found.is_operator
    assert people.signed_in("ann", "a long passwore") is None
    assert people.signed_in("bob", "a long password") is None


def test_later_entry_of_a_person_is_read_and_replaces_the_earlier_one(path: Path) -> None:
    write_person(path, "ann", Role.OPERATOR, "a long password")
    people = People(path)
    before = people.person("ann")
    write_person(path, "ann", Role.VIEWER, "a longer password")
    after = people.person("ann")
    assert before is not None
    assert after is not None
    assert not after.is_operator
    assert before.mark != after.mark
    assert len(people) == 1
    assert remove_person(path, "ann")
    assert not remove_person(path, "ann")
    assert people.person("ann") is None


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    write_person(path, "ann", Role.OPERATOR, "a long password")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        len(People(path))


@pytest.mark.parametrize(
    "line", ["ann", "ann:root:scrypt:1$a$b", "ann:viewer:", "a b:viewer:x$y$z", ":viewer:x$y"]
)
def test_a_line_that_is_none_is_refused_with_its_number(line: str, path: Path) -> None:
    path.touch(0o600)
    path.write_text(f"# who\n\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        len(People(path))


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="billing-worker console user"):
        len(People(path))


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 101, "a\nb", "#ann"])
def test_a_name_that_would_break_the_file_is_refused(name: str, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no name"):
        write_person(path, name, Role.VIEWER, "a long password")


def test_a_short_password_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too short"):
        write_person(path, "ann", Role.VIEWER, "short")


def test_attempts_are_counted_within_their_time_and_each_key_by_itself() -> None:
    now = [100.0]
    attempts = Attempts(most=2, within_s=10, clock=lambda: now[0])
    assert attempts.wait_s("ann") == 0
    attempts.count("ann")
    now[0] += 4
    attempts.count("ann")
    assert attempts.wait_s("ann") == 6
    assert attempts.wait_s("bob") == 0
    now[0] += 6
    assert attempts.wait_s("ann") == 0
    attempts.count("ann")
    attempts.forget("ann")
    assert attempts.wait_s("ann") == 0
