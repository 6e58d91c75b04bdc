"""Files that are read again when they change, and written whole."""

import os
from pathlib import Path

import pytest

from worker.runtime.watched_file import WatchedFile, write_lines


class Reads:
    """Parser that counts; ``refuses`` makes the check raise."""

    def __init__(self, path: Path) -> None:
        self.count, self.refuses = 0, False
        self.file = WatchedFile(path, self._parse, self._check)

    def _parse(self, text: str) -> list[str]:
        self.count += 1
        return text.splitlines()

    def _check(self, _about: os.stat_result) -> None:
        if self.refuses:
            raise PermissionError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_lines(tmp_path / "file", ["first"])
    return tmp_path / "file"


def test_unchanged_file_is_parsed_once(path: Path) -> None:
    reads = Reads(path)
    assert [reads.file.read(), reads.file.read()] == [["first"], ["first"]]
    assert reads.count == 1


def test_empty_file_is_parsed_once(path: Path) -> None:
    write_lines(path, [])
    reads = Reads(path)
    assert [reads.file.read(), reads.file.read()] == [[], []]
    assert reads.count == 1


def test_changed_file_is_parsed_again(path: Path) -> None:
    reads = Reads(path)
    reads.file.read()
    write_lines(path, ["other"])  # as long as before
    assert reads.file.read() == ["other"]


def test_new_permissions_are_checked(path: Path) -> None:
    reads = Reads(path)
    reads.file.read()
    reads.refuses = True
    path.chmod(0o666)
    with pytest.raises(PermissionError):
        reads.file.read()


def test_refused_file_gives_no_earlier_content(path: Path) -> None:
    reads = Reads(path)
    reads.file.read()
    path.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            reads.file.read()
    write_lines(path, ["again"])
    assert reads.file.read() == ["again"]


def test_written_file_is_its_owners_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
