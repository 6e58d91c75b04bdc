"""``operations``: found by filters, shown as a table, lines, CSV and JSON; and who spends most."""

from typing import Any

import pytest

from schemas import BonusCredit, DeductUsage, PaymentSucceeded
from tests.cli.console import Cli, FilledLedger
from worker.ledger.queries import operation_walk
from worker.ledger.senders import Sender


def used(reference: str, tokens: int, user: str = "ada", **more: Any) -> DeductUsage:
    return DeductUsage.model_validate({"reference_id": reference, "user_id": user, "tokens": tokens, **more})


@pytest.fixture
def busy(ledger: FilledLedger) -> FilledLedger:
    """Usage of two users by two senders, and a payment and a deduction that were rejected."""
    for user in ("ada", "bob"):
        ledger.open(user)
        ledger.apply(BonusCredit(reference_id=f"gift-{user}", user_id=user, tokens=10_000))
    ledger.apply(
        used("job-1", 700, feature="ocr", metadata={"job": 17, "ok": True}),
        used("job-2", 300, feature="search"),
        used("=cmd", 40, "bob", feature="ocr", description="=1+1"),
        sender=Sender("app", "uploads"),
    )
    paid = PaymentSucceeded.model_validate(
        {
            "reference_id": "stripe:pi_1",
            "user_id": "ada",
            "package_id": "gone",
            "amount_minor": 1_999,
            "currency": "USD",
        }
    )
    ledger.apply(paid, used("poor", 10**9), sender=Sender("bridge", ""))
    return ledger


def found(cli: Cli, *arguments: str) -> list[str]:
    ended = cli("operations", *arguments, "--json")
    assert ended.code == 0, ended.all
    return sorted(one["referenceId"] for one in ended.json["operations"])


def test_list_has_a_plain_line_for_each_operation_in_a_pipe(ledger_cli: Cli, busy: FilledLedger) -> None:
    head, *rows = ledger_cli("operations", "--status", "rejected", "--code", "unknown_package").rows
    assert head == [
        "time", "reference", "type", "user", "code", "tokens", "after", "feature", "sender", "amount",
        "currency", "status",
    ]  # fmt: skip
    ((_, *payment),) = rows
    assert payment == [
        "stripe:pi_1", "payment.succeeded", "ada", "unknown_package", "", "19000", "", "bridge", "19.99",
        "USD", "rejected",
    ]  # fmt: skip


def test_list_is_a_table_on_a_terminal(ledger_cli: Cli, busy: FilledLedger) -> None:
    shown = ledger_cli("operations", "--user", "ada", terminal=True).out
    assert "Operations: 6" in shown
    assert "app (uploads)" in shown


def test_each_filter_finds_its_own(ledger_cli: Cli, busy: FilledLedger) -> None:
    assert found(ledger_cli, "--status", "rejected") == ["poor", "stripe:pi_1"]
    assert found(ledger_cli, "--type", "usage.deduct", "--user", "bob") == ["=cmd"]
    assert found(ledger_cli, "--type", "credit.bonus", "--type", "account.open", "--user", "bob") == [
        "gift-bob",
        "open-bob",
    ]
    assert found(ledger_cli, "--code", "insufficient_balance") == ["poor"]
    assert found(ledger_cli, "--sender", "uploads") == ["=cmd", "job-1", "job-2"]
    assert found(ledger_cli, "--sender", "bridge") == ["poor", "stripe:pi_1"]
    assert found(ledger_cli, "--feature", "ocr") == ["=cmd", "job-1"]
    assert found(ledger_cli, "--metadata", "job=17", "--metadata", "ok=true") == ["job-1"]
    assert found(ledger_cli, "--reference-prefix", "job-") == ["job-1", "job-2"]
    assert found(ledger_cli, "--amount", "300") == ["job-2"]
    assert found(ledger_cli, "--min-tokens", "300", "--max-tokens", "700") == ["job-1", "job-2"]
    assert found(ledger_cli, "--from", "1h", "--to", "30m") == []


def test_pages_follow_each_other_by_the_command_that_is_shown(ledger_cli: Cli, busy: FilledLedger) -> None:
    first = ledger_cli("operations", "--limit", "5")
    assert "next page: billing-worker operations --limit 5 --cursor " in first.err
    second = ledger_cli("operations", "--limit", "5", "--cursor", first.err.split()[-1])
    references = [row[1] for row in first.rows[1:] + second.rows[1:]]
    assert sorted(references) == found(ledger_cli)
    assert second.err == ""


def test_search_that_is_bounded_says_how_far_it_came(
    ledger_cli: Cli, busy: FilledLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation_walk, "SCANNED_MAX", 1)
    monkeypatch.setattr(operation_walk, "_FIRST_WINDOW", 1)
    monkeypatch.setattr("worker.cli.operations._PAGES_MAX", 1)
    rejected = ledger_cli("operations", "--status", "rejected", "--type", "credit.bonus")
    assert len(rejected.rows) == 1
    assert "looked at all operations back to" in rejected.err
    assert "--cursor" in rejected.err
    every = ledger_cli("operations", "--status", "rejected", "--all")
    assert len(every.rows) == 3
    assert every.err == ""


def test_csv_executes_nothing(ledger_cli: Cli, busy: FilledLedger) -> None:
    head, row = ledger_cli("operations", "--user", "bob", "--sender", "app", "--csv").lines
    assert head.startswith("recorded_at,occurred_at,reference,type,user,status,code,tokens,balance_after")
    assert row.endswith(
        ",'=cmd,usage.deduct,bob,applied,tokens_deducted,-40,19960,ocr,,,,app (uploads),1,'=1+1"
    )


def test_top_shows_who_spends_most(ledger_cli: Cli, busy: FilledLedger) -> None:
    assert ledger_cli("operations", "--top", "user").rows == [
        ["user", "tokens", "operations"],
        ["ada", "1000", "2"],
        ["bob", "40", "1"],
    ]
    assert ledger_cli("operations", "--top", "feature", "--limit", "1").rows[1:] == [["ocr", "740", "2"]]
    assert ledger_cli("operations", "--top", "sender", "--csv").lines == [
        "sender,tokens,operations",
        "app (uploads),1040,3",
    ]
    top = ledger_cli("operations", "--top", "user", "--user", "bob", "--json").json
    assert top == {
        "by": "user",
        "spenders": [{"name": "bob", "tokens": 40, "operations": 1}],
        "isCounted": True,
    }


BAD: dict[tuple[str, ...], str] = {
    ("--from", "yesteryear"): "'--from': 'yesteryear' is no time; write 15m",
    ("--from", "1h", "--to", "2h"): "--from' 1h is after '--to' 2h",
    ("--type", "usage.deduce"): "'--type': no such type: 'usage.deduce'; there are usage.deduct",
    ("--code", "poor"): "'--code': no such code: 'poor'; there are",
    ("--status", "parked"): "'parked' is not one of 'applied', 'rejected'",
    ("--metadata", "job"): "'--metadata': 'job' is no key=value; write such as job=17",
    ("--metadata", "=17"): "'--metadata': '=17' is no key=value",
    ("--min-tokens", "5", "--max-tokens", "4"): "'--min-tokens': min_tokens is above max_tokens",
    ("--min-tokens", "-1"): "-1 is not in the range",
    ("--amount", "5", "--max-tokens", "4"): "give --amount, or --min-tokens and --max-tokens",
    ("--csv", "--json"): "give --csv or --json, not both",
    ("--top", "user", "--all"): "--top is one page",
    ("--sender", "nobody"): "nothing came from the sender 'nobody'; no sender is known yet",
    ("--reference-prefix", ""): "'--reference-prefix': reference_prefix must not be empty: leave it out",
    ("--cursor", "x"): "the cursor is none of this list's",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_names_the_option_and_the_way_out(ledger_cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = ledger_cli("operations", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert BAD[arguments] in " ".join(ended.err.split())


def test_user_of_whom_nothing_is_known_is_an_error(ledger_cli: Cli) -> None:
    ended = ledger_cli("operations", "--user", "ada")
    assert (ended.code, ended.error) == (4, "no token account for user 'ada'")
