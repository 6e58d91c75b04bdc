"""Statements for people, spreadsheets and programs."""

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas import AdjustCredit, BonusCredit, Command, DeductUsage, OpenAccount
from tests.cli.console import Cli, FilledLedger
from tests.support.apply_commands import applied
from worker.catalog import load_catalog

MONTH = ("--from", "2026-10-01", "--to", "2026-11-01")


def at(ledger: FilledLedger, time: str, *commands: Command) -> None:
    applied(ledger.engine, load_catalog(), *commands, now=datetime.fromisoformat(time))


@pytest.fixture(autouse=True)
def ann(ledger: FilledLedger) -> None:
    """Account of ann, with entries in September and October, one of them at the end of October in Berlin."""
    at(ledger, "2026-09-20T00:00:00Z", OpenAccount(reference_id="open", user_id="ann", tier="basic"))
    at(ledger, "2026-10-02T00:00:00Z", BonusCredit(reference_id="b", user_id="ann", tokens=500))
    at(
        ledger,
        "2026-10-31T23:30:00Z",
        DeductUsage(
            reference_id="=1+1", user_id="ann", tokens=200, feature="+cmd", description='"a", b\u00e4'
        ),
        AdjustCredit(
            reference_id="-a",
            user_id="ann",
            tokens=-100,
            reason="@SUM(A1)",
            actor="ops",
        ),
    )


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_statement_in_a_pipe_is_lines_between_opening_and_closing(ledger_cli: Cli) -> None:
    ended = ledger_cli("statement", "ann", *MONTH)
    first, names, *entries = ended.lines
    assert (ended.code, first) == (0, "opening balance\t100000")
    shown = [dict(zip(names.split("\t"), line.split("\t"), strict=True)) for line in entries[:-6]]
    assert [(row["reference"], row["amount"], row["after"]) for row in shown] == [
        ("b", "500", "100500"),
        ("=1+1", "-100000", "500"),  # the allocation, which had expired
        ("=1+1", "-200", "300"),
        ("-a", "-100", "200"),
    ]
    assert entries[-2] == "entries\t4"
    assert entries[-1] == "closing balance\t200"


def test_statement_on_a_terminal_has_a_title_and_its_totals(ledger_cli: Cli) -> None:
    shown = ledger_cli("statement", "ann", *MONTH, terminal=True).out
    assert "Statement of ann" in shown
    assert "2026-10-01 00:00:00Z" in shown
    assert "total usage" in shown


def test_days_begin_in_the_zone_that_is_named(ledger_cli: Cli) -> None:
    def references(*options: str) -> set[str]:
        shown = ledger_cli("statement", "ann", *MONTH, "--format", "json", *options).json
        assert shown["openingBalance"] + sum(shown["totals"].values()) == shown["closingBalance"]
        return {entry["referenceId"] for entry in shown["entries"]}

    assert references() == {"b", "=1+1", "-a"}
    assert references("--timezone", "Europe/Berlin") == {"b"}, "there it is November"


def test_time_may_be_given_instead_of_a_day(ledger_cli: Cli) -> None:
    period = ("--from", "2026-10-01T00:00:00Z", "--to", "2026-10-31T23:30:00+00:00")
    shown = ledger_cli("statement", "ann", *period, "--format", "json").json
    assert [entry["referenceId"] for entry in shown["entries"]] == ["b"]
    assert shown["end"] == "2026-10-31T23:30:00Z"


def test_statement_without_dates_is_of_the_present_month(ledger_cli: Cli) -> None:
    before = datetime.now(UTC)
    shown = ledger_cli("statement", "ann", "--format", "json").json
    start, end = datetime.fromisoformat(shown["start"]), datetime.fromisoformat(shown["end"])
    assert start.day == end.day == 1
    assert start <= before < end or end <= datetime.now(UTC)


def test_csv_follows_rfc_4180_and_adds_up(ledger_cli: Cli) -> None:
    text = ledger_cli("statement", "ann", *MONTH, "--format", "csv").out
    assert all(line.endswith("\r") for line in text.split("\n")[:-1])
    rows = table(text)
    opening, closing = rows[0], rows[-1]
    assert (opening["row"], closing["row"]) == ("opening", "closing")
    entries = [row for row in rows if row["row"] == "entry"]
    totals = {row["counter"]: int(row["amount"]) for row in rows if row["row"] == "total"}
    assert int(opening["balanceAfter"]) + sum(int(row["amount"]) for row in entries) == 200
    assert sum(totals.values()) == 200 - 100_000
    assert int(closing["balanceAfter"]) == 200
    (used,) = [row for row in entries if row["counter"] == "usage"]
    assert used["description"] == '"a", b\u00e4'


def test_csv_holds_no_formula_and_numbers_stay_numbers(ledger_cli: Cli) -> None:
    """OWASP, "CSV Injection": text that a spreadsheet would execute gets a leading quote."""
    rows = table(ledger_cli("statement", "ann", *MONTH, "--format", "csv").out)
    used, adjusted = [row for row in rows if row["counter"] in {"usage", "adjustments"}][:2]
    assert (used["referenceId"], used["feature"], used["amount"]) == ("'=1+1", "'+cmd", "-200")
    assert (adjusted["referenceId"], adjusted["description"]) == ("'-a", "'@SUM(A1)")
    texts = [row[name] for row in rows for name in ("type", "referenceId", "description", "feature")]
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r")) for text in texts)


def test_json_is_one_object_with_everything_in_it(ledger_cli: Cli) -> None:
    shown = ledger_cli("statement", "ann", *MONTH, "--format", "json").json
    assert (shown["userId"], shown["openingBalance"], shown["closingBalance"]) == ("ann", 100_000, 200)
    assert shown["count"] == len(shown["entries"])
    amounts = [entry["amount"] for entry in shown["entries"]]
    assert sum(amounts) == sum(shown["totals"].values()) == -99_800
    empty = ledger_cli(
        "statement", "ann", "--from", "2027-01-01", "--to", "2027-02-01", "--format", "json"
    ).json
    assert (empty["entries"], empty["totals"], empty["openingBalance"]) == ([], {}, 200)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_file_gets_what_standard_output_would(ledger_cli: Cli, form: str) -> None:
    ended = ledger_cli("statement", "ann", *MONTH, "--format", form, "--output", "out", terminal=True)
    assert (ended.code, ended.out) == (0, "")
    with Path("out").open(newline="", encoding="utf-8") as file:
        assert file.read() == ledger_cli("statement", "ann", *MONTH, "--format", form).out
    assert [path.name for path in Path().iterdir() if path.name.startswith("out")] == ["out"]


def test_file_that_cannot_be_written_is_wrong_usage_and_leaves_nothing(ledger_cli: Cli) -> None:
    ended = ledger_cli("statement", "ann", *MONTH, "--output", "no/such/folder")
    assert ended.code == 2
    assert "no/such/folder can't be written" in ended.error


def test_existing_file_stays_where_the_statement_fails(ledger_cli: Cli) -> None:
    Path("out").write_text("kept")
    assert ledger_cli("statement", "nobody", "--output", "out").code == 4
    assert Path("out").read_text() == "kept"


def test_statement_is_valid_json_with_any_text_of_producers(ledger_cli: Cli) -> None:
    text = ledger_cli("statement", "ann", *MONTH, "--format", "json").out
    assert json.loads(text)["entries"][-1]["description"] == "@SUM(A1)"
