"""Parts of a balance, for a person, a pipe and a script."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas import BonusCredit, DeductUsage, ReleaseUsage, ReserveUsage
from tests.cli.console import Cli, FilledLedger
from worker.cli import output

SOON = datetime.now(UTC) + timedelta(days=3)


@pytest.fixture(autouse=True)
def ann(ledger: FilledLedger) -> None:
    """Account of ann: 10,000 tokens of which 300 are held, and 50 that expire in three days."""
    ledger.open("ann")
    ledger.apply(
        BonusCredit(reference_id="spent", user_id="ann", tokens=40, priority=0),
        DeductUsage(reference_id="d", user_id="ann", tokens=40),
        BonusCredit(reference_id="brief", user_id="ann", tokens=50, expires_at=SOON),
        ReserveUsage(reference_id="h-1", user_id="ann", tokens=300, ttl_seconds=3_600),
        ReserveUsage(reference_id="h-2", user_id="ann", tokens=20, ttl_seconds=3_600),
        ReleaseUsage(reference_id="r", user_id="ann", original_reference_id="h-2"),
    )


def rows(shown: str) -> list[dict[str, str]]:
    """Parse tab-separated lines into dictionaries by the names in the first line."""
    names, *lines = [line.split("\t") for line in shown.splitlines()]
    return [dict(zip(names, line, strict=True)) for line in lines]


def test_lots_are_lines_in_a_pipe_the_next_to_be_spent_first(ledger_cli: Cli) -> None:
    first, second = rows(ledger_cli("lots", "ann").out)
    assert (first["source"], first["left"], first["held"]) == ("allocation", "10000", "300")
    assert (second["source"], second["left"], second["reference"]) == ("bonus", "50", "brief")
    everything = rows(ledger_cli("lots", "ann", "--all").out)
    assert [(lot["lot"], lot["left"]) for lot in everything] == [("1", "10000"), ("3", "50"), ("2", "0")]


def test_lots_are_a_table_on_a_terminal_and_json_for_scripts(ledger_cli: Cli) -> None:
    assert "Lots of ann: 2" in ledger_cli("lots", "ann", terminal=True).out
    shown = ledger_cli("lots", "ann", "--json").json
    assert [lot["remaining"] for lot in shown["lots"]] == [10_000, 50]


def listed(cli: Cli, name: str, *arguments: str) -> list[list[int]]:
    """Read a list of lots page by page; return their numbers."""
    pages: list[list[int]] = []
    cursor: tuple[str, ...] = ()
    while True:
        page = cli(*arguments, *cursor, "--json").json
        pages.append([lot.get("number", lot.get("lot")) for lot in page[name]])
        if page["next"] is None:
            return pages
        cursor = ("--cursor", str(page["next"]))


def test_lots_are_listed_page_by_page(ledger_cli: Cli) -> None:
    assert listed(ledger_cli, "lots", "lots", "ann", "--all", "--limit", "2") == [[1, 3], [2]]
    shown = ledger_cli("lots", "ann", "--all", "--limit", "2", terminal=True)
    assert shown.err == "next page: billing-worker lots ann --all --limit 2 --cursor 3\n"
    assert ledger_cli("lots", "ann", "--cursor", "9").code == 2


def test_holds_are_the_open_ones_or_all(ledger_cli: Cli) -> None:
    (hold,) = rows(ledger_cli("holds", "ann").out)
    assert (hold["reference"], hold["state"], hold["amount"], hold["lots"]) == (
        "h-1",
        "open",
        "300",
        "1: 300",
    )
    assert [(hold["reference"], hold["by"]) for hold in rows(ledger_cli("holds", "ann", "--all").out)] == [
        ("h-1", ""),
        ("h-2", "r"),
    ]
    assert ledger_cli("holds", "ann", "--all", "--json").json["next"] is None


def test_holds_are_listed_page_by_page(ledger_cli: Cli, ledger: FilledLedger) -> None:
    for number in (3, 4):
        ledger.apply(
            ReserveUsage(reference_id=f"h-{number}", user_id="ann", tokens=20, ttl_seconds=3_600),
            ReleaseUsage(reference_id=f"r-{number}", user_id="ann", original_reference_id=f"h-{number}"),
        )
    pages: list[list[str]] = []
    cursor: tuple[str, ...] = ()
    while True:
        page = ledger_cli("holds", "ann", "--all", "--limit", "1", *cursor, "--json").json
        pages.append([hold["referenceId"] for hold in page["holds"]])
        if page["next"] is None:
            break
        cursor = ("--cursor", page["next"])
    assert pages == [["h-1", "h-4"], ["h-3"], ["h-2"]]
    shown = ledger_cli("holds", "ann", "--all", "--limit", "1", terminal=True)
    assert shown.err == "next page: billing-worker holds ann --all --limit 1 --cursor h-4\n"


def test_expiring_lots_of_a_user_are_shown_with_their_sum(ledger_cli: Cli) -> None:
    (lot,) = rows(ledger_cli("expiring", "ann", "--days", "7").out)
    assert (lot["user"], lot["tokens"], lot["source"]) == ("ann", "50", "bonus")
    assert rows(ledger_cli("expiring", "ann", "--days", "2").out) == []
    shown = ledger_cli("expiring", "ann", "--days", "7", "--json").json
    assert (shown["tokens"], shown["expiring"][0]["lot"]) == (50, 3)
    assert (
        "Expiring of ann within 7 days: 50" in ledger_cli("expiring", "ann", "--days", "7", terminal=True).out
    )


def test_expiring_lots_of_all_users_are_shown_line_by_line(
    ledger_cli: Cli, ledger: FilledLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_AT_ONCE", 2)
    for number in range(4):
        ledger.open(f"user-{number}", "basic")
        ends = SOON + timedelta(hours=number)
        ledger.apply(
            BonusCredit(
                reference_id=f"b-{number}", user_id=f"user-{number}", tokens=number + 1, expires_at=ends
            )
        )
    expected = ["ann", "user-0", "user-1", "user-2", "user-3"]
    assert [lot["user"] for lot in rows(ledger_cli("expiring", "--days", "7").out)] == expected
    shown = ledger_cli("expiring", "--days", "7", "--json").json
    assert [lot["userId"] for lot in shown["expiring"]] == expected
    on_terminal = ledger_cli("expiring", "--days", "7", terminal=True).out
    assert on_terminal.count("tokens") == 3, "three tables of two"
    assert all(user in on_terminal for user in expected)


def test_expiring_lots_are_listed_page_by_page(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.open("bob", "basic")
    for user in ("ann", "bob"):
        ledger.apply(
            BonusCredit(reference_id=f"more-{user}", user_id=user, tokens=7, expires_at=SOON + timedelta(1))
        )
    of_ann = listed(ledger_cli, "expiring", "expiring", "ann", "--days", "7", "--limit", "1")
    assert of_ann == [[3], [4]]
    assert ledger_cli("expiring", "ann", "--days", "7", "--limit", "1", "--json").json["tokens"] == 57
    everybodys = listed(ledger_cli, "expiring", "expiring", "--days", "7", "--limit", "2")
    assert [len(page) for page in everybodys] == [2, 1]
    shown = ledger_cli("expiring", "--days", "7", "--limit", "2", terminal=True)
    assert shown.err.startswith("next page: billing-worker expiring --days 7 --limit 2 --cursor 20")
    rest = ledger_cli("expiring", "--days", "7", "--cursor", shown.err.split()[-1])
    assert [lot["user"] for lot in rows(rest.out)] == ["bob"]
    assert ledger_cli("expiring", "--cursor", "nonsense").code == 2
