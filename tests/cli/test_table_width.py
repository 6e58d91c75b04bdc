"""Columns that fit a terminal, and every table of the command line at 80 columns."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from rich.cells import cell_len

from schemas import BonusCredit, DeductUsage, PaymentRefunded, PaymentSucceeded, ReserveUsage
from tests.cli.console import Cli, FilledLedger
from tests.support.rabbit_client import RabbitClient
from worker.cli.table_width import Column, Fit, fitted

SOON = datetime.now(UTC) + timedelta(days=3)
UUID = "0b6c1f0e-5f0a-4d7c-9b1e-2f6f6a1c3d4e"

COLUMNS = (Column("id"), Column("when", 1), Column("kind", 2), Column("text", 3, text=True))
ROWS = [("a" * 10, "2026-11-26", "usage", "t" * 50), ("b", "–", "x", "u")]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (None, {0: 10, 1: 10, 2: 5, 3: 50}),
        (200, {0: 10, 1: 10, 2: 5, 3: 50}),
        (81, {0: 10, 1: 10, 2: 5, 3: 50}),
        (80, {0: 10, 1: 10, 2: 5, 3: 49}),
        (43, {0: 10, 1: 10, 2: 5, 3: 12}),
        (42, {0: 10, 1: 10, 2: 5}),
        (28, {0: 10, 1: 10}),
        (21, {0: 10, 2: 5}),
        (16, {0: 10}),
        (4, {0: 10}),
    ],
)
def test_column_of_the_highest_rank_is_cut_then_dropped(width: int | None, shown: dict[int, int]) -> None:
    fit = fitted(COLUMNS, ROWS, width)
    assert fit.widths == shown
    assert {*fit.widths, *fit.dropped} == {0, 1, 2, 3}


def test_narrow_column_fills_the_space_of_a_wide_one_that_is_dropped() -> None:
    columns = (Column("a"), Column("b", 1), Column("c", 2))
    assert fitted(columns, [("x" * 9, "y" * 20, "z" * 5)], 20).widths == {0: 9, 2: 5}


def test_last_column_of_one_rank_is_dropped_first() -> None:
    columns = (Column("a"), Column("b", 1), Column("c", 1))
    assert fitted(columns, [("x" * 9,) * 3], 25).dropped == (2,)


def test_identifier_is_cut_only_beyond_48() -> None:
    assert fitted((Column("id"),), [("x" * 48,)], 20).width == 48
    assert fitted((Column("id"),), [("x" * 255,)], 80).width == 80


def test_texts_share_the_space_that_is_left() -> None:
    columns = (Column("a", text=True), Column("b", text=True))
    assert fitted(columns, [("x" * 60, "y" * 60)], 82).widths == {0: 40, 1: 40}
    assert fitted(columns, [("x" * 60, "y" * 20)], 82).widths == {0: 60, 1: 20}


def test_wide_characters_count_twice() -> None:
    assert fitted((Column("a"),), [("語" * 5,)], 80) == Fit({0: 10})


# -- tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def world(cli: Cli, ledger: FilledLedger, rabbit: RabbitClient) -> Cli:
    """A ledger with long references, and dead letters of long messages; a replay of one of them."""
    ledger.open("ann")
    ledger.apply(
        PaymentSucceeded(
            reference_id=f"pay-{UUID}",
            user_id="ann",
            package_id="standard",
            amount_minor=1_999,
            currency="USD",
        ),
        DeductUsage(
            reference_id=UUID, user_id="ann", tokens=12_345, feature="chat" * 8, description="words " * 20
        ),
        PaymentRefunded(
            reference_id=f"gone-{UUID}",
            user_id="ann",
            original_reference_id=f"pay-{UUID}",
            amount_minor=999,
            currency="USD",
        ),
        BonusCredit(reference_id=f"b-{UUID}", user_id="ann", tokens=50, expires_at=SOON),
        ReserveUsage(reference_id=f"h-{UUID}", user_id="ann", tokens=300, ttl_seconds=3_600),
    )
    for number in range(3):
        message = {"type": "usage.deduct", "referenceId": f"{UUID}-{number}", "userId": UUID, "tokenz": 5}
        rabbit.publish(message, exchange="", routing_key="billing.dead", message_id=f"m-{number}")
    cli("dead-letters", "drain")
    cli("dead-letters", "note", "1", "a note of many words " * 10)
    cli("dead-letters", "replay", "1", "2", "--reason", "a long reason " * 10, "--patience", "0")
    cli("dead-letters", "replay", "cancel", "1", "--reason", "x")
    return cli


TABLES: dict[tuple[str, ...], Sequence[str]] = {
    ("history", "ann"): (UUID, "gone-" + UUID),
    ("lots", "ann", "--all"): ("b-" + UUID,),
    ("holds", "ann", "--all"): ("h-" + UUID,),
    ("expiring", "ann", "--days", "60"): (),
    ("expiring", "--days", "60"): (),
    ("statement", "ann"): (UUID,),
    ("stats",): (),
    ("usage", "ann"): (),
    ("explain", f"pay-{UUID}"): ("gone-" + UUID,),
    ("explain", UUID): (),
    ("dead-letters", "groups"): (),
    ("dead-letters", "list"): (),
    ("dead-letters", "show", "1"): (),
    ("dead-letters", "replay", "list"): (),
    ("dead-letters", "replay", "show", "1"): (),
    ("dead-letters", "replay", "1", "--dry-run"): (),
    ("console", "users", "list"): (),
}


def test_every_table_fits_80_columns_and_wide_shows_all(world: Cli, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.touch(0o600)
    world.environment["BILLING_CONSOLE_USERS"] = str(users)
    for command, identifiers in TABLES.items():
        shown = world(*command, terminal=True, COLUMNS="80")
        assert shown.code in {0, 1}, shown.all
        assert [line for line in map(click.unstyle, shown.lines) if cell_len(line) > 80] == [], command
        for identifier in identifiers:
            assert identifier in shown.out, (command, identifier)
        if "not shown: " in shown.out or "…" in shown.out:
            wide = world(*command, "--wide", terminal=True, COLUMNS="80")
            assert "not shown: " not in wide.out
            assert "…" not in wide.out


def test_pipe_gets_all_columns(world: Cli) -> None:
    assert "not shown: " in world("history", "ann", terminal=True, COLUMNS="80").out
    names = world("history", "ann", COLUMNS="80").lines[0].split("\t")
    assert [name for name in names if name in {"before", "due", "feature"}] == ["before", "due", "feature"]
