"""Users with a role and a password, in a file that only its owner can read.

A file and no table: it can be read while the database is down, and no password, hashed or not, lies beside
the ledger. One line a user, ``name:role:hash``. The file is read again when it has changed, so that a removed
user has no access any more.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256
from pathlib import Path

from werkzeug.security import check_password_hash, generate_password_hash

from worker.errors import ConfigurationError
from worker.runtime.watched_file import WatchedFile, write_lines

PASSWORD_MIN = 10
_NAME = re.compile(r"[^\s:#\x00-\x1f\x7f][^\s:\x00-\x1f\x7f]{0,99}")


class Role(StrEnum):
    """Role of a user: a viewer looks, an operator looks and acts."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    """User of the console. ``version`` changes with the password and the role, and ends older sessions."""

    name: str
    role: Role
    version: str = ""

    @property
    def is_operator(self) -> bool:
        """True where this user may change anything."""
        return self.role is Role.OPERATOR


@dataclass(frozen=True, slots=True)
class _Entry:
    user: User
    password_hash: str


class Users:
    """Users in the file at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = WatchedFile[Mapping[str, _Entry]](
            path, lambda text: _entries(text, path), lambda about: _refuse_open_file(path, about)
        )
        _dummy_hash()  # now: the first sign-in under an unknown name would wait for it

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[User]:
        return (entry.user for entry in self._read().values())

    def get(self, name: str) -> User | None:
        """Return the user of this name; None where there is none."""
        entry = self._read().get(name)
        return None if entry is None else entry.user

    def authenticate(self, name: str, password: str) -> User | None:
        """Return the user with this name and password; None where they don't match."""
        entries = self._read()
        entry = entries.get(name)
        is_right = check_password_hash(
            _stand_in(name, entries) if entry is None else entry.password_hash, password
        )
        return entry.user if entry is not None and is_right else None

    def _read(self) -> Mapping[str, _Entry]:
        """Read the file. Raises ConfigurationError where it is unreadable, open to others, or malformed."""
        try:
            return self._file.read()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(
                f"the file of the console's users, {self._path}, can't be read: {why}; "
                "make one with `billing-worker console users add NAME --role operator`"
            ) from error


def _stand_in(name: str, entries: Mapping[str, _Entry]) -> str:
    """Return the hash that an unknown name is compared with, always the same one for a name.

    It is another user's: an answer to a wrong name takes as long as one to a right name, also where the
    file holds hashes of several costs.
    """
    if not entries:
        return _dummy_hash()
    hashes = [entry.password_hash for entry in entries.values()]
    return hashes[int.from_bytes(sha256(name.encode()).digest()[:8], "big") % len(hashes)]


@cache
def _dummy_hash() -> str:
    return generate_password_hash(os.urandom(16).hex())


def write_user(path: Path, name: str, role: Role, password: str) -> None:
    """Add a user to the file, or change one. Raises ConfigurationError for an invalid name or password."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not a valid name: 1 to 100 characters, no white space, no colon, no leading #"
        )
    if len(password) < PASSWORD_MIN:
        raise ConfigurationError(f"the password is too short: at least {PASSWORD_MIN} characters")
    lines = [line for line in _lines_of(path) if not line.startswith(f"{name}:")]
    _write(path, [*lines, f"{name}:{role.value}:{generate_password_hash(password)}"])


def remove_user(path: Path, name: str) -> bool:
    """Remove a user from the file; return whether there was one. Their sessions end at once."""
    lines = _lines_of(path)
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    if len(kept) == len(lines):
        return False
    _write(path, kept)
    return True


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}") from error


def _write(path: Path, lines: list[str]) -> None:
    try:
        write_lines(path, lines)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error


def _refuse_open_file(path: Path, about: os.stat_result) -> None:
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(f"{path} holds password hashes and is open to others: chmod 600 {path}")


def _entries(text: str, path: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        role, _, password_hash = rest.partition(":")
        if not _NAME.fullmatch(name) or role not in set(Role) or "$" not in password_hash:
            raise ConfigurationError(
                f"{path}, line {number}: not NAME:ROLE:HASH with role viewer or operator"
            )
        version = sha256(f"{role}:{password_hash}".encode()).hexdigest()[:16]
        entries[name] = _Entry(User(name, Role(role), version), password_hash)
    return entries
