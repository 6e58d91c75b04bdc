"""Events of the gateways on the ledger: whatever their order and their copies, one end, and the right one."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from schemas import Command, DeductUsage, OpenAccount, SettleAccount
from tests.gateways.replay import replay_cases
from tests.support.fake_ledger import FakeLedger
from worker.catalog import load_catalog

NOW = datetime(2026, 11, 28, tzinfo=UTC)
#: What the account has without the payment; what the payment gives, base and bonus.
BEFORE, BOUGHT = 100_000, 275_000
ORDERS = 60
_OPENING = OpenAccount(reference_id="open", user_id="ada", tier="basic")


def kept(paid: int, gone: int) -> int:
    """Return the balance after so much of the money went back, within a token of each rounding."""
    return BEFORE + BOUGHT * (paid - gone) // paid


#: Gateway, names of rows of the replay table, and the balance at the end.
SCENARIOS: dict[str, tuple[str, list[str], int]] = {
    "paid": ("stripe", ["intent succeeded"], BEFORE + BOUGHT),
    "paid, and passed over by the other objects": (
        "stripe",
        ["intent succeeded", "session passed over", "charge passed over", "charge refunded, cumulative"],
        BEFORE + BOUGHT,
    ),
    "half refunded": ("stripe", ["intent succeeded", "refund created and done"], kept(1999, 900)),
    "half refunded, as two events report": (
        "stripe",
        ["intent succeeded", "refund created and done", "refund of old, updated to done"],
        kept(1999, 900),
    ),
    "refund that names the charge alone": (
        "stripe",
        ["intent succeeded", "refund that names the charge alone"],
        kept(1999, 900),
    ),
    "refund that failed afterwards": (
        "stripe",
        ["intent succeeded", "refund created and done", "refund failed after it was done"],
        BEFORE + BOUGHT,
    ),
    "refund that failed, and another one": (
        "stripe",
        [
            "intent succeeded",
            "refund created and done",
            "refund failed",
            "refund that names the charge alone",
        ],
        kept(1999, 900),
    ),
    "inquiry that is closed": (
        "stripe",
        ["intent succeeded", "inquiry opened", "inquiry under review", "inquiry closed"],
        BEFORE + BOUGHT,
    ),
    "dispute won": (
        "stripe",
        ["intent succeeded", "dispute opened", "dispute whose money is withdrawn", "dispute won"],
        BEFORE + BOUGHT,
    ),
    "dispute lost": ("stripe", ["intent succeeded", "dispute opened", "dispute lost"], BEFORE),
    "dispute won, then lost": (
        "stripe",
        ["intent succeeded", "dispute opened", "dispute won", "dispute lost again"],
        BEFORE,
    ),
    "dispute lost, and refunded by half": (
        "stripe",
        ["intent succeeded", "refund created and done", "dispute opened", "dispute lost"],
        BEFORE,
    ),
    "dispute prevented": ("stripe", ["intent succeeded", "dispute prevented"], BEFORE + BOUGHT),
    "paid at Paddle, partly by credit": (
        "paddle",
        ["transaction partly paid by credit"],
        BEFORE + BOUGHT,
    ),
    "paid at Paddle with tax and discount": (
        "paddle",
        ["transaction with tax and discount", "refund with its tax"],
        kept(2141, 1071),
    ),
    "refund asked for, approved and reversed": (
        "paddle",
        ["transaction of a package", "refund asked for", "refund approved", "refund reversed"],
        BEFORE + BOUGHT,
    ),
    "chargeback": ("paddle", ["transaction of a package", "chargeback", "chargeback, updated"], BEFORE),
    "chargeback and its reverse": (
        "paddle",
        ["transaction of a package", "chargeback", "reverse of a chargeback"],
        BEFORE + BOUGHT,
    ),
    "chargeback, its reverse, and a second one": (
        "paddle",
        ["transaction of a package", "chargeback", "reverse of a chargeback", "second chargeback"],
        BEFORE,
    ),
    "chargeback after a warning that is taken back": (
        "paddle",
        ["transaction of a package", "warning of a chargeback", "chargeback", "warning taken back"],
        BEFORE,
    ),
    "tax refunded": ("paddle", ["transaction of a package", "refund of the tax alone"], BEFORE + BOUGHT),
}


def commands_of(gateway: str, names: Sequence[str]) -> list[Command]:
    """Return the commands of these rows."""
    table = {case.name: case for case in replay_cases(gateway)}
    return [command for name in names for command in table[name].mapped().commands]


def ledger_after(commands: Sequence[Command], chance: random.Random) -> FakeLedger:
    """Take the commands in batches of any size, each once more somewhere behind its first delivery."""
    again = list(commands)
    for command in commands:
        again.insert(chance.randint(again.index(command) + 1, len(again)), command)
    ledger = FakeLedger(load_catalog())
    ledger.apply([_OPENING], NOW)
    while again:
        size = chance.randint(1, 3)
        ledger.apply(again[:size], NOW)
        again = again[size:]
    ledger.apply([SettleAccount(reference_id="settle", user_id="ada")], NOW + timedelta(seconds=1))
    return ledger


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_in_any_order_end_in_the_right_balance(name: str) -> None:
    gateway, rows, expected = SCENARIOS[name]
    commands, chance = commands_of(gateway, rows), random.Random(name)
    orders = list(permutations(commands))
    for order in orders if len(orders) <= ORDERS else chance.sample(orders, ORDERS):
        ledger = ledger_after(order, chance)
        references = [command.reference_id for command in order]
        assert abs(ledger.accounts["ada"].balance - expected) <= 2, references
        assert not ledger.waiting, references
        rejected = [outcome.reference_id for outcome in ledger.outcomes.values() if not outcome.is_applied]
        assert rejected == [], references


def test_fraud_warning_stops_usage_of_the_account_that_the_payment_is_on() -> None:
    commands = commands_of("stripe", ["fraud warning", "intent succeeded", "fraud warning updated"])
    ledger = ledger_after(commands, random.Random(1))
    (reply,) = ledger.apply([DeductUsage(reference_id="job", user_id="ada", tokens=1)], NOW)
    assert reply["code"] == "account_frozen"
    assert ledger.accounts["ada"].balance == BEFORE + BOUGHT
