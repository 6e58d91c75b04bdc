"""The rules, as tables of what is known, what is asked, what comes of it; then all small worlds at once."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import (
    BonusCredit,
    Code,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
    Status,
)
from tests.support.model import Model, foretold
from tests.support.worlds import NOW, SMALL_CATALOG, FakeLedger, crowded_days, cut, examples
from worker.core import AccountState, Conflict, Decided, Known, Outcome, Plan, QuotaKey, decide
from worker.core.decide import content_of
from worker.core.known import QuotaState
from worker.core.plan import Counter

NEXT_MONTH = datetime(2026, 12, 1, tzinfo=UTC)
MONTH = NOW.date().replace(day=1)


def opening(reference_id: str = "o", user_id: str = "u", tier: str = "free", **more: Any) -> OpenAccount:
    return OpenAccount(reference_id=reference_id, user_id=user_id, tier=tier, **more)


def deduct(tokens: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> DeductUsage:
    return DeductUsage(reference_id=reference_id, user_id=user_id, tokens=tokens, **more)


def upload(size: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> FreeUpload:
    return FreeUpload(reference_id=reference_id, user_id=user_id, bytes=size, **more)


def payment(amount_minor: int = 999, currency: str = "EUR", **more: Any) -> PaymentSucceeded:
    named = more if "package_index" in more else {"package_id": "rich", **more}
    return PaymentSucceeded(
        **{"reference_id": "r", "user_id": "u", "amount_minor": amount_minor, "currency": currency, **named}
    )


def refund(tokens: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> RefundCredit:
    return RefundCredit(reference_id=reference_id, user_id=user_id, tokens=tokens, **more)


def bonus(tokens: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> BonusCredit:
    return BonusCredit(reference_id=reference_id, user_id=user_id, tokens=tokens, **more)


def account(balance: int = 100, *, tier: str = "free", user_id: str = "u") -> AccountState:
    """An account whose balance was allocated, with one entry behind it."""
    return AccountState(7, user_id, tier, balance=balance, sequence=1, allocated=balance)


def knowing(*accounts: AccountState, used_bytes: int = 0) -> Known:
    quotas = {QuotaKey(7, "free_upload", MONTH): QuotaState(used_bytes, 3)} if used_bytes else {}
    return Known(accounts={a.user_id: a for a in accounts}, quotas=quotas)


def placeholder(user_id: str = "u", tier: str = "free") -> Known:
    """What the store loads where the batch wants to open an account that is not there."""
    return Known(accounts={user_id: AccountState(7, user_id, tier)}, just_opened={user_id})


def planned(known: Known, *commands: Command, now: datetime = NOW) -> Plan:
    before = deepcopy(known)
    plan = decide(commands, known, now, SMALL_CATALOG)
    assert known == before, "decide has changed what is known"
    assert len(plan.answers) == len(commands)
    return plan


def first_outcome(plan: Plan) -> Outcome:
    answer = plan.answers[0]
    assert isinstance(answer, Decided)
    return answer.outcome


def after(*commands: Command, now: datetime = NOW) -> FakeLedger:
    """A ledger that has taken ``commands`` in one batch."""
    ledger = FakeLedger()
    ledger.apply(commands, now)
    return ledger


def reply_to(ledger: FakeLedger, command: Command, now: datetime = NOW) -> dict[str, Any]:
    """The one reply to one command in a batch of its own."""
    (reply,) = ledger.apply([command], now)
    return reply


def told(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


# -- every operation, applied -----------------------------------------------------------------------------

Legs = list[tuple[Counter, int]]


@pytest.mark.parametrize(
    ("known", "command", "code", "amount", "legs", "detail", "sums"),
    [
        pytest.param(
            placeholder(),
            opening(),
            Code.ACCOUNT_OPENED,
            100,
            [(Counter.ALLOCATION, 100)],
            {"tier": "free"},
            {"allocated": 100},
            id="an account is opened with the month's allocation",
        ),
        pytest.param(
            placeholder(tier="free"),
            opening(tier="pro"),
            Code.ACCOUNT_OPENED,
            250,
            [(Counter.ALLOCATION, 250)],
            {"tier": "pro"},
            {"allocated": 250, "tier": "pro"},
            id="an account is opened on the tier of its command, not of its placeholder",
        ),
        pytest.param(
            placeholder(tier="empty"),
            opening(tier="empty"),
            Code.ACCOUNT_OPENED,
            0,
            [],
            {"tier": "empty"},
            {"allocated": 0, "tier": "empty"},
            id="a tier without tokens opens an account without an entry",
        ),
        pytest.param(
            knowing(account(100)),
            deduct(30),
            Code.TOKENS_DEDUCTED,
            30,
            [(Counter.USAGE, -30)],
            {},
            {"allocated": 100, "used": 30},
            id="usage takes tokens",
        ),
        pytest.param(
            knowing(account(100)),
            deduct(100),
            Code.TOKENS_DEDUCTED,
            100,
            [(Counter.USAGE, -100)],
            {},
            {"allocated": 100, "used": 100},
            id="usage takes the last token",
        ),
        pytest.param(
            knowing(account(100)),
            upload(50),
            Code.FREE_UPLOAD_COUNTED,
            50,
            [],
            {"limit": 50, "used": 50},
            {"allocated": 100},
            id="a free upload goes up to the limit and moves no token",
        ),
        pytest.param(
            knowing(account(100), used_bytes=30),
            upload(20),
            Code.FREE_UPLOAD_COUNTED,
            20,
            [],
            {"limit": 50, "used": 50},
            {"allocated": 100},
            id="a free upload adds to those of the month",
        ),
        pytest.param(
            knowing(account(100)),
            payment(),
            Code.TOKENS_PURCHASED,
            100,
            [(Counter.PURCHASES, 90), (Counter.BONUS, 10)],
            {"package_id": "rich", "base_tokens": 90, "bonus_tokens": 10},
            {"allocated": 100, "purchased": 90, "bonus": 10},
            id="a package by its id credits base and bonus",
        ),
        pytest.param(
            knowing(account(100)),
            payment(package_index=1),
            Code.TOKENS_PURCHASED,
            100,
            [(Counter.PURCHASES, 90), (Counter.BONUS, 10)],
            {"package_id": "rich", "base_tokens": 90, "bonus_tokens": 10},
            {"allocated": 100, "purchased": 90, "bonus": 10},
            id="a package by its position credits the same",
        ),
        pytest.param(
            knowing(account(100)),
            payment(499, "USD", package_index=0),
            Code.TOKENS_PURCHASED,
            60,
            [(Counter.PURCHASES, 60)],
            {"package_id": "plain", "base_tokens": 60, "bonus_tokens": 0},
            {"allocated": 100, "purchased": 60},
            id="the first position is zero, and no bonus makes no entry",
        ),
        pytest.param(
            knowing(account(100)),
            refund(5),
            Code.TOKENS_REFUNDED,
            5,
            [(Counter.REFUNDS, 5)],
            {},
            {"allocated": 100, "refunded": 5},
            id="a refund gives tokens back",
        ),
        pytest.param(
            knowing(account(0)),
            bonus(7),
            Code.BONUS_GRANTED,
            7,
            [(Counter.BONUS, 7)],
            {},
            {"allocated": 0, "bonus": 7},
            id="a bonus gives tokens, to an empty account too",
        ),
    ],
)
def test_an_operation_moves_what_it_says(
    known: Known,
    command: Command,
    code: Code,
    amount: int,
    legs: Legs,
    detail: dict[str, Any],
    sums: dict[str, Any],
) -> None:
    before = known.accounts["u"]
    plan = planned(known, command)
    outcome = first_outcome(plan)
    after_it, sequence_before = plan.accounts["u"]

    assert plan.answers == [Decided(outcome, duplicate=False)]
    assert plan.outcomes == [outcome]
    assert plan.rejudged == []
    assert (outcome.status, outcome.code, outcome.amount) == (Status.APPLIED, code, amount)
    assert (outcome.reference_id, outcome.type) == (command.reference_id, command.type)
    assert (outcome.user_id, outcome.attempt) == ("u", 1)
    assert outcome.detail == detail
    assert outcome.content == content_of(command)
    assert outcome.recorded_at == NOW
    assert outcome.balance_before == before.balance
    assert outcome.balance_after == after_it.balance == before.balance + sum(leg for _, leg in legs)

    assert [(entry.counter, entry.amount) for entry in plan.entries] == legs
    assert sequence_before == before.sequence
    assert_chained(plan, "u")
    nothing = {"allocated": 0, "purchased": 0, "bonus": 0, "refunded": 0, "used": 0, "tier": "free"}
    assert {name: getattr(after_it, name) for name in nothing} == {**nothing, **sums}
    assert_sums(after_it)


def assert_sums(state: AccountState) -> None:
    credit = state.allocated + state.purchased + state.bonus + state.refunded
    assert state.balance == credit - state.used >= 0


def assert_chained(plan: Plan, user_id: str) -> None:
    """The entries go from what was known to what is planned, without a gap in balance or sequence."""
    state, sequence = plan.accounts[user_id]
    own = [entry for entry in plan.entries if entry.account_id == state.account_id]
    for entry in own:
        sequence += 1
        assert entry.sequence == sequence
        assert entry.balance_after == entry.balance_before + entry.amount >= 0
    for earlier, later in pairwise(own):
        assert later.balance_before == earlier.balance_after
    assert state.sequence == sequence
    if own:
        assert state.balance == own[-1].balance_after


# -- every rejection --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "command", "code", "detail", "balance"),
    [
        pytest.param(
            knowing(account(100)),
            deduct(101),
            Code.INSUFFICIENT_BALANCE,
            {"required": 101, "available": 100, "shortfall": 1},
            100,
            id="one token short",
        ),
        pytest.param(
            knowing(account(0)),
            deduct(1),
            Code.INSUFFICIENT_BALANCE,
            {"required": 1, "available": 0, "shortfall": 1},
            0,
            id="nothing left",
        ),
        *(
            pytest.param(
                knowing(), command, Code.ACCOUNT_NOT_FOUND, {}, None, id=f"no account for {command.type}"
            )
            for command in (deduct(1), upload(1), payment(), refund(1), bonus(1))
        ),
        *(
            pytest.param(
                placeholder(),
                command,
                Code.ACCOUNT_NOT_FOUND,
                {},
                None,
                id=f"a placeholder is no account for {command.type}",
            )
            for command in (deduct(1), upload(1), payment(), refund(1), bonus(1))
        ),
        pytest.param(
            knowing(account(100, tier="pro")),
            opening(tier="free"),
            Code.ACCOUNT_EXISTS,
            {"tier": "pro"},
            100,
            id="an account there already",
        ),
        pytest.param(
            knowing(account(100)),
            opening(tier="gold"),
            Code.ACCOUNT_EXISTS,
            {"tier": "free"},
            100,
            id="an account there already, asked for before the tier",
        ),
        pytest.param(
            placeholder(tier="gold"),
            opening(tier="gold"),
            Code.UNKNOWN_TIER,
            {"tier": "gold"},
            None,
            id="a tier nobody sells",
        ),
        pytest.param(
            knowing(account(100, tier="gold")),
            upload(1),
            Code.UNKNOWN_TIER,
            {"tier": "gold"},
            100,
            id="a tier nobody sells any longer",
        ),
        pytest.param(
            knowing(account(100)),
            upload(51),
            Code.FREE_UPLOAD_LIMIT_EXCEEDED,
            {"required": 51, "available": 50, "shortfall": 1, "limit": 50, "used": 0},
            100,
            id="one byte too many",
        ),
        pytest.param(
            knowing(account(100), used_bytes=50),
            upload(1),
            Code.FREE_UPLOAD_LIMIT_EXCEEDED,
            {"required": 1, "available": 0, "shortfall": 1, "limit": 50, "used": 50},
            100,
            id="the limit used up",
        ),
        pytest.param(
            knowing(account(100), used_bytes=70),
            upload(1),
            Code.FREE_UPLOAD_LIMIT_EXCEEDED,
            {"required": 1, "available": 0, "shortfall": 1, "limit": 50, "used": 70},
            100,
            id="a limit lowered below what was used",
        ),
        pytest.param(
            knowing(account(100, tier="empty")),
            upload(1),
            Code.FREE_UPLOAD_LIMIT_EXCEEDED,
            {"required": 1, "available": 0, "shortfall": 1, "limit": 0, "used": 0},
            100,
            id="a tier without free uploads",
        ),
        pytest.param(
            knowing(account(100)),
            payment(package_id="huge"),
            Code.UNKNOWN_PACKAGE,
            {"package_id": "huge"},
            100,
            id="a package nobody sells",
        ),
        pytest.param(
            knowing(account(100)),
            payment(package_index=2),
            Code.UNKNOWN_PACKAGE,
            {"package_id": "#2"},
            100,
            id="a position behind the last package",
        ),
        *(
            pytest.param(
                knowing(account(100)),
                payment(amount, currency),
                Code.AMOUNT_MISMATCH,
                {"package_id": "rich", "expected": "999 EUR", "received": f"{amount} {currency}"},
                100,
                id=f"{amount} {currency} for 999 EUR",
            )
            for amount, currency in [(998, "EUR"), (1_000, "EUR"), (999, "USD"), (499, "USD"), (1, "EUR")]
        ),
    ],
)
def test_a_rejection_says_why_and_leaves_everything_as_it_was(
    known: Known, command: Command, code: Code, detail: dict[str, Any], balance: int | None
) -> None:
    plan = planned(known, command)
    outcome = first_outcome(plan)

    assert plan.answers == [Decided(outcome, duplicate=False)]
    assert plan.outcomes == [outcome], "a rejection is an outcome too, and as durable"
    assert (outcome.status, outcome.code, outcome.amount) == (Status.REJECTED, code, None)
    assert (outcome.balance_before, outcome.balance_after) == (balance, balance)
    assert outcome.detail == detail

    assert (plan.entries, plan.quota_entries, plan.payments, plan.rejudged) == ([], [], [], [])
    assert plan.opened == set()
    for user_id, (state, sequence) in plan.accounts.items():
        assert state == known.accounts[user_id]
        assert sequence == known.accounts[user_id].sequence


def test_every_rejection_code_has_its_row_here() -> None:
    rejections = {Code.INSUFFICIENT_BALANCE, Code.ACCOUNT_NOT_FOUND, Code.ACCOUNT_EXISTS, Code.UNKNOWN_TIER}
    rejections |= {Code.FREE_UPLOAD_LIMIT_EXCEEDED, Code.UNKNOWN_PACKAGE, Code.AMOUNT_MISMATCH}
    (table,) = test_a_rejection_says_why_and_leaves_everything_as_it_was.pytestmark
    assert {row.values[2] for row in table.args[1]} == rejections


# -- what is written beside ------------------------------------------------------------------------------


def test_a_payment_is_recorded_with_its_package_its_money_and_its_tokens() -> None:
    plan = planned(knowing(account()), payment(package_index=1, provider="stripe"))
    (paid,) = plan.payments
    assert paid.outcome is first_outcome(plan)
    assert (paid.account_id, paid.package_id) == (7, "rich")
    assert (paid.amount_minor, paid.currency) == (999, "EUR")
    assert (paid.base_tokens, paid.bonus_tokens) == (90, 10)
    assert (paid.provider, paid.recorded_at) == ("stripe", NOW)


def test_an_upload_is_counted_in_the_month_of_the_booking_whenever_it_occurred() -> None:
    earlier = NOW - timedelta(days=60)
    plan = planned(knowing(account(), used_bytes=30), upload(20, occurred_at=earlier))
    (counted,) = plan.quota_entries
    assert counted.key == QuotaKey(7, "free_upload", MONTH)
    assert (counted.sequence, counted.amount) == (4, 20)
    assert (counted.used_before, counted.used_after) == (30, 50)
    assert counted.outcome is first_outcome(plan)


def test_an_entry_keeps_when_it_occurred_and_when_it_was_recorded() -> None:
    earlier = NOW - timedelta(days=1)
    plan = planned(knowing(account()), deduct(1, "r1", occurred_at=earlier, feature="chat"), deduct(2, "r2"))
    first, second = plan.entries
    assert (first.occurred_at, first.recorded_at, first.feature) == (earlier, NOW, "chat")
    assert (second.occurred_at, second.recorded_at, second.feature) == (NOW, NOW, None)


def test_an_outcome_keeps_the_free_text_of_its_command() -> None:
    earlier = NOW - timedelta(days=1)
    command = deduct(1, metadata={"a": 1}, description="d", occurred_at=earlier, attempt=3)
    outcome = first_outcome(planned(knowing(account()), command))
    assert (outcome.metadata, outcome.description, outcome.occurred_at) == ({"a": 1}, "d", earlier)
    assert (outcome.attempt, outcome.transaction_id) == (3, None)


# -- a month, an order, a batch ---------------------------------------------------------------------------


def test_a_new_month_brings_new_free_uploads() -> None:
    ledger = after(opening(), upload(50, "r1"))
    full = reply_to(ledger, upload(1, "r2"), NEXT_MONTH - timedelta(microseconds=1))
    fresh = reply_to(ledger, upload(50, "r3"), NEXT_MONTH)
    assert told(full, "code", "used", "available") == ("free_upload_limit_exceeded", 50, 0)
    assert told(fresh, "code", "used", "limit") == ("free_upload_counted", 50, 50)
    assert [quota.used for _, quota in sorted(ledger.quotas.items())] == [50, 50]


def test_a_month_changes_nothing_about_what_was_rejected_in_the_last() -> None:
    ledger = after(opening(), upload(51))
    again = reply_to(ledger, upload(51), NEXT_MONTH)
    assert told(again, "code", "duplicate") == ("free_upload_limit_exceeded", True)


def test_later_commands_of_a_batch_see_the_earlier_ones() -> None:
    plan = planned(
        placeholder(),
        opening(),
        deduct(60, "r1"),
        deduct(60, "r2"),
        deduct(40, "r3"),
        refund(5, "r4"),
        upload(40, "r5"),
        upload(20, "r6"),
        upload(10, "r7"),
        payment(reference_id="r8"),
        deduct(105, "r9"),
    )
    codes = [answer.outcome.code for answer in plan.answers if isinstance(answer, Decided)]
    assert codes == [
        Code.ACCOUNT_OPENED,
        Code.TOKENS_DEDUCTED,
        Code.INSUFFICIENT_BALANCE,
        Code.TOKENS_DEDUCTED,
        Code.TOKENS_REFUNDED,
        Code.FREE_UPLOAD_COUNTED,
        Code.FREE_UPLOAD_LIMIT_EXCEEDED,
        Code.FREE_UPLOAD_COUNTED,
        Code.TOKENS_PURCHASED,
        Code.TOKENS_DEDUCTED,
    ]
    assert [entry.amount for entry in plan.entries] == [100, -60, -40, 5, 90, 10, -105]
    assert [entry.used_after for entry in plan.quota_entries] == [40, 50]
    assert plan.opened == {"u"}
    assert_chained(plan, "u")
    state, _ = plan.accounts["u"]
    assert_sums(state)
    assert (state.allocated, state.purchased, state.bonus, state.refunded, state.used) == (
        100,
        90,
        10,
        5,
        205,
    )


def test_a_command_before_the_opening_of_its_account_finds_none() -> None:
    plan = planned(placeholder(), deduct(1, "r1"), opening(), deduct(1, "r2"), opening("o2"))
    codes = [answer.outcome.code for answer in plan.answers if isinstance(answer, Decided)]
    assert codes == [Code.ACCOUNT_NOT_FOUND, Code.ACCOUNT_OPENED, Code.TOKENS_DEDUCTED, Code.ACCOUNT_EXISTS]


def test_an_opening_that_is_refused_leaves_the_placeholder_closed_for_those_behind_it() -> None:
    plan = planned(placeholder(), opening(tier="gold"), deduct(1), opening("o2", tier="pro"))
    codes = [answer.outcome.code for answer in plan.answers if isinstance(answer, Decided)]
    assert codes == [Code.UNKNOWN_TIER, Code.ACCOUNT_NOT_FOUND, Code.ACCOUNT_OPENED]
    state, _ = plan.accounts["u"]
    assert (state.tier, state.balance) == ("pro", 250)


def test_a_used_reference_opens_no_account_for_another_user() -> None:
    ledger = after(opening())
    reply = reply_to(ledger, opening(user_id="v"))
    assert told(reply, "code", "field") == ("reference_conflict", "userId")
    assert ledger.balances() == {"u": 100}


def test_users_of_one_batch_have_nothing_to_do_with_each_other() -> None:
    ledger = after(opening(), opening("o2", "v", "pro"), deduct(30), deduct(200, "r2", "v"))
    assert ledger.balances() == {"u": 70, "v": 50}


def test_an_empty_batch_has_an_empty_plan() -> None:
    assert planned(knowing(account())) == Plan()


# -- the reference ----------------------------------------------------------------------------------------

APPLIED: list[Command] = [
    opening("o", "new", "pro"),
    deduct(10, feature="chat"),
    upload(10),
    payment(provider="stripe"),
    payment(package_index=1),
    refund(10),
    bonus(10),
]
REJECTED: list[Command] = [
    opening("o", "u", "pro"),
    opening("o", "new", "gold"),
    deduct(1_000),
    deduct(10, user_id="nobody"),
    upload(1_000),
    payment(1),
    payment(package_id="huge"),
    refund(10, user_id="nobody"),
    bonus(10, user_id="nobody"),
]


def described(command: Command) -> str:
    return f"{command.type} by {command.user_id}: {content_of(command)}"


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in a later batch"])
@pytest.mark.parametrize("command", [*APPLIED, *REJECTED], ids=described)
def test_a_redelivered_command_gets_its_first_reply_and_moves_nothing(
    command: Command, together: bool
) -> None:
    ledger = after(opening("first"))
    if together:
        first, again = ledger.apply([command, command])
        once = after(opening("first"), command)
    else:
        first = reply_to(ledger, command)
        once = deepcopy(ledger)
        again = reply_to(ledger, command, NOW + timedelta(days=365))
    assert first["duplicate"] is False
    assert again == {**first, "duplicate": True}
    assert ledger.balances() == once.balances()
    assert len(ledger.entries) == len(once.entries)
    assert len(ledger.quota_entries) == len(once.quota_entries)
    assert len(ledger.payments) == len(once.payments)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"trace": "2"}},
        {"description": "again"},
        {"occurred_at": NOW - timedelta(hours=1)},
        {"metadata": {}, "description": "", "occurred_at": NOW},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("command", [*APPLIED, *REJECTED], ids=described)
def test_free_text_and_times_are_no_content(command: Command, change: dict[str, Any]) -> None:
    ledger = after(opening("first"))
    first = reply_to(ledger, command)
    again = reply_to(ledger, command.model_copy(update=change))
    assert again == {**first, "duplicate": True}


def test_the_provider_of_a_payment_is_no_content() -> None:
    ledger = after(opening())
    first = reply_to(ledger, payment(provider="stripe"))
    assert reply_to(ledger, payment(provider="paypal")) == {**first, "duplicate": True}
    assert reply_to(ledger, payment()) == {**first, "duplicate": True}


@pytest.mark.parametrize(
    ("first", "second", "field", "stored", "received"),
    [
        pytest.param(deduct(10), refund(10), "type", "usage.deduct", "credit.refund", id="type"),
        pytest.param(refund(10), bonus(10), "type", "credit.refund", "credit.bonus", id="a type like it"),
        pytest.param(
            deduct(10),
            refund(11, user_id="v"),
            "type",
            "usage.deduct",
            "credit.refund",
            id="type first of all",
        ),
        pytest.param(deduct(10), deduct(10, user_id="v"), "userId", "u", "v", id="userId"),
        pytest.param(deduct(10), deduct(11, user_id="v"), "userId", "u", "v", id="userId before content"),
        pytest.param(opening("r", "v"), opening("r", "v", "pro"), "tier", "free", "pro", id="tier"),
        pytest.param(deduct(10), deduct(11), "tokens", "10", "11", id="tokens of a deduction"),
        pytest.param(refund(10), refund(11), "tokens", "10", "11", id="tokens of a refund"),
        pytest.param(bonus(10), bonus(11), "tokens", "10", "11", id="tokens of a bonus"),
        pytest.param(upload(10), upload(11), "bytes", "10", "11", id="bytes"),
        pytest.param(
            deduct(10, feature="chat"),
            deduct(10, feature="search"),
            "feature",
            "chat",
            "search",
            id="feature",
        ),
        pytest.param(
            deduct(10),
            deduct(10, feature="chat"),
            "feature",
            "absent",
            "chat",
            id="a feature that was absent",
        ),
        pytest.param(
            deduct(10, feature="chat"), deduct(10), "feature", "chat", "absent", id="a feature left out"
        ),
        pytest.param(payment(), payment(998), "amountMinor", "999", "998", id="amountMinor"),
        pytest.param(payment(), payment(currency="USD"), "currency", "EUR", "USD", id="currency"),
        pytest.param(payment(), payment(package_id="plain"), "packageId", "rich", "plain", id="packageId"),
        pytest.param(
            payment(package_index=1), payment(package_index=0), "packageIndex", "1", "0", id="packageIndex"
        ),
        pytest.param(
            payment(), payment(package_index=1), "packageId", "rich", "absent", id="id and then position"
        ),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in a later batch"])
def test_a_reused_reference_is_a_conflict_that_names_the_field_and_moves_nothing(
    first: Command, second: Command, field: str, stored: str, received: str, together: bool
) -> None:
    ledger = after(opening("first"))
    if together:
        once = after(opening("first"), first)
        reply = ledger.apply([first, second])[1]
    else:
        ledger.apply([first])
        once = deepcopy(ledger)
        reply = reply_to(ledger, second)
    assert told(reply, "status", "code", "duplicate") == ("rejected", "reference_conflict", False)
    assert told(reply, "field", "expected", "received") == (field, stored, received)
    assert told(reply, "referenceId", "type", "userId") == ("r", second.type, second.user_id)
    assert "amount" not in reply
    assert ledger.balances() == once.balances()
    assert ledger.outcomes.keys() == once.outcomes.keys()
    assert {**reply_to(ledger, first), "duplicate": None} == {**reply_to(once, first), "duplicate": None}


@pytest.mark.parametrize(
    ("rejected", "changed"),
    [
        (deduct(1_000), deduct(999)),
        (deduct(1_000), deduct(1_000, feature="chat")),
        (payment(1), payment(2)),
        (upload(60), upload(61)),
        (opening("r", "v", "gold"), opening("r", "v", "free")),
    ],
    ids=described,
)
def test_a_rejected_reference_is_a_conflict_too_where_the_content_differs_at_the_same_attempt(
    rejected: Command, changed: Command
) -> None:
    ledger = after(opening(), rejected)
    assert reply_to(ledger, changed)["code"] == "reference_conflict"
    assert ledger.balances() == {"u": 100}


def test_a_rejection_is_durable_whatever_is_topped_up() -> None:
    ledger = after(opening(), deduct(150))
    reply_to(ledger, bonus(1_000, "b"))
    again = reply_to(ledger, deduct(150))
    assert told(again, "code", "duplicate", "available") == ("insufficient_balance", True, 100)
    assert ledger.balances() == {"u": 1_100}


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in later batches"])
@pytest.mark.parametrize("attempts", [(1, 2), (1, 7), (3, 4)])
def test_a_higher_attempt_is_judged_anew_and_the_lower_one_keeps_its_reply(
    attempts: tuple[int, int], together: bool
) -> None:
    lower, higher = attempts
    ledger = after(opening())
    commands: list[Command] = [
        deduct(150, attempt=lower),
        bonus(60, "b"),
        deduct(150, attempt=higher),
        deduct(150, attempt=lower),
        deduct(150, attempt=higher),
    ]
    if together:
        first, _, second, first_again, second_again = ledger.apply(commands)
    else:
        first, _, second, first_again, second_again = (reply_to(ledger, command) for command in commands)
    assert told(first, "code", "attempt", "duplicate") == ("insufficient_balance", lower, False)
    assert told(second, "code", "attempt", "duplicate") == ("tokens_deducted", higher, False)
    assert first_again == {**first, "duplicate": True}
    assert second_again == {**second, "duplicate": True}
    assert second["transactionId"] == first["transactionId"]
    assert ledger.balances() == {"u": 10}


def test_a_reference_may_be_rejected_and_tried_again_many_times_in_one_batch() -> None:
    ledger = after(opening())
    tries: list[Command] = [deduct(150 - attempt, attempt=attempt) for attempt in range(1, 6)]
    replies = ledger.apply([*tries, bonus(100, "b"), deduct(150, attempt=6), *tries])
    assert [reply["code"] for reply in replies[:5]] == ["insufficient_balance"] * 5
    assert [reply["required"] for reply in replies[:5]] == [149, 148, 147, 146, 145]
    assert replies[6]["code"] == "tokens_deducted"
    assert replies[7:] == [{**reply, "duplicate": True} for reply in replies[:5]]
    assert set(ledger.superseded) == {("r", attempt) for attempt in range(1, 6)}


@pytest.mark.parametrize(
    ("rejected", "again"),
    [
        (deduct(1_000), deduct(5, attempt=2)),
        (deduct(1_000), deduct(5, attempt=2, feature="chat")),
        (payment(1), payment(attempt=2)),
        (payment(package_id="huge"), payment(package_index=1, attempt=2)),
        (upload(1_000), upload(50, attempt=2)),
        (opening("r", "v", "gold"), opening("r", "v", "free", attempt=2)),
    ],
    ids=described,
)
def test_the_content_of_a_higher_attempt_may_differ(rejected: Command, again: Command) -> None:
    ledger = after(opening(), rejected)
    reply = reply_to(ledger, again)
    assert told(reply, "status", "attempt", "duplicate") == ("applied", 2, False)
    assert reply_to(ledger, rejected)["status"] == "rejected"


@pytest.mark.parametrize(
    ("again", "field"),
    [(refund(5, attempt=2), "type"), (deduct(1_000, user_id="v", attempt=2), "userId")],
    ids=["another type", "another user"],
)
def test_the_type_and_user_of_a_higher_attempt_may_not_differ(again: Command, field: str) -> None:
    ledger = after(opening(), deduct(1_000))
    assert told(reply_to(ledger, again), "code", "field") == ("reference_conflict", field)
    assert ledger.outcomes["r"].attempt == 1


@pytest.mark.parametrize("attempt", [2, 9, 1_000_000])
def test_an_applied_reference_is_never_judged_anew(attempt: int) -> None:
    ledger = after(opening())
    first = reply_to(ledger, deduct(10))
    assert reply_to(ledger, deduct(10, attempt=attempt)) == {**first, "duplicate": True}
    assert told(reply_to(ledger, deduct(11, attempt=attempt)), "code", "field") == (
        "reference_conflict",
        "tokens",
    )
    assert ledger.balances() == {"u": 90}


def test_a_lower_attempt_that_was_never_judged_is_answered_with_the_latest() -> None:
    """It comes too late to be judged: what counts is what has become of the reference."""
    ledger = after(opening())
    third = reply_to(ledger, deduct(150, attempt=3))
    assert reply_to(ledger, deduct(150, attempt=2)) == {**third, "duplicate": True}
    assert told(reply_to(ledger, deduct(10, attempt=2)), "code", "field") == ("reference_conflict", "tokens")
    assert ledger.balances() == {"u": 100}


def test_a_lower_attempt_is_compared_with_its_own_content() -> None:
    ledger = after(opening(), deduct(150), deduct(20, attempt=2))
    old = reply_to(ledger, deduct(150))
    assert told(old, "code", "attempt", "duplicate") == ("insufficient_balance", 1, True)
    conflict = reply_to(ledger, deduct(20))
    assert told(conflict, "code", "expected", "received") == ("reference_conflict", "150", "20")


def test_a_user_without_an_account_tries_again_when_it_is_open() -> None:
    ledger = FakeLedger()
    replies = ledger.apply([deduct(10), opening(), deduct(10), deduct(10, attempt=2)])
    assert [(reply["code"], reply["duplicate"]) for reply in replies] == [
        ("account_not_found", False),
        ("account_opened", False),
        ("account_not_found", True),
        ("tokens_deducted", False),
    ]


def test_a_conflict_is_no_outcome() -> None:
    ledger = after(opening(), deduct(10))
    plan = planned(ledger.load([deduct(11)], NOW), deduct(11))
    assert plan.answers == [Conflict("tokens", "10", "11")]
    assert replace(Plan(), answers=plan.answers) == plan


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (opening(tier="größer"), '{"tier":"größer"}'),
        (deduct(10), '{"tokens":10}'),
        (deduct(10, feature="chat"), '{"feature":"chat","tokens":10}'),
        (upload(10), '{"bytes":10}'),
        (payment(), '{"amountMinor":999,"currency":"EUR","packageId":"rich"}'),
        (payment(package_index=0), '{"amountMinor":999,"currency":"EUR","packageIndex":0}'),
        (refund(10, metadata={"a": 1}, description="d", attempt=2), '{"tokens":10}'),
        (bonus(10, occurred_at=NOW), '{"tokens":10}'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_content_is_one_text_for_ever_for_it_is_stored_and_compared(command: Command, text: str) -> None:
    assert content_of(command) == text
    assert content_of(type(command).model_validate_json(command.to_json())) == text


# -- small worlds, all of them ----------------------------------------------------------------------------


def compositions(total: int) -> Iterator[list[int]]:
    """Every way to cut ``total`` commands into batches."""
    if total == 0:
        yield []
    for first in range(1, total + 1):
        for rest in compositions(total - first):
            yield [first, *rest]


def assert_like_the_model(
    ledger: FakeLedger, model: Model, batches: Sequence[Sequence[Command]], times: Sequence[datetime]
) -> list[dict[str, Any]]:
    """Both take the batches; every reply and all that is kept must be the same."""
    replies: list[dict[str, Any]] = []
    for batch, now in zip(batches, times, strict=True):
        answered = ledger.apply(batch, now)
        expected = [model.apply(command, now) for command in batch]
        assert [foretold(reply) for reply in answered] == expected
        replies += answered
    assert ledger.balances() == model.balances()
    assert len(ledger.payments) == len(model.payments)
    for paid, told_of in zip(ledger.payments, model.payments, strict=True):
        assert told_of == {
            "referenceId": paid.outcome.reference_id,
            "userId": paid.outcome.user_id,
            "packageId": paid.package_id,
            "amountMinor": paid.amount_minor,
            "currency": paid.currency,
            "tokens": paid.base_tokens,
            "bonusTokens": paid.bonus_tokens,
        }
    for user_id, state in ledger.accounts.items():
        assert state.tier == model.tier(user_id)
        assert history_of(ledger, user_id) == model.history(user_id)
        assert model.sums(user_id) == {
            "allocation": state.allocated,
            "purchases": state.purchased,
            "bonus": state.bonus,
            "refunds": state.refunded,
            "usage": state.used,
        }
        for now in times:
            quota = ledger.quotas.get(QuotaKey(state.account_id, "free_upload", now.date().replace(day=1)))
            assert model.uploaded(user_id, now) == (quota.used if quota else 0)
    return replies


def history_of(ledger: FakeLedger, user_id: str) -> list[dict[str, Any]]:
    return [
        {
            "sequence": entry.sequence,
            "referenceId": entry.outcome.reference_id,
            "counter": str(entry.counter),
            "amount": entry.amount,
            "balanceBefore": entry.balance_before,
            "balanceAfter": entry.balance_after,
            "feature": entry.feature,
        }
        for entry in ledger.history(user_id)
    ]


THREE: list[Command] = [deduct(60, "a"), deduct(60, "b"), refund(30, "c")]
DUPLICATE, CONTRADICTION = deduct(60, "a"), deduct(70, "a")
ORDERS = list(permutations([*THREE, DUPLICATE, CONTRADICTION]))


@pytest.mark.parametrize("sizes", list(compositions(5)), ids=lambda sizes: "+".join(map(str, sizes)))
def test_every_order_of_three_commands_with_a_duplicate_and_a_conflict(sizes: list[int]) -> None:
    for order in ORDERS:
        ledger, model = FakeLedger(), Model(SMALL_CATALOG)
        batches: list[list[Command]] = [[opening()], *cut(order, sizes)]
        replies = assert_like_the_model(ledger, model, batches, [NOW] * len(batches))[1:]
        of_a = [reply for reply in replies if reply["referenceId"] == "a"]
        assert [reply["duplicate"] for reply in of_a].count(False) >= 1
        assert [reply["code"] for reply in of_a].count("reference_conflict") in {1, 2}
        assert sum(reply["status"] == "applied" and not reply["duplicate"] for reply in of_a) <= 1
        assert 0 <= ledger.balances()["u"] <= 130


@pytest.mark.parametrize("sizes", [[6], [1] * 6, [3, 3], [2, 4]], ids=str)
def test_every_order_of_an_opening_a_rejection_its_second_attempt_and_a_top_up(sizes: list[int]) -> None:
    commands: list[Command] = [
        opening(),
        deduct(120, "a"),
        deduct(110, "a", attempt=2),
        deduct(120, "a"),
        bonus(20, "b"),
        upload(50, "c"),
    ]
    for order in permutations(commands):
        batches = list(cut(order, sizes))
        assert_like_the_model(FakeLedger(), Model(SMALL_CATALOG), batches, [NOW] * len(batches))


days = st.lists(st.sampled_from([0, 0, 1, 9]), max_size=24)
batch_sizes = st.lists(st.integers(1, 8), max_size=24)


@examples(500)
@given(crowded_days(), batch_sizes, days)
def test_any_day_in_any_batches_comes_to_what_the_model_says(
    commands: list[Command], sizes: list[int], passing: list[int]
) -> None:
    batches = list(cut(commands, sizes))
    times = [NOW]
    for index in range(1, len(batches)):
        times.append(times[-1] + timedelta(days=passing[index] if index < len(passing) else 0))
    assert_like_the_model(FakeLedger(), Model(SMALL_CATALOG), batches, times[: len(batches)])


@examples(150)
@given(crowded_days(), batch_sizes)
def test_batches_come_to_the_same_as_one_by_one(commands: list[Command], sizes: list[int]) -> None:
    batched, single = FakeLedger(), FakeLedger()
    in_batches = [reply for batch in cut(commands, sizes) for reply in batched.apply(batch)]
    one_by_one = [reply_to(single, command) for command in commands]
    assert [without_numbers(reply) for reply in in_batches] == [
        without_numbers(reply) for reply in one_by_one
    ]
    assert batched.balances() == single.balances()
    for user_id in single.accounts:
        assert history_of(batched, user_id) == history_of(single, user_id)


def without_numbers(reply: dict[str, Any]) -> dict[str, Any]:
    """``reply`` without the id that the ledger gives in the order of its writing."""
    return {name: value for name, value in reply.items() if name != "transactionId"}


@examples(150)
@given(crowded_days(), st.data())
def test_a_day_delivered_again_in_any_order_moves_nothing_and_gets_its_first_replies(
    commands: list[Command], data: st.DataObject
) -> None:
    ledger = FakeLedger()
    first = ledger.apply(commands)
    entries, quotas, balances = list(ledger.entries), deepcopy(ledger.quotas), ledger.balances()
    order = data.draw(st.permutations(range(len(commands))))
    again = dict(zip(order, ledger.apply([commands[index] for index in order]), strict=True))
    assert (ledger.entries, ledger.quotas, ledger.balances()) == (entries, quotas, balances)
    for index, reply in enumerate(first):
        judged = not reply["duplicate"] and reply["code"] != "reference_conflict"
        assert again[index]["duplicate"] or again[index]["code"] == "reference_conflict"
        if judged:
            assert again[index] == {**reply, "duplicate": True}
