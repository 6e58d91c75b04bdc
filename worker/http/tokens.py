"""Bearer tokens with a name and scopes, in a file that holds their SHA-256 alone.

A line is a JSON object; empty lines and those that begin with ``#`` are passed over:

    {"name": "app", "sha256": "9f86…", "scopes": ["accounts"], "createdAt": "2026-11-26T10:15:00Z"}

A token has 256 random bits. So a fast hash keeps it, and nobody finds it by guessing. The file is read again
when it has changed: a token that is removed from it opens nothing any more.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.http import TokenScope
from worker.errors import ConfigurationError, NotFoundError
from worker.runtime.watched_file import WatchedFile, write_lines

log = logging.getLogger(__name__)

#: Beginning of every token, by which people and scanners of source code know one.
PREFIX = "bwt_"
_RANDOM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CREATED = "%Y-%m-%dT%H:%M:%SZ"
_FIELDS = {"name", "sha256", "scopes", "createdAt"}


@dataclass(frozen=True, slots=True)
class Token:
    """Line of the file: a token's name, its scopes and its SHA-256. ``created_at`` is RFC 3339, if known."""

    name: str
    scopes: frozenset[TokenScope]
    sha256: str
    created_at: str | None = None

    def to_line(self) -> str:
        """Return the line of the file."""
        fields = {"name": self.name, "sha256": self.sha256, "scopes": sorted(self.scopes)}
        return json.dumps(fields if self.created_at is None else {**fields, "createdAt": self.created_at})


class Tokens:
    """Tokens in the file at ``path``. Every method raises ConfigurationError where it can't be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = WatchedFile[Sequence[Token]](
            path, lambda text: _tokens(text, path), lambda about: _check_rights(path, about)
        )

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[Token]:
        return iter(self._read())

    def find(self, secret: str) -> Token | None:
        """Return the token that is ``secret``; None where it is none.

        All are compared, each in the same time, so that no answer comes sooner for a better guess.
        """
        digest = _digest(secret)
        found = None
        for token in self._read():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _read(self) -> Sequence[Token]:
        try:
            return self._file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(self._path, error) from error


def add_token(path: Path, name: str, scopes: Iterable[TokenScope], now: datetime) -> str:
    """Add a token to the file, which is made where it is missing; return the token, which is kept nowhere.

    Raises ConfigurationError for a bad name, for one that has a token, and where the file can't be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not a name of a token: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit"
        )
    lines = _lines_of(path)
    if any(token.name == name for token in _tokens("\n".join(lines), path)):
        raise ConfigurationError(
            f"{path} has a token {name!r}: to change it, add one of another name, hand that out, "
            f"then `billing-worker tokens remove {name}`"
        )
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    token = Token(name, frozenset(scopes), _digest(secret), now.astimezone(UTC).strftime(_CREATED))
    _write(path, [*lines, token.to_line()])
    return secret


def remove_token(path: Path, name: str) -> None:
    """Remove a token from the file: it opens nothing from then on. Raises NotFoundError."""
    lines = _lines_of(path)
    tokens = _tokens("\n".join(lines), path)
    if all(token.name != name for token in tokens):
        known = ", ".join(token.name for token in tokens) or "none"
        raise NotFoundError(f"{path} has no token {name!r}; it has {known}")
    _write(path, [line for line in lines if not _is_token(line) or json.loads(line)["name"] != name])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# -- the file ---------------------------------------------------------------------------------------------


def _is_token(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _tokens(text: str, path: Path) -> Sequence[Token]:
    """Return the tokens of the file. Raises ConfigurationError that names the line, and no value of it."""
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_token(line):
            continue
        try:
            token = _token(line, tokens)
        except ValueError as error:
            raise ConfigurationError(
                f"{path}, line {number}: {error}; `billing-worker tokens add NAME` writes such lines"
            ) from None
        tokens[token.name] = token
    return tuple(tokens.values())


def _token(line: str, before: Container[str]) -> Token:
    """Return the token of a line, which has no name of those ``before``. Raises ValueError."""
    try:
        fields: Any = json.loads(line)
    except ValueError:
        raise ValueError("is no JSON object") from None
    if not isinstance(fields, dict) or not fields.keys() <= _FIELDS:
        raise ValueError(f"is no JSON object with {', '.join(sorted(_FIELDS))} alone")
    name, sha256, scopes, created_at = (fields.get(key) for key in ("name", "sha256", "scopes", "createdAt"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("name must be 1 to 64 of A-Z a-z 0-9 . _ -")
    if name in before:
        raise ValueError(f"the name {name!r} is given twice")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 must be 64 hexadecimal digits, in lower case")
    if not isinstance(scopes, list) or not scopes or not all(map(_is_scope, scopes)):
        raise ValueError(f"scopes must be an array of {', '.join(TokenScope)}")
    if created_at is not None and not isinstance(created_at, str):
        raise ValueError("createdAt must be text")
    return Token(name, frozenset(map(TokenScope, scopes)), sha256, created_at)


def _is_scope(value: Any) -> bool:
    return isinstance(value, str) and value in set(TokenScope)


def _check_rights(path: Path, about: os.stat_result) -> None:
    """Refuse a file that others may write: they would let themselves in. Warn of one that they may read."""
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{path} can be written by others, who could add tokens of their own: chmod 600 {path}"
        )
    if about.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s can be read by others; it holds no token, but names and scopes: chmod 600 it", path)


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _write(path: Path, lines: list[str]) -> None:
    try:
        write_lines(path, lines)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> ConfigurationError:
    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return ConfigurationError(
        f"the file of tokens, {path}, can't be read: {why}; "
        "make one with `billing-worker tokens add NAME --scope accounts`"
    )
