"""``stats`` and ``audit``: output for a terminal, a pipe and a script, and exit codes."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
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


def metrics_in(file: Path) -> dict[str, float]:
    """Return the samples of a file, those of labels by their one value."""
    families = text_string_to_metric_families(file.read_text(encoding="utf-8"))
    return {
        ".".join((sample.name, *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_audit_writes_its_result_for_a_textfile_collector(
    ledger_cli: Cli, ledger: FilledLedger, tmp_path: Path
) -> None:
    file = tmp_path / "audit.prom"
    assert ledger_cli("audit", "--metrics", str(file)).code == 0
    clean = metrics_in(file)
    assert {
        name for name, value in clean.items() if name.startswith("billing_audit_findings") and value
    } == set()
    assert clean["billing_audit_drift_tokens"] == 0
    assert clean["billing_audit_rows.accounts"] == 1
    drift(ledger.engine)
    assert ledger_cli("audit", "--metrics", str(file)).code == 1
    drifted = metrics_in(file)
    assert drifted["billing_audit_drift_tokens"] == 7
    assert sum(value for name, value in drifted.items() if name.startswith("billing_audit_findings")) > 0
    assert drifted["billing_audit_timestamp_seconds"] >= clean["billing_audit_timestamp_seconds"]
    assert list(tmp_path.glob("audit.prom.*")) == []


@pytest.mark.parametrize(
    ("name", "way_out"), [("audit.txt", "ends in .prom"), ("missing/audit.prom", "make it first")]
)
def test_audit_refuses_a_file_that_no_collector_reads(
    ledger_cli: Cli, tmp_path: Path, name: str, way_out: str
) -> None:
    ended = ledger_cli("audit", "--metrics", str(tmp_path / name))
    assert ended.code == 2
    assert "--metrics" in ended.error
    assert way_out in ended.error


def test_audit_without_a_server_keeps_the_file_of_the_last_one(bare_cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "audit.prom"
    file.write_text("before", encoding="utf-8")
    url = "postgresql://nobody@127.0.0.1:1/billing"
    assert bare_cli("audit", "--metrics", str(file), "--database-url", url).code == 3
    assert file.read_text(encoding="utf-8") == "before"


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
