"""Opening at sign-up: a user's first usage, credit or payment opens the account."""

from itertools import permutations
from typing import Any

import pytest

from schemas import COMMAND_TYPES, Command, CommandAboutPayment, OpeningCommand, PaymentNamed
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    closed,
    deduct,
    disputed,
    extend,
    failed,
    opening,
    payment,
    record,
    refund,
    refund_failed,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.model_comparison import as_lot
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.catalog import Catalog
from worker.core.periods import months_after


def opening_on(tier: str) -> Catalog:
    return SMALL_CATALOG.model_copy(update={"auto_open": tier})


FREE = opening_on("free")

OPENS: list[Command] = [
    deduct(10),
    upload(5),
    record("page", 1),
    reserve(10),
    payment(),
    bonus(5),
    adjust(5),
]
NAMES = PaymentNamed(reference_id="n", original_reference_id="p", also_known_as=("q",))
#: What waits for its payment belongs to nobody until that comes.
OF_PAYMENTS: list[Command] = [went_back(), refund_failed("e"), disputed(), closed("won"), failed()]
OPENS_NOT: list[Command] = [
    settle(1),
    extend(),
    release(),
    refund(1),
    refund(1, "d"),
    change("pro"),
    renew(),
    cancel(),
    settling(),
]


@pytest.mark.parametrize("command", OPENS, ids=lambda command: command.type)
def test_first_command_opens_the_account_and_posts_its_first_allocation(command: Command) -> None:
    ledger = FakeLedger(FREE)
    reply = reply_to(ledger, command)
    assert picked(reply, "status", "balanceBefore", "openedTier") == ("applied", 100, "free")
    (first, *_) = ledger.history("u")
    assert (first.counter, first.amount, first.due_at) == ("allocation", 100, NOW)
    assert first.outcome.reference_id == command.reference_id
    account = ledger.accounts["u"]
    assert (account.tier, account.anchor, account.granted_until) == ("free", NOW, months_after(NOW, 1))


@pytest.mark.parametrize("command", OPENS_NOT, ids=lambda command: command.type)
def test_command_about_what_was_before_opens_no_account(command: Command) -> None:
    ledger = FakeLedger(FREE)
    assert picked(reply_to(ledger, command), "code", "openedTier") == ("account_not_found", None)
    assert ledger.accounts == {}


@pytest.mark.parametrize("command", OF_PAYMENTS, ids=lambda command: command.type)
@pytest.mark.parametrize("catalog", [SMALL_CATALOG, FREE], ids=["nothing opens", "opens by itself"])
def test_event_of_a_payment_that_is_not_there_opens_no_account(command: Command, catalog: Catalog) -> None:
    ledger = FakeLedger(catalog)
    waits = reply_to(ledger, command.model_copy(update={"open_tier": "free"}))
    assert picked(waits, "code", "amount", "openedTier") == ("payment_awaited", 0, None)
    assert ledger.accounts == {}
    assert list(ledger.waiting) == [command.reference_id]


def test_names_of_a_payment_that_is_not_there_open_no_account() -> None:
    ledger = FakeLedger(FREE)
    reply = reply_to(ledger, NAMES.model_copy(update={"open_tier": "free"}))
    assert picked(reply, "code", "amount", "userId", "balanceAfter") == ("payment_named", 0, None, None)
    assert (ledger.accounts, list(ledger.waiting)) == ({}, [])


def test_every_type_opens_an_account_or_is_known_not_to() -> None:
    lists = (OPENS, [*OF_PAYMENTS, NAMES], OPENS_NOT)
    opens, of_payments, opens_not = ({command.type for command in commands} for commands in lists)
    models = COMMAND_TYPES.items()
    assert of_payments == {name for name, model in models if issubclass(model, CommandAboutPayment)}
    assert opens | of_payments == {name for name, model in models if issubclass(model, OpeningCommand)}
    of_the_account = {"account.open", "account.import", "account.freeze", "account.unfreeze"}
    assert opens | of_payments | opens_not | of_the_account == set(COMMAND_TYPES)


@pytest.mark.parametrize("command", [*OPENS, *OPENS_NOT], ids=lambda command: command.type)
def test_command_opens_no_account_where_the_catalog_names_no_tier(command: Command) -> None:
    ledger = FakeLedger()
    assert reply_to(ledger, command)["code"] == "account_not_found"
    assert ledger.accounts == {}


def state_of(ledger: FakeLedger, user: str = "u") -> dict[str, Any]:
    account = ledger.accounts[user]
    return {
        "lots": [as_lot(lot) for lot in ledger.lots_of(user)],
        "moved": [(entry.counter, entry.amount, entry.lot) for entry in ledger.history(user)],
        "period": (account.anchor, account.granted_until, account.period_granted, account.ends_at),
        "alerts": account.alerts,
    }


@pytest.mark.parametrize("tier", list(SMALL_CATALOG.tiers))
def test_account_is_as_account_open_would_have_opened_it(tier: str) -> None:
    by_itself, by_command = FakeLedger(opening_on(tier)), after(opening(tier=tier))
    for ledger in (by_itself, by_command):
        ledger.apply([bonus(70, "b"), deduct(20, "d")])
    assert state_of(by_itself) == state_of(by_command)
    for ledger in (by_itself, by_command):
        ledger.apply([settling(reference_id="s")], months_after(NOW, 2))
    assert state_of(by_itself) == state_of(by_command)


def test_rejected_first_command_leaves_the_account_open_and_its_allocation_due() -> None:
    ledger = FakeLedger(FREE)
    reply = reply_to(ledger, deduct(500))
    assert picked(reply, "code", "available", "openedTier") == ("insufficient_balance", 100, "free")
    account = ledger.accounts["u"]
    assert (account.balance, account.due_at, account.granted_until) == (0, NOW, NOW)
    assert ledger.outcomes["r"].first_entry is None
    settled = reply_to(ledger, settling(reference_id="due"))
    assert picked(settled, "code", "balanceAfter") == ("account_settled", 100)
    assert state_of(ledger) == state_of(after(opening()))


def test_usage_of_nothing_opens_the_account_and_posts_nothing() -> None:
    ledger = FakeLedger(FREE)
    reply = reply_to(ledger, deduct(0))
    assert picked(reply, "code", "balanceAfter", "openedTier") == ("tokens_deducted", 100, "free")
    assert ledger.history("u") == []
    assert picked(reply_to(ledger, deduct(30, "d")), "balanceBefore", "balanceAfter") == (100, 70)


def test_first_period_counts_from_the_opening_however_late_it_is_posted() -> None:
    late, early = FakeLedger(opening_on("keeper")), FakeLedger(opening_on("keeper"))
    for ledger in (late, early):
        reply_to(ledger, deduct(500))
    reply_to(early, settling(reference_id="s"))
    for ledger in (late, early):
        reply_to(ledger, settling(reference_id="t"), months_after(NOW, 1))
    assert state_of(late) == state_of(early)


def test_first_commands_end_in_one_ledger_in_every_order_and_batch() -> None:
    commands: list[Command] = [
        deduct(500, "poor"),
        deduct(30, "d"),
        bonus(5, "b"),
        upload(5, reference_id="f"),
    ]
    ends = []
    for order in permutations(commands):
        for sizes in ([4], [1, 3], [1, 1, 2], [1, 1, 1, 1]):
            ledger, left = FakeLedger(FREE), list(order)
            for size in sizes:
                replies = ledger.apply([left.pop(0) for _ in range(size)])
                assert [reply.get("openedTier") for reply in replies[1:]] == [None] * (size - 1)
            ends.append((ledger.balances(), sorted(lot.granted for lot in ledger.lots_of("u"))))
    assert all(end == ({"u": 75}, [5, 100]) for end in ends)


def test_events_of_a_payment_end_in_one_ledger_also_where_they_open_the_account() -> None:
    events: list[Command] = [
        payment(reference_id="p"),
        went_back(333, reference_id="e"),
        disputed(reference_id="i"),
    ]
    ends = set()
    for order in permutations(events):
        ledger = FakeLedger(FREE)
        for event in order:
            assert reply_to(ledger, event)["status"] == "applied"
        reply_to(ledger, settling(reference_id="s"))
        ends.add(tuple((lot.source, lot.remaining) for lot in ledger.lots_of("u")))
    assert len(ends) == 1


def test_redelivered_first_command_gets_its_first_reply() -> None:
    for command in (deduct(30), deduct(500), deduct(0)):
        ledger = FakeLedger(FREE)
        first = reply_to(ledger, command)
        before = ledger.rows()
        ledger.catalog = SMALL_CATALOG  # which opens nothing
        assert reply_to(ledger, command) == {**first, "duplicate": True}
        assert ledger.rows() == before


def test_rejection_of_a_user_without_account_stays_after_the_catalog_opens() -> None:
    ledger = FakeLedger()
    first = reply_to(ledger, deduct(30))
    ledger.catalog = FREE
    assert reply_to(ledger, deduct(30)) == {**first, "duplicate": True}
    assert ledger.accounts == {}
    again = reply_to(ledger, deduct(30, attempt=2))
    assert picked(again, "code", "openedTier", "balanceAfter") == ("tokens_deducted", "free", 70)


def test_account_open_after_the_first_command_finds_an_account() -> None:
    ledger = FakeLedger(FREE)
    replies = ledger.apply([deduct(30), opening(tier="pro")])
    assert [reply["code"] for reply in replies] == ["tokens_deducted", "account_exists"]
    assert ledger.accounts["u"].tier == "free"


def test_open_tier_opens_for_one_command_and_goes_before_the_catalogs() -> None:
    for catalog in (SMALL_CATALOG, FREE):
        ledger = FakeLedger(catalog)
        reply = reply_to(ledger, deduct(30, open_tier="pro"))
        assert picked(reply, "code", "balanceAfter", "openedTier") == ("tokens_deducted", 220, "pro")
        assert reply_to(ledger, deduct(30, "d", open_tier="free"))["balanceAfter"] == 190
        assert ledger.accounts["u"].tier == "pro"


def test_open_tier_that_nobody_sells_opens_nothing() -> None:
    ledger = FakeLedger(FREE)
    reply = reply_to(ledger, deduct(30, open_tier="gold"))
    assert picked(reply, "code", "tier", "openedTier") == ("unknown_tier", "gold", None)
    assert ledger.accounts == {}


def test_open_tier_is_part_of_the_content() -> None:
    ledger = after(opening(), deduct(5))
    reply = reply_to(ledger, deduct(5, open_tier="free"))
    assert picked(reply, "code", "field", "expected") == ("reference_conflict", "openTier", "absent")


def test_account_opened_below_a_threshold_sends_no_notice_of_it() -> None:
    ledger = FakeLedger(opening_on("empty"))
    reply_to(ledger, upload(0))
    reply_to(ledger, bonus(10, "b"))
    assert ledger.outcomes["b"].notices == ()
    assert state_of(ledger)["alerts"] == state_of(after(opening(tier="empty")))["alerts"]


def test_tier_that_was_missing_for_a_while_grants_its_first_allocation_later() -> None:
    ledger = FakeLedger(FREE)
    reply_to(ledger, deduct(500))
    tiers = {name: tier for name, tier in SMALL_CATALOG.tiers.items() if name != "free"}
    ledger.catalog = SMALL_CATALOG.model_copy(update={"tiers": tiers})
    assert reply_to(ledger, settling(reference_id="s"))["balanceAfter"] == 0
    ledger.catalog = FREE
    due = ledger.accounts["u"].due_at
    assert due is not None
    reply_to(ledger, settling(reference_id="t"), due)
    assert [entry.amount for entry in ledger.history("u")][:1] == [100]
