"""``stats`` and ``audit``: output for a terminal, a pipe and a script, and exit codes."""

import pytest
from sqlalchemy import Engine, text

from tests.cli.console import Cli, FilledLedger

pytestmark = pytest.mark.usefixtures("paying_ann")


def test_stats_are_shown_in_two_parts_in_a_pipe(ledger_cli: Cli) -> None:
    shown = ledger_cli("stats").rows
    assert ["users", "1"] in shown
    assert ["users on free", "1"] in shown
    assert ["revenue", "19.99 USD"] in shown
    assert ["usage.deduct", "rejected", "insufficient_balance", "1"] in shown


def test_stats_are_shown_on_a_terminal(ledger_cli: Cli) -> None:
    shown = ledger_cli("stats", terminal=True).out
    assert "Ledger" in shown
    assert "283,500" in shown
    assert "References by outcome" in shown


def test_stats_are_json_for_scripts(ledger_cli: Cli) -> None:
    shown = ledger_cli("stats", "--json").json
    assert (shown["users"], shown["totalBalance"], shown["totalUsed"]) == (1, 283_500, 1_500)


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
    assert "checks" in shown.err


def test_audit_takes_jobs_on_sqlite_and_works_with_one(ledger_cli: Cli) -> None:
    assert ledger_cli("audit", "--jobs", "4").out == ledger_cli("audit").out


@pytest.mark.parametrize("jobs", ["0", "16", "many"])
def test_audit_refuses_an_impossible_number_of_jobs(ledger_cli: Cli, jobs: str) -> None:
    ended = ledger_cli("audit", "--jobs", jobs)
    assert ended.code == 2
    assert "--jobs" in ended.err


def test_audit_of_a_ledger_that_is_not_distributed_refuses_the_setting(ledger_cli: Cli) -> None:
    ledger_cli.environment["BILLING_LEDGER_FORM"] = "distributed"
    ended = ledger_cli("audit")
    assert ended.code == 2
    assert "migrate --distribute" in ended.err
