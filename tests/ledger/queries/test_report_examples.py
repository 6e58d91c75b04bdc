"""Reports by example: what becomes of the money of sold tokens, and of the tokens of all sources."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command, SettleAccount
from tests.support.apply_commands import applied
from tests.support.commands import adjust, bonus, change, deduct, failed, opening, payment, reserve, went_back
from tests.support.report_identities import ReportReader
from tests.support.strategies import TAKING_CATALOG
from worker.ledger.engine import ledger_engine

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
END = START + timedelta(days=365)
_DAY = timedelta(days=1)


class ExampleLedger:
    """Ledger of ada, who is on a tier that grants nothing, and its reports."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reader = ReportReader(engine, TAKING_CATALOG.payments, END)
        self.at(0, opening("open", "ada", "empty"))

    def at(self, days: float, *commands: Command) -> None:
        """Apply commands so many days after the start."""
        applied(self.engine, TAKING_CATALOG, *commands, now=START + days * _DAY)

    def row(self, name: str, start: float = -1, end: float = 365) -> dict[str, Any]:
        """Return the only row of a report, without what is zero."""
        rows = self.reader.rows(name, START + start * _DAY, START + end * _DAY)
        (row,) = rows or [{}]
        return {column: cell for column, cell in row.items() if cell}


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[ExampleLedger]:
    engine = ledger_engine(sqlite_url)
    yield ExampleLedger(engine)
    engine.dispose()


def bought(**fields: Any) -> Command:
    """Return a payment of 9.99 EUR for 90 tokens and 10 of bonus, that never expire."""
    return payment(999, "EUR", reference_id="pay", user_id="ada", package_id="rich", **fields)


def test_money_is_deferred_until_tokens_are_used(ledger: ExampleLedger) -> None:
    ledger.at(1, bought())
    assert ledger.row("revenue", end=2) == {
        "currency": "EUR",
        "payments": 1,
        "sold": 100,
        "outstanding": 100,
        "gross": 999,
        "net": 999,
        "closing": 999,
    }
    ledger.at(40, deduct(40, reference_id="use", user_id="ada"))
    assert ledger.row("revenue", start=30) == {
        "currency": "EUR",
        "used": 40,
        "outstanding": 60,
        "opening": 999,
        "recognised": 400,  # 399.6 of 999: the larger remainder, and 599.4 are left
        "closing": 599,
    }


def test_money_that_goes_back_takes_its_tokens_along(ledger: ExampleLedger) -> None:
    ledger.at(1, bought())
    ledger.at(2, deduct(40, reference_id="use", user_id="ada"))
    ledger.at(40, went_back(333, "EUR", reference_id="back", user_id="ada", original_reference_id="pay"))
    assert ledger.row("revenue", start=30) == {
        "currency": "EUR",
        "taken_back": 33,
        "outstanding": 27,
        "net": -333,
        "opening": 599,
        "recognised": -2,  # 666 for 67 tokens: 397.6 of them for the 40 that were used, 398
        "closing": 268,
    }
    assert ledger.row("payments", start=30) == {"currency": "EUR", "refunded": 333, "net": -333}


def test_failed_payment_leaves_no_revenue(ledger: ExampleLedger) -> None:
    ledger.at(1, bought(), deduct(40, reference_id="use", user_id="ada"))
    ledger.at(2, failed(reference_id="gone", user_id="ada", original_reference_id="pay"))
    whole = ledger.row("revenue")
    assert (whole["gross"], whole.get("net"), whole.get("recognised"), whole.get("closing")) == (
        *(999, None, None, None),
    )
    assert ledger.row("payments") == {"currency": "EUR", "payments": 1, "gross": 999, "failed": 999}


def test_bonus_has_its_share_and_free_credit_has_no_money(ledger: ExampleLedger) -> None:
    ledger.at(1, bonus(50, reference_id="gift", user_id="ada"), bought())
    ledger.at(2, deduct(140, reference_id="use", user_id="ada"))
    assert ledger.row("revenue")["used"] + ledger.row("revenue")["outstanding"] == 100
    everything = ledger.row("revenue")
    assert everything["recognised"] + everything.get("closing", 0) == 999
    assert everything["recognised"] == round(999 * everything["used"] / 100)


def test_tokens_that_expire_are_breakage(ledger: ExampleLedger) -> None:
    ledger.at(1, payment(999, "EUR", reference_id="brief", user_id="ada", package_id="brief"))
    ledger.at(300, SettleAccount(reference_id="look", user_id="ada"))
    found = ledger.row("revenue")
    assert found["expired"] == sum(row["expired"] for row in ledger.reader.rows("breakage", START, END))
    assert found["breakage"] == 999 - found.get("closing", 0)
    assert "recognised" not in found


def test_tokens_that_repay_a_debt_were_used_before(ledger: ExampleLedger) -> None:
    ledger.at(1, adjust(-30, reference_id="slip", user_id="ada", allow_negative=True))
    ledger.at(2, bought())
    found = ledger.row("revenue")
    assert (found["used"], found["outstanding"], found["recognised"], found["closing"]) == (30, 70, 300, 699)


def test_money_without_tokens_is_recognised_at_once(ledger: ExampleLedger) -> None:
    paid = {"reference_id": "invoice", "amount_minor": 500, "currency": "EUR"}
    ledger.at(1, change("empty", reference_id="again", user_id="ada", payment=paid))
    assert ledger.row("revenue") == {
        "currency": "EUR",
        "payments": 1,
        "gross": 500,
        "net": 500,
        "recognised": 500,
    }


def test_holds_are_part_of_what_is_outstanding(ledger: ExampleLedger) -> None:
    ledger.at(1, bonus(50, reference_id="gift", user_id="ada"))
    ledger.at(2, reserve(20, reference_id="hold", user_id="ada", ttl_seconds=86_400))
    ledger.at(5, SettleAccount(reference_id="look", user_id="ada"))
    assert ledger.row("liability", end=2) == {"source": "bonus", "bonus": 50, "closing": 50}
    assert ledger.row("liability", start=2, end=3) == {
        "source": "bonus",
        "opening": 50,
        "closing": 50,
        "held": 20,
    }
    assert ledger.row("liability", start=3)["closing"] == 50
    assert "held" not in ledger.row("liability", start=3)


def test_range_begins_with_its_first_instant_and_ends_before_its_last(ledger: ExampleLedger) -> None:
    ledger.at(1, bonus(50, reference_id="gift", user_id="ada"))
    ledger.at(2, deduct(5, reference_id="use", user_id="ada"))
    assert ledger.row("usage", start=1, end=2) == {}
    assert ledger.row("usage", start=2, end=3) == {"used": 5, "entries": 1}
