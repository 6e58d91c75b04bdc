"""``billing-worker tokens``: made, shown once, listed, removed."""

from pathlib import Path

import pytest

from tests.cli.console import Cli
from worker.http.tokens import Tokens


@pytest.fixture
def cli(bare_cli: Cli) -> Cli:
    """The command line with a file of tokens in its empty folder."""
    bare_cli.environment["BILLING_HTTP_TOKENS"] = "tokens"
    return bare_cli


def test_token_is_printed_alone_and_opens_its_scopes(cli: Cli, tmp_path: Path) -> None:
    made = cli("tokens", "add", "reports", "--scope", "stats", "--scope", "accounts")
    assert made.code == 0
    (secret,) = made.lines
    assert "keep it now" in made.err
    assert "accounts, stats" in made.err
    found = Tokens(tmp_path / "tokens").find(secret)
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("reports", ["accounts", "stats"])


def test_token_is_shown_this_once(cli: Cli, tmp_path: Path) -> None:
    (secret,) = cli("tokens", "add", "app", "--scope", "accounts").lines
    assert secret not in cli("tokens", "list").all
    assert secret not in (tmp_path / "tokens").read_text()


def test_tokens_are_listed_with_their_scopes(cli: Cli) -> None:
    cli("tokens", "add", "app", "--scope", "accounts")
    cli("tokens", "add", "reports", "--scope", "stats")
    rows = cli("tokens", "list").rows
    assert [row[:2] for row in rows] == [["name", "scopes"], ["app", "accounts"], ["reports", "stats"]]
    assert rows[1][2].startswith("20")


def test_removed_token_is_gone(cli: Cli, tmp_path: Path) -> None:
    (secret,) = cli("tokens", "add", "app", "--scope", "accounts").lines
    removed = cli("tokens", "remove", "app")
    assert (removed.code, removed.lines) == (0, ["removed app"])
    assert Tokens(tmp_path / "tokens").find(secret) is None


def test_unknown_token_is_not_found(cli: Cli) -> None:
    cli("tokens", "add", "app", "--scope", "accounts")
    ended = cli("tokens", "remove", "ap")
    assert ended.code == 4
    assert "it has app" in ended.error


def test_json_is_one_object(cli: Cli) -> None:
    made = cli("tokens", "add", "app", "--scope", "accounts", "--json").json
    assert made.keys() == {"name", "scopes", "token"}
    (listed,) = cli("tokens", "list", "--json").json["tokens"]
    assert (listed["name"], listed["scopes"]) == ("app", ["accounts"])
    assert cli("tokens", "remove", "app", "--json").json == {"removed": "app"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("add", "app"), "Missing option '--scope'"),
        (("add", "app", "--scope", "all"), "'all' is not one of 'accounts', 'stats'"),
        (("add", "a b", "--scope", "accounts"), "not a name of a token"),
        (("list",), "can't be read"),
    ],
)
def test_wrong_usage_says_why(cli: Cli, arguments: tuple[str, ...], expected: str) -> None:
    ended = cli("tokens", *arguments)
    assert ended.code == 2
    assert expected in ended.err


def test_file_must_be_named(bare_cli: Cli) -> None:
    for arguments in (("add", "app", "--scope", "accounts"), ("list",), ("remove", "app")):
        ended = bare_cli("tokens", *arguments)
        assert ended.code == 2
        assert "--tokens FILE, or BILLING_HTTP_TOKENS" in ended.err


def test_flag_precedes_the_variable(cli: Cli, tmp_path: Path) -> None:
    cli("tokens", "add", "app", "--scope", "accounts", "--tokens", "others")
    assert (tmp_path / "others").exists()
    assert not (tmp_path / "tokens").exists()


def test_file_that_can_not_be_written_is_an_error(cli: Cli) -> None:
    ended = cli("tokens", "add", "app", "--scope", "accounts", "--tokens", "no/such/folder")
    assert ended.code == 2
    assert "can't be written" in ended.error


def test_misspelled_variable_is_warned_of(cli: Cli) -> None:
    made = cli("tokens", "add", "app", "--scope", "accounts", BILLING_HTTP_TOKEN="tokens")
    assert "did you mean BILLING_HTTP_TOKENS?" in made.err
    assert len(made.lines) == 1
