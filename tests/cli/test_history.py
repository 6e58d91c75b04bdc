"""``history``: pages, and texts of producers on a terminal and in a pipe."""

import json
import shlex

import pytest
from sqlalchemy import text

from schemas import BonusCredit
from tests.cli.console import Cli, FilledLedger

pytestmark = pytest.mark.usefixtures("paying_ann")


def test_history_is_shown_newest_first(ledger_cli: Cli) -> None:
    names, *entries = ledger_cli("history", "ann").rows
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
        evil = json.dumps({"feature": "\x1b[2Jx\ty\nz\x9b[red]\u2028\u202e"})
        connection.execute(text("UPDATE operations SET content = :evil WHERE type < 20"), {"evil": evil})
    shown = ledger_cli("history", "ann", terminal=terminal)
    assert r"\x1b[2Jx\ty\nz\x9b[red]\u2028\u202e" in shown.out.replace("\n", "")
    if not terminal:
        assert {len(row) for row in shown.rows} == {11}
