"""Payments that go back: every order of what may happen, under every policy, each event also twice."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import pytest

from schemas import (
    AdjustCredit,
    Command,
    DeductUsage,
    DisputeClosed,
    OpenAccount,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
)
from tests.support.fake_ledger import FakeLedger
from tests.support.model import Model, predicted
from tests.support.model_comparison import as_lot, assert_same_ledger
from tests.support.strategies import CATALOGS, NOW, SMALL_CATALOG, STRICT_CATALOG
from worker.catalog import Catalog

COMMON: dict[str, Any] = {"user_id": "u", "original_reference_id": "p", "currency": "EUR"}

OPENING = OpenAccount(reference_id="o", user_id="u", tier="free")
# 50 tokens and a bonus of 35 for 9.99.
PURCHASE = PaymentSucceeded(
    reference_id="p", user_id="u", package_id="brief", amount_minor=999, currency="EUR"
)
USAGE = DeductUsage(reference_id="d", user_id="u", tokens=150)
PART = PaymentRefunded(reference_id="part", amount_minor=333, **COMMON)
REST = PaymentRefunded(reference_id="rest", amount_minor=666, **COMMON)
DISPUTED = PaymentDisputed(reference_id="disputed", dispute_id="x", amount_minor=500, **COMMON)
LOST = DisputeClosed(reference_id="lost", dispute_id="x", result="lost", amount_minor=400, **COMMON)
WON = DisputeClosed(reference_id="won", dispute_id="x", result="won", amount_minor=500, **COMMON)
FAILED = PaymentFailed(reference_id="failed", user_id="u", original_reference_id="p")
OWED = AdjustCredit(
    reference_id="owed", user_id="u", tokens=-160, reason="a slip", actor="ann", allow_negative=True
)

policies = pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)


def orders_of_two_each(commands: Sequence[Command]) -> Iterator[list[Command]]:
    """Every order in which each of the commands comes twice."""

    def behind(left: dict[Command, int]) -> Iterator[list[Command]]:
        if not left:
            yield []
        for command, times in left.items():
            rest = {**left, command: times - 1}
            for order in behind({other: count for other, count in rest.items() if count}):
                yield [command, *order]

    return behind(dict.fromkeys(commands, 2))


@pytest.mark.parametrize("catalog", [SMALL_CATALOG, STRICT_CATALOG], ids=["debt", "write off"])
def test_every_order_of_purchase_usage_refund_and_lost_dispute_ends_alike(
    catalog: Catalog,
) -> None:
    count = 0
    for count, order in enumerate(orders_of_two_each([PURCHASE, USAGE, PART, LOST]), start=1):
        ledger, model = FakeLedger(catalog), Model(catalog)
        place = count % 9
        for batch in ([OPENING, *order[:place]], order[place:]):
            expected = [model.apply(command, NOW) for command in batch]
            assert [predicted(reply) for reply in ledger.apply(batch)] == expected
        assert [as_lot(lot) for lot in ledger.lots_of("u")] == model.lots("u")
    assert count == 2_520


ENDINGS: dict[str, list[Command]] = {
    "refunded in two parts": [PURCHASE, PART, REST],
    "refunded in part, and a dispute lost": [PURCHASE, PART, DISPUTED, LOST],
    "refunded in part, and a dispute won": [PURCHASE, PART, DISPUTED, WON],
    "a dispute that is open": [PURCHASE, PART, DISPUTED],
    "a dispute won and then lost": [PURCHASE, DISPUTED, WON, LOST],
    "failed": [PURCHASE, PART, DISPUTED, FAILED],
}
EVERYTHING: list[Command] = [PURCHASE, PART, REST, DISPUTED, LOST, FAILED]


@policies
@pytest.mark.parametrize(
    ("events", "before"),
    [
        pytest.param(events, before, id=f"{name}{and_debt}")
        for name, events in ENDINGS.items()
        for and_debt, before in {"": [], ", with a debt": [OWED]}.items()
    ]
    + [pytest.param(EVERYTHING, [], id="everything at once")],
)
def test_events_of_one_payment_end_in_the_same_ledger_whatever_their_order(
    events: list[Command], before: list[Command], catalog: Catalog
) -> None:
    ends = []
    for number, order in enumerate(permutations(events)):
        ledger, model = FakeLedger(catalog), Model(catalog)
        # Each again somewhere behind its first delivery, which is another place each time.
        redelivered = list(order)
        for step, command in enumerate(order):
            redelivered.insert(redelivered.index(command) + 1 + (number + step) % 5, command)
        batch = [OPENING, *before, *redelivered]
        replies = ledger.apply(batch)
        assert [predicted(reply) for reply in replies] == [model.apply(command, NOW) for command in batch]
        ends.append(end_of(ledger))
        if number % 24 == 0:
            assert_same_ledger(ledger, model)
    assert ends == [ends[0]] * len(ends)


def end_of(ledger: FakeLedger) -> dict[str, int]:
    account = ledger.accounts["u"]
    return {
        "balance": account.balance,
        "debt": account.debt,
        "in lots": sum(lot.remaining for lot in ledger.lots_of("u")),
        "collected": sum(event.collected for event in ledger.payment_events),
        "uncollected": sum(event.uncollected for event in ledger.payment_events),
    }
