"""Families of events: whichever of them come, in whatever order, each payment is credited once."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, combinations, permutations
from typing import Any

import pytest

from schemas import Command, DisputeClosed, OpenAccount
from tests.gateways.replay import RESOLVER, mapper_of, replay_cases
from tests.support.fake_ledger import FakeLedger
from worker.catalog import load_catalog
from worker.gateways import PaymentSource, StripeRules, map_stripe

NOW = datetime(2026, 11, 28, tzinfo=UTC)
BEFORE, BOUGHT = 100_000, 275_000
PRO, PAID_AT = 500_000, 1_795_600_000
SOURCES = {
    PaymentSource.PAYMENT_INTENT: "intent succeeded",
    PaymentSource.CHECKOUT_SESSION: "session paid",
    PaymentSource.CHARGE: "charge succeeded",
}
#: Rows about one purchase; each is there whatever the source is.
PURCHASE = (
    "intent succeeded",
    "session paid",
    "charge succeeded",
    "charge updated",
    "charge refunded, cumulative",
)
ORDERS = 24


def event_of(name: str, gateway: str = "stripe") -> Any:
    """Return a copy of the event of a row."""
    return copy.deepcopy(next(case.event for case in replay_cases(gateway) if case.name == name))


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Return all subsets that hold something."""
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))


def orders(names: Sequence[str], chance: random.Random) -> list[tuple[str, ...]]:
    """Return all orders, or some of many, each with one event that comes again at the end."""
    found = list(permutations(names))
    chosen = found if len(found) <= ORDERS else chance.sample(found, ORDERS)
    return [(*order, chance.choice(order)) for order in chosen]


def ledger_after(commands: Sequence[Command], *, tier: str = "basic") -> FakeLedger:
    """Return a ledger that took the commands, one a batch."""
    ledger = FakeLedger(load_catalog())
    ledger.apply([OpenAccount(reference_id="open", user_id="ada", tier=tier)], NOW)
    for command in commands:
        ledger.apply([command], NOW)
    return ledger


@pytest.mark.parametrize("source", PaymentSource)
def test_purchase_is_credited_once_by_any_of_its_events_that_hold_the_source(source: PaymentSource) -> None:
    chance, rules = random.Random(source), StripeRules(RESOLVER, source)
    holding = {SOURCES[source], *(["charge updated"] if source is PaymentSource.CHARGE else [])}
    for subset in subsets(PURCHASE):
        expected = BEFORE + BOUGHT * bool(holding.intersection(subset))
        for order in orders(subset, chance):
            commands = [one for name in order for one in map_stripe(event_of(name), rules).commands]
            ledger = ledger_after(commands)
            assert ledger.accounts["ada"].balance == expected, order


#: Events of one refund, and whether it stands in the end where these alone have come.
REFUND = {
    "refund created and done": True,
    "refund pending": None,
    "refund of old, updated to done": True,
    "refund failed after it was done": False,
    "refund failed": False,
}


def test_refund_counts_once_unless_any_of_its_events_says_that_it_failed() -> None:
    chance = random.Random(5)
    for subset in subsets(tuple(REFUND)):
        sent = [REFUND[name] for name in subset]
        stands = True in sent and False not in sent
        expected = BEFORE + (BOUGHT * 1099 // 1999 if stands else BOUGHT)
        for order in orders(("intent succeeded", *subset), chance):
            commands = [one for name in order for one in mapper_of("stripe")(event_of(name)).commands]
            ledger = ledger_after(commands)
            assert abs(ledger.accounts["ada"].balance - expected) <= 2, order
            rejected = [one.reference_id for one in ledger.outcomes.values() if not one.is_applied]
            assert rejected == [], order


def test_invoice_paid_in_parts_is_found_by_the_name_of_each_part() -> None:
    (command,) = mapper_of("stripe")(event_of("invoice paid in two parts")).commands
    for payment, name in (
        ({"payment_intent": "pi_One"}, "stripe:pi_One"),
        ({"charge": "ch_Two"}, "stripe:ch_Two"),
    ):
        refund = event_of("refund created and done")
        refund["data"]["object"] |= {"payment_intent": None, "charge": None, **payment}
        (back,) = mapper_of("stripe")(refund).commands
        assert json.loads(back.to_json())["originalReferenceId"] == name
        assert name in json.loads(command.to_json())["payment"]["alsoKnownAs"]


def test_refund_of_an_invoice_that_names_no_payment_counts_in_any_order() -> None:
    """Since API version 2025-03-31 only the payment of the invoice says which intent paid it."""
    refund = event_of("refund created and done")
    refund["data"]["object"] |= {"payment_intent": "pi_Nov", "charge": "ch_Nov", "amount": 1450}
    events = (
        event_of("invoice since 2025-03-31, which names no payment"),
        event_of("payment of an invoice"),
        refund,
    )
    commands = [one for event in events for one in mapper_of("stripe")(event).commands]
    for order in permutations(commands):
        ledger = ledger_after(order, tier="free")
        assert ledger.accounts["ada"].reversed == 490_000 * 1450 // 2900, order
        assert not ledger.waiting


def test_end_of_an_earlier_subscription_takes_nothing_from_a_period_paid_since() -> None:
    """It comes late, after the user has subscribed again."""
    paid, ended = (
        event_of("invoice of a new subscription"),
        event_of("subscription deleted at the end of its period"),
    )
    earlier = {
        "id": "sub_Old",
        "ended_at": PAID_AT - 60,
        "items": {"data": [{"current_period_end": PAID_AT - 60}]},
    }
    ended["data"]["object"] |= earlier
    commands = [one for event in (paid, ended) for one in mapper_of("stripe")(event).commands]
    without, account = (ledger_after(some, tier="free").accounts["ada"] for some in (commands[:1], commands))
    assert account.balance == without.balance == PRO


#: Events of one dispute, by time; the last closing of those that have come decides.
DISPUTE = (
    "inquiry opened",
    "inquiry closed",
    "dispute opened",
    "dispute won",
    "dispute lost",
    "dispute lost again",
)


def test_last_closing_of_a_dispute_decides_whichever_of_its_events_come() -> None:
    chance = random.Random(6)
    for subset in subsets(DISPUTE):
        commands = {name: mapper_of("stripe")(event_of(name)).commands[0] for name in subset}
        closings = [command for command in commands.values() if isinstance(command, DisputeClosed)]
        last = max(closings, key=lambda one: (one.occurred_at or NOW, one.result == "lost"), default=None)
        is_lost = last is not None and last.result == "lost"
        payment = mapper_of("stripe")(event_of("intent succeeded")).commands[0]
        for order in orders(("paid", *subset), chance)[:12]:
            ledger = ledger_after([payment if name == "paid" else commands[name] for name in order])
            assert ledger.accounts["ada"].balance == BEFORE + BOUGHT * (not is_lost), order


PADDLE = {
    "transaction of a package": "paid",
    "transaction updated when it was complete": "paid",
    "transaction revised": "paid",
    "refund asked for": None,
    "refund approved": "refunded",
    "refund reversed": "failed",
}


def test_purchase_at_paddle_counts_once_whichever_of_its_events_come() -> None:
    chance = random.Random(7)
    for subset in subsets(tuple(PADDLE)):
        sent = {PADDLE[name] for name in subset}
        is_paid, is_refunded = "paid" in sent, "refunded" in sent and "failed" not in sent
        for order in orders(subset, chance)[:12]:
            found = [one for name in order for one in mapper_of("paddle")(event_of(name, "paddle")).commands]
            balance = ledger_after(found).accounts["ada"].balance
            if is_paid and is_refunded:
                assert BEFORE < balance < BEFORE + BOUGHT, order
            else:
                assert balance == BEFORE + BOUGHT * is_paid, order
