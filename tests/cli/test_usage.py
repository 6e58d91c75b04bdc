"""``usage``: a chart, lines and JSON."""

from datetime import UTC, datetime

import pytest

from tests.cli.console import Cli, FilledLedger

pytestmark = pytest.mark.usefixtures("paying_ann")


def test_usage_is_a_line_a_day_in_a_pipe(ledger_cli: Cli) -> None:
    before = datetime.now(UTC).date()
    names, *days = ledger_cli("usage", "ann", "--days", "3").rows
    assert names == ["day", "used", "entries"]
    assert [day[1:] for day in days] == [["0", "0"], ["0", "0"], ["1500", "2"]]
    assert str(before) <= days[-1][0] <= str(datetime.now(UTC).date())


def test_usage_is_a_chart_on_a_terminal(ledger_cli: Cli) -> None:
    shown = ledger_cli("usage", "ann", "--days", "3", "--timezone", "Europe/Berlin", terminal=True)
    assert "Usage of ann" in shown.out
    assert "(Europe/Berlin)" in shown.out
    assert "█" * 50 in shown.out
    assert "total 1,500, 500 a day; chat 1,000, search 500" in shown.out
    assert "lasts 189 more days" in shown.out


def test_usage_of_an_idle_user_is_zero(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.open("bob")
    shown = ledger_cli("usage", "bob", terminal=True)
    assert shown.code == 0
    assert "total 0, 0 a day; no usage" in shown.out
    assert "lasts" not in shown.out


def test_usage_is_json_for_scripts(ledger_cli: Cli) -> None:
    shown = ledger_cli("usage", "ann", "--days", "2", "--json").json
    assert sum(day["used"] for day in shown["byDay"]) == shown["totalUsed"] == 1_500
    assert shown["byFeature"] == {"chat": 1_000, "search": 500}
