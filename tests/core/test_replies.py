"""Replies about decisions: the words, and the fields a caller acts on."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import (
    BonusCredit,
    Code,
    Command,
    CommandAboutPayment,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
    Reply,
)
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    closed,
    deduct,
    disputed,
    failed,
    opening,
    payment,
    record,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after, reply_to
from tests.support.strategies import NOW, STRICT_CATALOG, Day, examples, passing_days
from worker.catalog import Catalog
from worker.core.replies import human_amount, human_bytes

CATALOG = Catalog.model_validate(
    {
        "tiers": {"free": {"monthly_tokens": 10_000, "free_upload_bytes": 104_857_600}},
        "packages": [
            {
                "id": "standard",
                "tokens": 250_000,
                "bonus_tokens": 25_000,
                "price_minor": 1_999,
                "currency": "USD",
            }
        ],
        "refunds": {"unbound": "allow"},
    }
)
COMMON: dict[str, Any] = {"reference_id": "r", "user_id": "u"}
PAYMENT: dict[str, Any] = {**COMMON, "amount_minor": 1_999, "currency": "USD"}


def ledger_with(balance: int = 10_000) -> FakeLedger:
    """A free account of this balance."""
    ledger = FakeLedger(CATALOG)
    ledger.apply([OpenAccount(reference_id="o", user_id="u", tier="free")])
    if balance < 10_000:
        ledger.apply([DeductUsage(reference_id="d", user_id="u", tokens=10_000 - balance)])
    return ledger


@pytest.mark.parametrize(
    ("balance", "command", "message"),
    [
        (
            300,
            DeductUsage(tokens=1_500, **COMMON),
            "Insufficient token balance. Required: 1.5K, Available: 300",
        ),
        (
            1_299,
            DeductUsage(tokens=1_300, **COMMON),
            "Insufficient token balance. Required: 1.3K, Available: 1.2K",
        ),
        (
            1_000,
            DeductUsage(tokens=1_001, **COMMON),
            "Insufficient token balance. Required: 1.1K, Available: 1.0K",
        ),
        (
            0,
            DeductUsage(tokens=2_000_001, **COMMON),
            "Insufficient token balance. Required: 2.1M, Available: 0",
        ),
        (
            10_000,
            FreeUpload(bytes=10**9, **COMMON),
            "Free upload limit exceeded. Required: 1.0 GB, Available: 104.8 MB",
        ),
        (
            10_000,
            OpenAccount(reference_id="r", user_id="v", tier="free"),
            "Account opened on tier free with 10.0K tokens",
        ),
        (10_000, OpenAccount(tier="free", **COMMON), "User u already has an account on tier free"),
        (10_000, OpenAccount(reference_id="r", user_id="v", tier="gold"), "Unknown subscription tier gold"),
        (10_000, DeductUsage(reference_id="r", user_id="v", tokens=1), "No token account for user v"),
        (10_000, DeductUsage(tokens=1_500, **COMMON), "Deducted 1.5K tokens. Balance: 8.5K"),
        (10_000, DeductUsage(tokens=10_000, **COMMON), "Deducted 10.0K tokens. Balance: 0"),
        (0, RefundCredit(tokens=999, **COMMON), "Refunded 999 tokens. Balance: 999"),
        (0, BonusCredit(tokens=1_999, **COMMON), "Granted 1.9K bonus tokens. Balance: 1.9K"),
        (
            10_000,
            FreeUpload(bytes=10**7, **COMMON),
            "Counted 10.0 MB of free uploads. Used: 10.0 MB of 104.8 MB",
        ),
        (
            0,
            PaymentSucceeded(package_id="standard", **PAYMENT),
            "Credited 275.0K tokens (250.0K + 25.0K bonus). Balance: 275.0K",
        ),
        (0, PaymentSucceeded(package_id="huge", **PAYMENT), "Unknown token package huge"),
        (0, PaymentSucceeded(package_index=7, **PAYMENT), "Unknown token package #7"),
        (
            0,
            PaymentSucceeded(package_index=0, **{**PAYMENT, "amount_minor": 1}),
            "The payment of 0.01 USD is not the price of package standard: 19.99 USD",
        ),
        (0, PaymentSucceeded(package_id="{user}%s", **PAYMENT), "Unknown token package {user}%s"),
    ],
)
def test_message_says_to_a_person_what_happened(balance: int, command: Command, message: str) -> None:
    (reply,) = ledger_with(balance).apply([command])
    assert reply["message"] == message


OPEN = opening()
PAID = payment(reference_id="p")
HELD = reserve(60, "hold")
USED = deduct(30, "d")
DAY = timedelta(days=1)

WORDS: list[tuple[Code, list[Command], Command, str]] = [
    (Code.ACCOUNT_SETTLED, [], settling(), "Booked what was due. Balance: 100"),
    (Code.TOKENS_RESERVED, [], reserve(60), "Holding 60 tokens until 2026-11-23 10:15Z"),
    (Code.HOLD_SETTLED, [HELD], settle(25), "Deducted 25 tokens of a hold, released 35. Balance: 75"),
    (Code.HOLD_RELEASED, [HELD], release(), "Released 60 held tokens. Balance: 100"),
    (
        Code.USAGE_RECORDED,
        [change("pro", reference_id="h")],
        record("page", 5),
        "Recorded 5 of page: 3 free, 24 tokens for 2. Balance: 226",
    ),
    (Code.PAYMENT_AWAITED, [], failed(), "Recorded; it counts when the payment p comes"),
    (
        Code.PAYMENT_REFUNDED,
        [PAID],
        went_back(),
        "Took back 100 tokens of a refunded payment. Balance: 100",
    ),
    (
        Code.PAYMENT_DISPUTED,
        [PAID],
        disputed(),
        "A payment is disputed, 0 tokens taken back. Balance: 200",
    ),
    (Code.DISPUTE_WON, [PAID], closed("won"), "Dispute won, 0 tokens given back. Balance: 200"),
    (Code.DISPUTE_LOST, [PAID], closed("lost"), "Dispute lost, 100 tokens taken back. Balance: 100"),
    (Code.PAYMENT_FAILED, [PAID], failed(), "A payment failed, 100 tokens taken back. Balance: 100"),
    (
        Code.BONUS_SCHEDULED,
        [],
        bonus(1_999, effective_at=NOW + DAY),
        "1.9K bonus tokens take effect on 2026-11-23 10:15Z",
    ),
    (Code.ADJUSTMENT_CREDITED, [], adjust(5), "Credited 5 tokens by hand. Balance: 105"),
    (
        Code.ADJUSTMENT_DEBITED,
        [],
        adjust(-130, allow_negative=True),
        "Debited 130 tokens by hand. Balance: -30",
    ),
    (
        Code.SUBSCRIPTION_CHANGED,
        [],
        change("pro"),
        "Subscription is now pro, 150 tokens granted. Balance: 250",
    ),
    (
        Code.SUBSCRIPTION_CANCELED,
        [],
        cancel(),
        "Subscription ends on 2026-12-22 10:15Z. Balance: 100",
    ),
    (
        Code.CURRENCY_MISMATCH,
        [PAID],
        went_back(5, "USD"),
        "0.05 USD does not fit the payment p of 9.99 EUR",
    ),
    (Code.HOLD_NOT_FOUND, [], release(), "User u has no hold hold"),
    (
        Code.HOLD_CLOSED,
        [HELD, release(reference_id="l")],
        settle(1),
        "The hold hold is released already. Nothing moved",
    ),
    (Code.HOLD_EXCEEDED, [HELD], settle(61), "Required: 61, held: 60. Settle less, or take the excess"),
    (Code.UNKNOWN_METER, [], record("fax", 1), "Unknown meter fax"),
    (Code.ORIGINAL_NOT_FOUND, [], refund(5, "d"), "User u has no operation d to take back"),
    (
        Code.ORIGINAL_NOT_REFUNDABLE,
        [HELD],
        refund(5, "hold"),
        "hold has nothing left that could be given back",
    ),
    (
        Code.REFUND_EXCEEDS_ORIGINAL,
        [USED],
        refund(31, "d"),
        "Refund of 31 tokens exceeds what is left of d: 30",
    ),
    (Code.CREDIT_EXPIRED, [], bonus(5, expires_at=NOW), "The credit expired on 2026-11-22 10:15Z"),
    (
        Code.PERIOD_ALREADY_GRANTED,
        [],
        renew(),
        "The period from 2026-11-22 10:15Z to 2026-12-22 10:15Z is granted already",
    ),
    (
        Code.PERIOD_OUT_OF_RANGE,
        [],
        renew(NOW + 69 * DAY),
        "The period of 2027-01-30 10:15Z can't be granted now",
    ),
    (
        Code.SUBSCRIPTION_NOT_ACTIVE,
        [cancel(reference_id="k")],
        renew(),
        "The subscription of user u is canceled",
    ),
    (
        Code.TOO_LATE,
        [],
        deduct(1, valid_until=NOW - DAY),
        "The usage was valid until 2026-11-21 10:15Z and came too late. Nothing moved",
    ),
    (
        Code.INSUFFICIENT_BALANCE,
        [adjust(-2_099, reference_id="a", allow_negative=True)],
        deduct(1),
        "Insufficient token balance. Required: 1, Available: -2.0K",
    ),
]


@pytest.mark.parametrize(("code", "before", "command", "message"), WORDS, ids=[row[0] for row in WORDS])
def test_every_code_has_words_of_its_own(
    code: Code, before: list[Command], command: Command, message: str
) -> None:
    (reply,) = after(OPEN, *before).apply([command])
    assert (reply["code"], reply["message"]) == (code, message)


def test_a_renewal_ahead_of_time_says_from_when() -> None:
    (reply,) = after(OPEN).apply([renew()], NOW + 30 * DAY - timedelta(hours=1))
    assert reply["message"] == "100 tokens take effect on 2026-12-22 10:15Z"


def test_a_renewal_says_until_when() -> None:
    (reply,) = after(OPEN).apply([renew()], NOW + 30 * DAY)
    assert reply["message"] == "Granted 100 tokens until 2027-01-22 10:15Z. Balance: 100"


def test_a_refund_without_an_original_says_where_to_name_it() -> None:
    (reply,) = after(OPEN, catalog=STRICT_CATALOG).apply([refund(5)])
    assert reply["message"] == "A refund names the usage it refunds in originalReferenceId"


def test_the_message_of_a_conflict_names_the_field_and_both_values() -> None:
    ledger = ledger_with()
    ledger.apply([DeductUsage(tokens=5, **COMMON)])
    (reply,) = ledger.apply([DeductUsage(tokens=6, **COMMON)])
    assert (
        reply["message"] == "The reference 'r' names another operation: tokens was 5, now 6. Nothing moved."
    )


@pytest.mark.parametrize(
    ("amount", "down", "up"),
    [
        (0, "0", "0"),
        (1, "1", "1"),
        (999, "999", "999"),
        (1_000, "1.0K", "1.0K"),
        (1_001, "1.0K", "1.1K"),
        (1_099, "1.0K", "1.1K"),
        (1_100, "1.1K", "1.1K"),
        (1_999, "1.9K", "2.0K"),
        (999_900, "999.9K", "999.9K"),
        (999_901, "999.9K", "1.0M"),
        (999_999, "999.9K", "1.0M"),
        (1_000_000, "1.0M", "1.0M"),
        (1_000_001, "1.0M", "1.1M"),
        (999_900_000, "999.9M", "999.9M"),
        (999_900_001, "999.9M", "1.0B"),
        (7_150_000_000, "7.1B", "7.2B"),
        (10**15, "1000000.0B", "1000000.0B"),
        (-1, "-1", "-1"),
        (-1_001, "-1.1K", "-1.0K"),
        (-1_999, "-2.0K", "-1.9K"),
        (-999_999, "-1.0M", "-999.9K"),
    ],
)
def test_an_amount_is_short_and_rounded_to_the_side_that_promises_less(
    amount: int, down: str, up: str
) -> None:
    assert (human_amount(amount), human_amount(amount, round_up=True)) == (down, up)


def value_of(text: str) -> int:
    """Tenths of a token."""
    size = {"K": 10**3, "M": 10**6, "B": 10**9}.get(text[-1], 1)
    whole, _, tenth = text.rstrip("KMB").partition(".")
    return (int(whole) * 10 + int(tenth or 0)) * size


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        (0, "0 B", "0 B"),
        (7, "7 B", "7 B"),
        (999, "999 B", "999 B"),
        (1_001, "1.0 kB", "1.1 kB"),
        (1_073_741_824, "1.0 GB", "1.1 GB"),
        (999_999_999, "999.9 MB", "1.0 GB"),
        (5 * 10**12, "5.0 TB", "5.0 TB"),
        (-1_001, "-1.1 kB", "-1.0 kB"),
    ],
)
def test_bytes_have_a_unit(size: int, down: str, up: str) -> None:
    assert (human_bytes(size), human_bytes(size, round_up=True)) == (down, up)


@pytest.mark.parametrize(
    ("before", "command", "message"),
    [
        ([], upload(7), "Counted 7 B of free uploads. Used: 7 B of 50 B"),
        ([], upload(51), "Free upload limit exceeded. Required: 51 B, Available: 50 B"),
        ([], record("upload", 57), "Recorded 57 B of upload: 50 B free, 3 tokens for 7 B. Balance: 97"),
        ([upload(7, "d")], refund(0, "d"), "Refunded 0 tokens. Free again: 7 B. Balance: 100"),
        (
            [upload(7, "d")],
            refund(0, "d", free_quantity=8),
            "Refund of 8 B of free usage exceeds what is left of d: 7 B",
        ),
        ([record("page", 1, reference_id="d")], refund(20, "d"), "Refunded 20 tokens. Balance: 100"),
    ],
)
def test_text_about_bytes_says_the_unit(before: list[Command], command: Command, message: str) -> None:
    assert reply_to(after(OPEN, *before), command)["message"] == message


@pytest.mark.parametrize(
    ("before", "command", "message"),
    [
        ([], went_back(999, reference_id="e"), "Took back 100 tokens of a refunded payment. Balance: 100"),
        (
            [went_back(500, reference_id="e")],
            went_back(999),
            "Took back 50 tokens of a refunded payment. Balance: 100. 4.99 EUR of 9.99 EUR counted",
        ),
        (
            [went_back(999, reference_id="e")],
            went_back(500),
            "Took back 0 tokens of a refunded payment. Balance: 100. 0.00 EUR of 5.00 EUR counted",
        ),
        (
            [went_back(500, reference_id="e")],
            closed("lost"),
            "Dispute lost, 50 tokens taken back. Balance: 100. 4.99 EUR of 9.99 EUR counted",
        ),
    ],
)
def test_money_beyond_what_was_paid_says_how_much_counted(
    before: list[Command], command: Command, message: str
) -> None:
    assert reply_to(after(OPEN, PAID, *before), command)["message"] == message


@examples(300)
@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_required_amount_never_looks_like_the_available_one(available: int, shortfall: int) -> None:
    required = human_amount(available + shortfall, round_up=True)
    assert value_of(human_amount(available)) <= available * 10
    assert value_of(required) >= (available + shortfall) * 10
    assert value_of(required) > value_of(human_amount(available))


@examples(100)
@given(passing_days())
def test_every_reply_is_one_that_the_schema_knows_and_names_its_command(day: Day) -> None:
    ledger = FakeLedger()
    for now, commands in day:
        for command, reply in zip(commands, ledger.apply(commands, now), strict=True):
            assert_known(command, reply, now)


def assert_known(command: Command, reply: dict[str, Any], now: datetime) -> None:
    known = Reply.model_validate(reply)
    assert json.loads(known.to_json()) == reply, "a field that the schema doesn't know"
    assert known.message
    assert (known.type, known.reference_id) == (command.type, command.reference_id)
    if not isinstance(command, CommandAboutPayment):  # the payment knows whose it is
        assert known.user_id == command.user_id
    if known.code == "reference_conflict":
        assert known.recorded_at is None
        assert known.transaction_id is None
    else:
        assert known.recorded_at is not None
        assert known.duplicate or known.recorded_at == now
        assert known.transaction_id is not None
        assert known.unit == ("bytes" if command.type == "usage.free_upload" else "tokens")
