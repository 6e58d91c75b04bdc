"""``balance`` and ``can-afford``: output for a terminal, a pipe and a script."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from schemas import AdjustCredit
from tests.cli.console import Cli, FilledLedger
from tests.support.commands import freezing

pytestmark = pytest.mark.usefixtures("paying_ann")


def test_balance_is_shown_in_a_pipe_as_names_and_values(ledger_cli: Cli) -> None:
    shown = ledger_cli("balance", "ann")
    fields = dict(shown.rows)
    assert (shown.code, shown.err) == (0, "")
    assert fields["balance"] == "283500"
    assert fields["tier"] == "free"
    assert fields["used"] == "1500"
    assert fields["free upload left (byte)"] == str(100 * 2**20)
    assert "\x1b" not in shown.out


def test_balance_is_shown_on_a_terminal_with_a_title_and_thousands(ledger_cli: Cli) -> None:
    shown = ledger_cli("balance", "ann", terminal=True)
    assert "Balance of ann" in shown.out
    assert "283,500" in shown.out
    assert "\t" not in shown.out


def test_balance_is_json_for_scripts(ledger_cli: Cli) -> None:
    shown = ledger_cli("balance", "ann", "--json").json
    assert (shown["userId"], shown["balance"], shown["purchased"], shown["used"]) == (
        "ann",
        283_500,
        250_000,
        1_500,
    )
    assert shown["quotas"][0]["used"] == 0


def test_json_is_one_line_in_a_pipe_and_indented_on_a_terminal(ledger_cli: Cli) -> None:
    assert len(ledger_cli("balance", "ann", "--json").lines) == 1
    on_terminal = ledger_cli("balance", "ann", "--json", terminal=True)
    assert len(on_terminal.lines) > 5
    assert on_terminal.json["balance"] == 283_500


def test_balance_of_the_past_is_shown_as_it_was(ledger_cli: Cli, ledger: FilledLedger) -> None:
    opened_at = ledger_cli("balance", "ann", "--json").json["openedAt"]
    then = ledger_cli("balance", "ann", "--at", opened_at, "--json").json
    assert (then["balance"], then["at"], then["sequence"]) == (10_000, opened_at, 1)


def test_balance_before_the_account_was_opened_is_not_found(ledger_cli: Cli) -> None:
    ended = ledger_cli("balance", "ann", "--at", "2020-01-01T01:00:00+01:00")
    assert ended.code == 4
    assert "'ann' had no token account at 2020-01-01T00:00:00+00:00: it was opened at" in ended.error


def test_balance_takes_every_form_of_a_time(ledger_cli: Cli) -> None:
    assert ledger_cli("balance", "ann", "--at", "0s", "--json").json["balance"] == 283_500
    for time in ("yesterday", "2h", "2026-11-01 11:03"):
        ended = ledger_cli("balance", "ann", "--at", time)
        assert (ended.code, "had no token account at" in ended.err) == (4, True)


def test_balance_refuses_a_time_without_offset_and_names_the_forms(ledger_cli: Cli) -> None:
    ended = ledger_cli("balance", "ann", "--at", "2026-11-01T00:00:00")
    assert ended.code == 2
    assert "'2026-11-01T00:00:00' is no time; write 15m, 2h or 3d (ago), today" in ended.err


def test_affordable_amount_exits_with_0(ledger_cli: Cli) -> None:
    ended = ledger_cli("can-afford", "ann", "283500")
    assert (ended.code, ended.out) == (0, "yes: 283500 required, 283500 available\n")


def test_unaffordable_amount_exits_with_1(ledger_cli: Cli) -> None:
    ended = ledger_cli("can-afford", "ann", "283501")
    assert (ended.code, ended.out) == (1, "no, 1 short: 283501 required, 283500 available\n")


def test_unaffordable_amount_exits_with_1_in_json_too(ledger_cli: Cli) -> None:
    ended = ledger_cli("can-afford", "ann", "283600", "--json")
    assert ended.code == 1
    assert ended.json == {
        "userId": "ann",
        "canAfford": False,
        "required": 283_600,
        "available": 283_500,
        "shortfall": 100,
        "code": "insufficient_balance",
    }


def test_frozen_account_is_shown_and_affords_nothing(ledger_cli: Cli, ledger: FilledLedger) -> None:
    assert "frozen since" not in dict(ledger_cli("balance", "ann").rows)
    freeze = freezing(user_id="ann", occurred_at=datetime.now(UTC) - timedelta(hours=1))
    assert ledger.apply(freeze) == ["freeze_began"]
    assert dict(ledger_cli("balance", "ann").rows)["frozen since"]
    assert ledger_cli("balance", "ann", "--json").json["frozenAt"]
    ended = ledger_cli("can-afford", "ann", "5")
    assert (ended.code, ended.out) == (1, "no, account frozen: 5 required, 283500 available\n")


def test_account_in_debt_has_nothing_to_spend_and_says_what_it_owes(
    ledger_cli: Cli, ledger: FilledLedger
) -> None:
    ledger.apply(
        AdjustCredit(
            reference_id="slip",
            user_id="ann",
            tokens=-332_500,
            reason="slip",
            actor="ann",
            allow_negative=True,
        )
    )
    shown = ledger_cli("balance", "ann")
    assert shown.rows[0] == ["in debt", "0 to spend, 49,000 owed"]
    assert dict(shown.rows)["balance"] == "-49000"
    on_terminal = ledger_cli("balance", "ann", terminal=True).out
    red = [text.strip() for text in re.findall(r"\x1b\[31m([^\x1b]*)", on_terminal)]
    assert red == ["0 to spend, 49,000 owed", "-49,000"]
    assert "\x1b[31m49,000 owed" in ledger_cli("stats", terminal=True).out
