"""``accounts``: order, filters, pages and forms of the list."""

import pytest

from tests.cli.console import Cli, FilledLedger
from tests.support import commands


@pytest.fixture(autouse=True)
def _accounts(ledger: FilledLedger) -> None:
    """Three accounts, of which one owes tokens and one has used some."""
    for user in ("ada", "alf", "ben"):
        ledger.open(user)
    ledger.apply(
        commands.adjust(-12_000, reference_id="t-ben", user_id="ben", allow_negative=True),
        commands.deduct(500, "job-1", "alf"),
    )


@pytest.mark.parametrize(
    ("arguments", "users"),
    [
        ((), ["ada", "alf", "ben"]),
        (("al",), ["alf"]),
        (("--in-debt",), ["ben"]),
        (("--negative", "--sort", "least_balance"), ["ben"]),
        (("--sort", "least_balance"), ["ben", "alf", "ada"]),
        (("a", "--sort", "most_used"), ["alf", "ada"]),
        (("b", "--sort", "most_debt"), ["ben"]),
    ],
)
def test_order_and_filter_of_accounts(ledger_cli: Cli, arguments: tuple[str, ...], users: list[str]) -> None:
    assert [row[0] for row in ledger_cli("accounts", *arguments).rows[1:]] == users


def test_list_has_what_is_posted(ledger_cli: Cli) -> None:
    head, ada, alf, ben = ledger_cli("accounts").rows
    assert head == ["user", "tier", "balance", "held", "debt", "used", "changed"]
    assert [row[2:6] for row in (ada, alf, ben)] == [
        ["10000", "0", "0", "0"],
        ["9500", "0", "0", "500"],
        ["-2000", "0", "2000", "0"],
    ]


@pytest.mark.parametrize("arguments", [(), ("--sort", "least_balance")])
def test_page_names_the_next_one(ledger_cli: Cli, arguments: tuple[str, ...]) -> None:
    first = ledger_cli("accounts", *arguments, "--limit", "2", "--json").json
    second = ledger_cli("accounts", *arguments, "--cursor", first["next"], "--json").json
    users = [account["userId"] for page in (first, second) for account in page["accounts"]]
    assert (sorted(users), second["next"]) == (["ada", "alf", "ben"], None)


def test_page_is_csv_for_spreadsheets(ledger_cli: Cli) -> None:
    head, ben = ledger_cli("accounts", "--in-debt", "--csv").lines
    assert head == "user,tier,balance,held,debt,used,changed_at"
    assert ben.startswith("ben,free,-2000,0,2000,0,20")


@pytest.mark.parametrize("arguments", [("--limit", "0"), ("--sort", "name"), ("--csv", "--json")])
def test_wrong_use_is_refused(ledger_cli: Cli, arguments: tuple[str, ...]) -> None:
    assert ledger_cli("accounts", *arguments).code == 2
