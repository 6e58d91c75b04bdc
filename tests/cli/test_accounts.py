"""Commands that read the ledger: output for a terminal, for a pipe, and for a script."""

import csv
import shlex
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text

from schemas import BonusCredit, DeductUsage, PaymentSucceeded
from tests.cli.console import Cli, FilledLedger
from worker.ledger.engine import ledger_engine


@pytest.fixture
def ann(ledger: FilledLedger) -> None:
    """Account of ann, who got 10,000 tokens, bought 275,000, and used 1,500 on two features."""
    ledger.open("ann")
    ledger.apply(
        PaymentSucceeded(
            reference_id="pay", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
        ),
        DeductUsage(reference_id="d-1", user_id="ann", tokens=1_000, feature="chat"),
        DeductUsage(reference_id="d-2", user_id="ann", tokens=500, feature="search"),
        DeductUsage(reference_id="d-3", user_id="ann", tokens=10**9),
    )


pytestmark = pytest.mark.usefixtures("ann")


def rows(shown: str) -> list[list[str]]:
    """Split tab-separated lines into their fields."""
    return list(csv.reader(shown.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


# -- balance ----------------------------------------------------------------------------------------------


def test_balance_is_shown_in_a_pipe_as_names_and_values(ledger_cli: Cli) -> None:
    shown = ledger_cli("balance", "ann")
    fields = dict(rows(shown.out))
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


# -- can-afford -------------------------------------------------------------------------------------------


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
    }


# -- history ----------------------------------------------------------------------------------------------


def test_history_is_shown_newest_first(ledger_cli: Cli) -> None:
    names, *entries = rows(ledger_cli("history", "ann").out)
    shown = [dict(zip(names, entry, strict=True)) for entry in entries]
    assert [entry["#"] for entry in shown] == ["5", "4", "3", "2", "1"]
    assert [entry["reference"] for entry in shown] == ["d-2", "d-1", "pay", "pay", "open-ann"]
    assert (shown[0]["amount"], shown[0]["before"], shown[0]["after"]) == ("-500", "284000", "283500")
    assert (shown[0]["feature"], shown[4]["feature"]) == ("search", "")


def test_history_names_the_command_for_the_next_page(ledger_cli: Cli) -> None:
    shown = ledger_cli("history", "ann", "--limit", "2", terminal=True)
    assert "History of ann: 1–2 of 5" in shown.out
    assert "-1,000" in shown.out
    command = shown.err.removeprefix("next page: billing-worker ")
    second = ledger_cli(*shlex.split(command), terminal=True)
    assert "History of ann: 3–4 of 5" in second.out
    third = ledger_cli(*shlex.split(second.err.removeprefix("next page: billing-worker ")), terminal=True)
    assert ("History of ann: 5–5 of 5" in third.out, third.err) == (True, "")


def test_history_takes_the_offset_of_the_version_before(ledger_cli: Cli) -> None:
    shown = ledger_cli("history", "ann", "--offset", "3", "--json").json
    assert [entry["sequence"] for entry in shown["transactions"]] == [2, 1]
    assert (shown["total"], shown["offset"], shown["next"]) == (5, 3, None)


def test_history_behind_the_end_is_empty(ledger_cli: Cli) -> None:
    shown = ledger_cli("history", "ann", "--offset", "99")
    assert (shown.code, len(shown.lines)) == (0, 1)


def test_invalid_cursor_is_wrong_usage(ledger_cli: Cli) -> None:
    assert ledger_cli("history", "ann", "--cursor", "nonsense").code == 2


# -- usage ------------------------------------------------------------------------------------------------


def test_usage_is_a_line_a_day_in_a_pipe(ledger_cli: Cli) -> None:
    before = datetime.now(UTC).date()
    names, *days = rows(ledger_cli("usage", "ann", "--days", "3").out)
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


# -- stats ------------------------------------------------------------------------------------------------


def test_stats_are_shown_in_two_parts_in_a_pipe(ledger_cli: Cli) -> None:
    shown = rows(ledger_cli("stats").out)
    assert ["users", "1"] in shown
    assert ["users on free", "1"] in shown
    assert ["revenue USD (minor units)", "1999"] in shown
    assert ["usage.deduct", "rejected", "insufficient_balance", "1"] in shown


def test_stats_are_shown_on_a_terminal(ledger_cli: Cli) -> None:
    shown = ledger_cli("stats", terminal=True).out
    assert "Ledger" in shown
    assert "283,500" in shown
    assert "References by outcome" in shown


def test_stats_are_json_for_scripts(ledger_cli: Cli) -> None:
    shown = ledger_cli("stats", "--json").json
    assert (shown["users"], shown["totalBalance"], shown["totalUsed"]) == (1, 283_500, 1_500)


# -- audit ------------------------------------------------------------------------------------------------


def drift(engine: Engine) -> None:
    """Give ann seven tokens that no entry explains."""
    with engine.begin() as connection:
        triggers = (
            connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
        )
        for name in triggers:
            connection.execute(text(f'DROP TRIGGER "{name}"'))
        connection.execute(text("UPDATE accounts SET balance = balance + 7, bonus = bonus + 7"))


def test_audit_of_a_true_ledger_exits_with_0(ledger_cli: Cli) -> None:
    ended = ledger_cli("audit")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("every balance explained, drift 0 (")
    assert ended.out.endswith("; 0 accounts owe 0, 0 written off\n")
    assert ledger_cli("audit", "--json").json["drift"] == 0


def test_audit_of_a_drifted_ledger_exits_with_1_and_names_the_account(
    ledger_cli: Cli, ledger: FilledLedger
) -> None:
    drift(ledger.engine)
    ended = ledger_cli("audit")
    assert ended.code == 1
    assert ended.lines[0].startswith("finding: ")
    assert "ann" in ended.lines[0]
    assert "drift 7" in ended.lines[-1]
    in_json = ledger_cli("audit", "--json")
    assert in_json.code == 1
    assert in_json.json["drift"] == 7


def test_audit_shows_its_progress_on_a_terminal(ledger_cli: Cli) -> None:
    shown = ledger_cli("audit", terminal=True)
    assert shown.code == 0
    assert "quotas" in shown.err


# -- texts of producers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
def test_producers_text_neither_steers_the_terminal_nor_breaks_the_lines(
    ledger_cli: Cli, ledger: FilledLedger, terminal: bool
) -> None:
    """Intake refuses control characters in references; other text in the table is not trusted."""
    ledger.apply(BonusCredit(reference_id="b", user_id="ann", tokens=1))
    with ledger.engine.begin() as connection:
        for (name,) in connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        ).all():
            connection.execute(text(f'DROP TRIGGER "{name}"'))
        connection.execute(
            text("UPDATE entries SET feature = :evil"), {"evil": "\x1b[2Jx\ty\nz\x9b[red]\u2028\u202e"}
        )
    shown = ledger_cli("history", "ann", terminal=terminal)
    assert r"\x1b[2Jx\ty\nz\x9b[red]\u2028\u202e" in shown.out.replace("\n", "")
    if not terminal:
        assert {len(row) for row in rows(shown.out)} == {11}


def test_command_line_works_on_postgresql_as_well(bare_cli: Cli, postgres_url: str) -> None:
    engine = ledger_engine(postgres_url)
    FilledLedger(engine).open("eve")
    engine.dispose()
    bare_cli.environment["BILLING_DATABASE_URL"] = postgres_url
    for command in (
        ("balance", "eve"),
        ("lots", "eve", "--all"),
        ("holds", "eve", "--all"),
        ("expiring", "eve"),
        ("expiring",),
        ("history", "eve"),
        ("explain", "open-eve"),
        ("usage", "eve"),
        ("stats",),
        ("audit",),
    ):
        assert bare_cli(*command).code == 0
        assert bare_cli(*command, "--json").code == 0
    for form in ("table", "csv", "json"):
        assert "open-eve" in bare_cli("statement", "eve", "--format", form).out
    assert bare_cli("can-afford", "eve", "10000").code == 0
