"""Subscriptions of gateways on the ledger: a paid period is granted once and goes back with its payment."""

import copy
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

from schemas import Command, OpenAccount
from tests.gateways.replay import mapper_of, replay_cases
from tests.support.fake_ledger import FakeLedger
from worker.catalog import load_catalog

_DAY = 86_400
_BEGAN = 1_795_600_000
NOW = datetime.fromtimestamp(_BEGAN + 3_600, UTC)
FREE, PRO, ROLLED = 10_000, 500_000, 100_000


def event_of(gateway: str, name: str) -> Any:
    """Return a copy of the event of a row."""
    return copy.deepcopy(next(case.event for case in replay_cases(gateway) if case.name == name))


def commands_of(gateway: str, *events: Any) -> list[Command]:
    """Return the commands of these events."""
    return [command for event in events for command in mapper_of(gateway)(event).commands]


def opened() -> FakeLedger:
    """Return a ledger with an account that was opened free, 40 days before the period."""
    ledger = FakeLedger(load_catalog())
    at = datetime.fromtimestamp(_BEGAN - 40 * _DAY, UTC)
    ledger.apply([OpenAccount(reference_id="open", user_id="ada", tier="free")], at)
    return ledger


def test_paid_invoice_grants_the_gateways_period_once_in_any_order() -> None:
    invoice = event_of("stripe", "invoice of a new subscription")
    events = [invoice, event_of("stripe", "subscription resumed"), invoice]
    for order in permutations(commands_of("stripe", *events)):
        ledger = opened()
        for command in order:
            ledger.apply([command], NOW)
        account = ledger.accounts["ada"]
        assert (account.tier, account.balance) == ("pro", FREE + PRO)


def test_invoice_of_a_cycle_grants_the_next_period() -> None:
    ledger = opened()
    ledger.apply(commands_of("stripe", event_of("stripe", "invoice of a new subscription")), NOW)
    cycle = event_of("stripe", "invoice of a cycle")
    cycle["created"] = _BEGAN + 30 * _DAY + 3_600
    found = cycle["data"]["object"]
    found |= {"id": "in_Dec", "payment_intent": "pi_Dec", "charge": "ch_Dec"}
    found["lines"]["data"][0]["period"] = {"start": _BEGAN + 30 * _DAY, "end": _BEGAN + 61 * _DAY}
    ledger.apply(commands_of("stripe", cycle), datetime.fromtimestamp(cycle["created"], UTC))
    assert ledger.accounts["ada"].balance == PRO + ROLLED


def test_refund_of_an_invoice_takes_its_period_back_in_any_order() -> None:
    refund = event_of("stripe", "refund created and done")
    refund["data"]["object"] |= {"payment_intent": "pi_Nov", "charge": "ch_Nov", "amount": 2_900}
    invoice = event_of("stripe", "invoice of a new subscription")
    for order in permutations(commands_of("stripe", invoice, refund)):
        ledger = opened()
        for command in order:
            ledger.apply([command], NOW)
        assert ledger.accounts["ada"].balance == FREE
        assert not ledger.waiting


def test_subscription_that_is_canceled_at_paddle_leaves_no_allocation() -> None:
    names = ["period of a subscription", "subscription will end", "subscription canceled"]
    ledger = opened()
    for command in commands_of("paddle", *(event_of("paddle", name) for name in names)):
        ledger.apply([command], NOW)
    assert ledger.accounts["ada"].balance == 0
