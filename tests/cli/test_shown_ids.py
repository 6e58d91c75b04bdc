"""Ids for people: escapes stand beside one that isn't ASCII; for programs nothing changes."""

import json

import pytest

from schemas import DeductUsage
from tests.cli.console import Cli, FilledLedger
from worker.cli.text import shown_id
from worker.console import formats

CYRILLIC = "\u0430da"
BESIDE = CYRILLIC + r" (\u0430da)"


@pytest.mark.parametrize(
    ("id_", "shown"),
    [
        ("ada", "ada"),
        (r"\u0430da", r"\u0430da"),
        (CYRILLIC, BESIDE),
        ("zo\u00eb", "zo\u00eb " + r"(zo\u00eb)"),
        ("\U0001f600", "\U0001f600 " + r"(\U0001f600)"),
        ("a\u200db", r"a\u200db (a\u200db)"),
    ],
)
def test_escapes_stand_beside_an_id_that_is_not_ascii(id_: str, shown: str) -> None:
    assert shown_id(id_) == shown
    assert formats.shown_id(id_) == shown


def test_long_id_is_cut_on_a_page_and_its_escapes_too() -> None:
    shown = formats.shown_id("\u0430" * 200, 36)
    assert len(shown) == 72
    assert shown.endswith("…")


@pytest.mark.parametrize(
    ("command", "terminal"),
    [
        (("explain", f"use-{CYRILLIC}"), True),
        (("explain", f"use-{CYRILLIC}"), False),
        (("history", CYRILLIC), True),
        (("lots", CYRILLIC), False),
        (("statement", CYRILLIC), True),
        (("usage", CYRILLIC), True),
    ],
)
def test_tables_show_escapes_of_a_look_alike(
    ledger_cli: Cli, ledger: FilledLedger, command: tuple[str, ...], *, terminal: bool
) -> None:
    ledger.open(CYRILLIC)
    ledger.apply(DeductUsage(reference_id=f"use-{CYRILLIC}", user_id=CYRILLIC, tokens=5))
    ended = ledger_cli(*command, terminal=terminal)
    assert ended.code == 0
    assert r"\u0430da)" in ended.out


def test_json_has_the_id_alone(ledger_cli: Cli, ledger: FilledLedger) -> None:
    ledger.open(CYRILLIC)
    assert json.loads(ledger_cli("balance", CYRILLIC, "--json").out)["userId"] == CYRILLIC
