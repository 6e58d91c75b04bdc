"""``report``: output for a terminal, a pipe, a spreadsheet and a script; bad requests and their way out."""

import csv
import io
from datetime import UTC, datetime

import pytest

from schemas import AdjustCredit
from tests.cli.console import Cli, FilledLedger

pytestmark = pytest.mark.usefixtures("paying_ann")

REPORTS = ("payments", "revenue", "liability", "breakage", "usage")


def test_payments_are_lines_of_decimals_in_a_pipe(ledger_cli: Cli) -> None:
    shown = ledger_cli("report", "payments", "--by", "month,package", "--from", "1d", "--to", "2100-01-01")
    month = f"{datetime.now(UTC):%Y-%m}"
    assert shown.rows == [
        [
            *("month", "package", "currency", "payments", "gross", "refunded", "disputed", "failed"),
            *("net", "imported"),
        ],
        [month, "standard", "USD", "1", "19.99", "0.00", "0.00", "0.00", "19.99", "0.00"],
    ]
    assert (shown.code, shown.err) == (0, "")


def test_money_and_meaning_are_shown_on_a_terminal(ledger_cli: Cli) -> None:
    shown = ledger_cli("report", "revenue", terminal=True).out
    assert "19.99 USD" in shown
    assert "deferred revenue" in shown
    assert "minor" not in shown.replace("whole minor units", "")


def test_liability_ends_with_the_balance_of_all_users(ledger_cli: Cli) -> None:
    found = ledger_cli("report", "liability", "--json").json
    assert found["by"] == ["source"]
    (total,) = found["totals"]
    assert (total["closing"], total["used"]) == (283_500, 1_500)
    assert {row["source"]: row["closing"] for row in found["rows"]} == {
        "allocation": 8_500,
        "purchase": 250_000,
        "purchase_bonus": 25_000,
    }


def test_json_has_money_as_a_decimal_and_in_minor_units(ledger_cli: Cli) -> None:
    (row,) = ledger_cli("report", "payments", "--json").json["rows"]
    assert (row["gross"], row["grossMinor"], row["currency"]) == ("19.99", 1_999, "USD")


def test_csv_is_for_spreadsheets(ledger_cli: Cli) -> None:
    shown = ledger_cli("report", "usage", "--by", "feature", "--csv").out
    assert list(csv.DictReader(io.StringIO(shown))) == [
        {"feature": "chat", "used": "1000", "entries": "1", "imported": "0"},
        {"feature": "search", "used": "500", "entries": "1", "imported": "0"},
    ]


def test_debt_is_a_source_of_its_own(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.apply(
        AdjustCredit(
            reference_id="slip",
            user_id="ann",
            tokens=-300_000,
            reason="slip",
            actor="ann",
            allow_negative=True,
        )
    )
    rows = ledger_cli("report", "liability", "--json").json["rows"]
    assert {row["source"]: row["closing"] for row in rows if row["closing"]} == {"debt": -16_500}


def test_report_of_a_time_in_which_nothing_happened_is_empty(ledger_cli: Cli) -> None:
    for name in REPORTS:
        shown = ledger_cli("report", name, "--from", "2020-01-01", "--to", "2020-02-01")
        assert (shown.code, len(shown.rows)) == (0, 1)
        nothing = ledger_cli("report", name, "--to", "2020-02-01", terminal=True)
        assert "from 2020-01-01 00:00 until before 2020-02-01 00:00 (UTC): nothing was posted" in nothing.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["usage", "--by", "package"], "usage can't be grouped by package, only by day, month, feature"),
        (["usage", "--by", "wheather"], "no report is grouped by 'wheather'; usage is by day, month"),
        (["sales"], "'sales' is not one of 'payments', 'revenue', 'liability', 'breakage', 'usage'"),
        (["usage", "--from", "2026-02-01", "--to", "2026-01-01"], "2026-02-01 is after '--to' 2026-01-01"),
        (["usage", "--from", "2026-02-01", "--to", "2026-02-01"], "the end itself is left out"),
        (["usage", "--from", "0001-02-01", "--to", "9999-01-01", "--by", "day"], "days, and a report has at"),
        (["usage", "--tz", "Mars/Base"], "the time zone 'Mars/Base' is not known"),
        (["usage", "--from", "soon"], "'soon' is no time; write"),
        (["usage", "--csv", "--json"], "give --csv or --json, not both"),
    ],
)
def test_bad_request_is_refused_with_the_way_out(ledger_cli: Cli, arguments: list[str], text: str) -> None:
    ended = ledger_cli("report", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err


def test_help_teaches_each_report(bare_cli: Cli) -> None:
    shown = bare_cli("report", "--help").out
    assert all(f"  {name} " in shown for name in REPORTS)
    assert "billing-worker report liability --to 2026-11-01" in shown
