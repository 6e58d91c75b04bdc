"""File of tokens: lines, rights, changes while it is used."""

import hashlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.http import TokenScope
from worker.errors import ConfigurationError, NotFoundError
from worker.http.tokens import Tokens, add_token, remove_token

NOW = datetime(2026, 11, 26, 10, 15, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def add(path: Path, name: str = "app", *scopes: TokenScope) -> str:
    return add_token(path, name, scopes or (TokenScope.ACCOUNTS,), NOW)


def test_file_is_readable_by_its_owner_alone_and_holds_no_token(path: Path) -> None:
    secret = add(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text()
    assert json.loads(path.read_text()) == {
        "name": "app",
        "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "scopes": ["accounts"],
        "createdAt": "2026-11-26T10:15:00Z",
    }


def test_token_is_long_random_and_fit_for_a_header(path: Path) -> None:
    first, second = add(path), add(path, "other")
    assert first != second
    assert first.startswith("bwt_")
    assert len(first) >= 40
    assert first.isascii()
    assert first.replace("-", "").replace("_", "").isalnum()


def test_token_is_found_with_its_scopes(path: Path) -> None:
    secret = add(path, "reports", TokenScope.STATS, TokenScope.ACCOUNTS)
    found = Tokens(path).find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("reports", frozenset(TokenScope))


@pytest.mark.parametrize("change", [str.upper, lambda secret: secret[:-1], lambda secret: f"{secret} "])
def test_other_text_is_not_found(path: Path, change: object) -> None:
    assert callable(change)
    assert Tokens(path).find(change(add(path))) is None


def test_hash_of_a_token_opens_nothing(path: Path) -> None:
    add(path)
    tokens = Tokens(path)
    (token,) = tokens
    assert tokens.find(token.sha256) is None


def test_removed_token_is_not_found_any_more(path: Path) -> None:
    secret, other = add(path), add(path, "other")
    tokens = Tokens(path)
    assert tokens.find(secret) is not None
    remove_token(path, "app")
    assert tokens.find(secret) is None
    assert tokens.find(other) is not None


def test_added_token_is_found_at_once(path: Path) -> None:
    add(path)
    tokens = Tokens(path)
    assert len(tokens) == 1
    assert tokens.find(add(path, "later")) is not None


def test_comments_and_empty_lines_stay(path: Path) -> None:
    path.write_text("# tokens of the app\n\n")
    path.chmod(0o600)
    add(path)
    add(path, "other")
    remove_token(path, "app")
    assert path.read_text().startswith("# tokens of the app\n\n{")
    assert [token.name for token in Tokens(path)] == ["other"]


def test_name_is_given_once_with_the_way_to_exchange_a_token(path: Path) -> None:
    add(path)
    with pytest.raises(ConfigurationError, match="tokens remove app"):
        add(path)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "-a", "x" * 65, 'a"'])
def test_invalid_name_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name of a token"):
        add(path, name)
    assert not path.exists()


def test_removal_of_an_unknown_token_names_those_that_are_there(path: Path) -> None:
    add(path)
    with pytest.raises(NotFoundError, match="no token 'ap'; it has app"):
        remove_token(path, "ap")


GOOD = {"name": "app", "sha256": "0" * 64, "scopes": ["accounts"]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("app:accounts", "is no JSON object"),
        ("[1]", "is no JSON object"),
        (json.dumps({**GOOD, "scope": "stats"}), "alone"),
        (json.dumps({**GOOD, "name": "a b"}), "name must be"),
        (json.dumps({**GOOD, "sha256": "0" * 63}), "sha256 must be"),
        (json.dumps({**GOOD, "sha256": "A" * 64}), "lower case"),
        (json.dumps({**GOOD, "sha256": None}), "sha256 must be"),
        (json.dumps({**GOOD, "scopes": []}), "scopes must be an array of accounts, stats"),
        (json.dumps({**GOOD, "scopes": "accounts"}), "scopes must be an array"),
        (json.dumps({**GOOD, "scopes": ["accounts", "all"]}), "scopes must be an array"),
        (json.dumps({**GOOD, "scopes": [["accounts"]]}), "scopes must be an array"),
        (json.dumps({**GOOD, "createdAt": 1}), "createdAt must be text"),
        (json.dumps({**GOOD, "name": "first"}), "'first' is given twice"),
    ],
)
def test_malformed_line_is_refused_with_its_number(path: Path, line: str, expected: str) -> None:
    path.write_text(f"{json.dumps({**GOOD, 'name': 'first'})}\n{line}\n")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=expected) as error:
        len(Tokens(path))
    assert "line 2" in str(error.value)


def test_missing_file_is_refused_with_the_command_that_makes_one(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="billing-worker tokens add NAME"):
        len(Tokens(path))


def test_file_that_is_not_utf8_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\n")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        len(Tokens(path))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        add(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    add(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        len(Tokens(path))


def test_file_that_others_may_read_is_warned_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = add(path)
    path.chmod(0o644)
    tokens = Tokens(path)
    with caplog.at_level(logging.WARNING):
        assert tokens.find(secret) is not None
        assert tokens.find(secret) is not None
    assert [record.getMessage() for record in caplog.records if "chmod 600" in record.getMessage()] == [
        f"{path} can be read by others; it holds no token, but names and scopes: chmod 600 it"
    ]
