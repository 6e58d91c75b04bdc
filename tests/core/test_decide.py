"""The decision: the rows written with a reply, the order in a batch, and the reference before all.

The rules of the commands have their tables in ``test_rules.py``.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from schemas import Command
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
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.model import Model
from tests.support.model_comparison import assert_like_the_model
from tests.support.strategies import NOW, SMALL_CATALOG, cut
from worker.core import Conflict, Decided, Outcome, Plan, QuotaKey, decide
from worker.core.contents import content_of

#: End of the period that was granted at ``NOW``.
PERIOD_END = datetime(2026, 12, 22, 10, 15, tzinfo=NOW.tzinfo)
SOON = NOW + timedelta(days=1)


def planned(ledger: FakeLedger, *commands: Command, now: datetime = NOW) -> Plan:
    """Plan for ``commands``: decided and not written."""
    known = ledger.load(commands, now)
    plan = decide(commands, known, now, ledger.catalog)
    assert len(plan.answers) == len(commands)
    return plan


def first_outcome(plan: Plan) -> Outcome:
    answer = plan.answers[0]
    assert isinstance(answer, Decided)
    return answer.outcome


def codes(plan: Plan) -> list[str]:
    return [answer.outcome.code for answer in plan.answers if isinstance(answer, Decided)]


# -- what is written beside ------------------------------------------------------------------------------


def test_a_payment_is_recorded_with_its_package_its_money_and_its_tokens() -> None:
    earlier = NOW - timedelta(days=1)
    plan = planned(after(opening()), payment(package_index=1, provider="stripe", occurred_at=earlier))
    (paid,) = plan.payments
    assert paid.outcome is first_outcome(plan)
    assert (paid.reference_id, paid.package_id) == ("r", "rich")
    assert (paid.amount_minor, paid.currency) == (999, "EUR")
    assert (paid.base_tokens, paid.bonus_tokens) == (90, 10)
    assert (paid.provider, paid.recorded_at, paid.occurred_at) == ("stripe", NOW, earlier)


def test_payment_event_is_recorded_even_if_it_moves_nothing() -> None:
    ledger = after(opening(), payment(reference_id="p"))
    plan = planned(ledger, disputed(500), failed(reference_id="f"), closed("won", 500, reference_id="w"))
    assert [
        (str(event.happened), event.name, event.dispute_id, event.amount_minor, event.collected)
        for event in plan.payment_events
    ] == [
        ("disputed", "p", "x", 500, 0),
        ("failed", "p", None, None, 100),
        ("dispute_won", "p", "x", 500, 0),
    ]
    assert [event.outcome for event in plan.payment_events] == [
        answer.outcome for answer in plan.answers if isinstance(answer, Decided)
    ]


def test_a_refund_is_recorded_beside_what_it_refunds() -> None:
    ledger = after(opening(), deduct(30, "d"))
    plan = planned(ledger, refund(10, "d"), refund(5, reference_id="unbound"))
    (row,) = plan.usage_refunds
    assert row.outcome is first_outcome(plan)
    assert (row.original.reference_id, row.tokens, row.recorded_at) == ("d", 10, NOW)


def test_upload_is_counted_in_the_period_of_its_posting_whenever_it_occurred() -> None:
    earlier = NOW - timedelta(days=60)
    ledger = after(opening(), upload(30, "f"))
    plan = planned(ledger, upload(20, occurred_at=earlier))
    (counted,) = plan.quota_entries
    assert counted.key == QuotaKey(ledger.accounts["u"].account_id, "free_upload", NOW.date())
    assert (counted.sequence, counted.amount) == (2, 20)
    assert (counted.used_before, counted.used_after) == (30, 50)
    assert counted.outcome is first_outcome(plan)


def test_an_entry_keeps_when_it_occurred_and_when_it_was_recorded() -> None:
    earlier = NOW - timedelta(days=1)
    plan = planned(after(opening()), deduct(1, "r1", occurred_at=earlier, feature="chat"), deduct(2, "r2"))
    first, second = plan.entries
    assert (first.occurred_at, first.recorded_at, first.feature) == (earlier, NOW, "chat")
    assert (second.occurred_at, second.recorded_at, second.feature) == (NOW, NOW, None)
    assert (first.due_at, second.due_at) == (None, None)


def test_an_entry_of_what_fell_due_keeps_when_it_did_and_has_no_feature() -> None:
    earlier, now = NOW - timedelta(days=1), PERIOD_END + timedelta(days=2)
    plan = planned(after(opening(), bonus(20, "b")), deduct(1, feature="chat", occurred_at=earlier), now=now)
    ended, used = plan.entries
    assert (ended.due_at, ended.occurred_at, ended.recorded_at) == (PERIOD_END, PERIOD_END, now)
    assert (used.due_at, used.occurred_at, used.recorded_at) == (None, earlier, now)
    assert (ended.feature, used.feature) == (None, "chat")
    assert ended.outcome is used.outcome is first_outcome(plan)


def test_metered_usage_is_of_its_meter_where_it_names_no_feature() -> None:
    named = record("page", 1, reference_id="r2", feature="import")
    plan = planned(after(opening()), record("page", 1), named)
    assert [entry.feature for entry in plan.entries] == ["page", "import"]


def test_captured_hold_is_of_the_feature_that_captured_it() -> None:
    ledger = after(opening(), reserve(60, "hold"))
    plan = planned(ledger, settle(80, on_excess="take", feature="chat"))
    assert [(entry.amount, entry.feature) for entry in plan.entries] == [(-60, "chat"), (-20, "chat")]


def test_an_outcome_keeps_the_free_text_of_its_command() -> None:
    earlier = NOW - timedelta(days=1)
    command = deduct(1, metadata={"a": 1}, description="d", occurred_at=earlier, attempt=3)
    outcome = first_outcome(planned(after(opening()), command))
    assert (outcome.metadata, outcome.description, outcome.occurred_at) == ({"a": 1}, "d", earlier)
    assert (outcome.attempt, outcome.transaction_id) == (3, None)


def test_plan_of_an_account_that_was_only_used_writes_only_the_usage() -> None:
    ledger = after(opening("o", tier="pro"), bonus(20, "b"))
    plan = planned(ledger, deduct(5, "r1"), deduct(500, "r2"), deduct(200, "r3"))
    (move,) = plan.accounts
    assert (move.only_used, move.sequence_before, move.state.sequence) == (True, 2, 4)
    assert [(lot.number, lot.remaining) for lot in plan.used_lots] == [(1, 45)]
    assert (plan.new_lots, plan.changed_lots) == ([], [])


@pytest.mark.parametrize(
    "command",
    [upload(1), reserve(1), bonus(1), record("page", 1), settling(), deduct(80)],
    ids=lambda command: command.type,
)
def test_plan_of_an_account_that_was_more_than_used_writes_all_changes(command: Command) -> None:
    """The ledger in memory asserts that nothing else changed where a plan says ``only_used``."""
    ledger, model = after(opening()), Model(SMALL_CATALOG)
    model.apply(opening(), NOW)
    assert_like_the_model(ledger, model, [(NOW + timedelta(days=1), [deduct(5, "d"), command])])


# -- notices ----------------------------------------------------------------------------------------------


def test_balance_that_falls_to_a_threshold_is_noticed_once_until_it_recovers() -> None:
    ledger = after(opening())
    steps: list[tuple[Command, list[Any]]] = [
        (deduct(69, "d1"), []),
        (deduct(1, "d2"), [("balance.low", 30, 30)]),
        (deduct(10, "d3"), []),
        (bonus(39, "b1"), []),  # 59: not enough
        (deduct(40, "d4"), []),
        (bonus(41, "b2"), []),  # 60
        (reserve(60, "h1"), [("balance.low", 0, 30), ("balance.depleted", 0, 0)]),
        (release("h1"), []),
        (deduct(60, "d5"), [("balance.low", 0, 30), ("balance.depleted", 0, 0)]),
        (bonus(19, "b3"), []),  # 19: not enough
        (deduct(19, "d6"), []),
        (adjust(-5, reference_id="a1", allow_negative=True), []),
        (bonus(25, "b4"), []),  # 20: no longer depleted, and still low
        (deduct(20, "d7"), [("balance.depleted", 0, 0)]),
    ]
    for command, expected in steps:
        reply_to(ledger, command)
        notices = ledger.outcomes[command.reference_id].notices
        assert [(notice["type"], notice["available"], notice["mark"]) for notice in notices] == expected


def test_credit_that_ends_soon_is_noticed_once_with_what_is_left_of_it() -> None:
    end = NOW + timedelta(days=10)
    ledger = after(opening(), bonus(20, "b", expires_at=end))
    early, late = end - timedelta(days=3, microseconds=1), end - timedelta(days=3)
    noticed = []
    for number, now in enumerate([early, late, late + timedelta(hours=1), end]):
        reply_to(ledger, deduct(1, f"d{number}"), now)
        noticed.append([dict(notice) for notice in ledger.outcomes[f"d{number}"].notices])
    expiring = {"type": "credit.expiring", "lot": 2, "tokens": 20, "source": "bonus"}
    assert noticed == [[], [{**expiring, "expires_at": end.isoformat()}], [], []]


def test_credit_that_is_given_for_a_short_time_is_noticed_at_once() -> None:
    ledger = after(opening(), bonus(20, "b", expires_at=NOW + timedelta(days=3)))
    assert [notice["lot"] for notice in ledger.outcomes["b"].notices] == [2]


def test_notice_comes_in_time_after_a_catalog_without_notices() -> None:
    end = NOW + timedelta(days=10)
    silent = SMALL_CATALOG.model_copy(
        update={"notices": SMALL_CATALOG.notices.model_copy(update={"expiring_days": 0})}
    )
    ledger = after(opening(), bonus(20, "b", expires_at=end), catalog=silent)
    ledger.catalog = SMALL_CATALOG
    assert reply_to(ledger, deduct(1_000, "d1"), end - timedelta(days=2))["code"] == "insufficient_balance"
    for number in (2, 3):
        reply_to(ledger, deduct(1, f"d{number}"), end - timedelta(days=1))
    noticed = [[notice["lot"] for notice in ledger.outcomes[name].notices] for name in ("d1", "d2", "d3")]
    assert noticed == [[], [2], []]


def test_account_that_only_usage_moves_waits_for_the_notices_of_a_new_catalog() -> None:
    end = NOW + timedelta(days=10)
    silent = SMALL_CATALOG.model_copy(
        update={"notices": SMALL_CATALOG.notices.model_copy(update={"expiring_days": 0})}
    )
    ledger = after(opening(), bonus(20, "b", expires_at=end), catalog=silent)
    ledger.catalog = SMALL_CATALOG
    reply_to(ledger, deduct(1))
    assert ledger.accounts["u"].due_at == end - timedelta(days=3)


def test_allocation_expires_without_a_notice() -> None:
    ledger = after(opening())
    reply_to(ledger, settling(), PERIOD_END - timedelta(days=1))
    assert ledger.outcomes["r"].notices == ()


def test_account_opened_below_a_threshold_gets_no_notice() -> None:
    ledger = after(opening(tier="empty"), settling())
    assert (ledger.outcomes["o"].notices, ledger.outcomes["r"].notices) == ((), ())


# -- too late ---------------------------------------------------------------------------------------------


def test_usage_that_was_applied_in_time_gets_its_first_reply_after_its_deadline() -> None:
    ledger = after(opening(), deduct(5, valid_until=NOW))
    again = reply_to(ledger, deduct(5, valid_until=NOW), NOW + timedelta(days=1))
    assert picked(again, "code", "duplicate", "balanceAfter") == ("tokens_deducted", True, 95)


def test_deadline_is_no_part_of_the_content() -> None:
    ledger = after(opening(), deduct(5, valid_until=NOW))
    for until in (None, NOW - timedelta(days=1), NOW + timedelta(days=1)):
        assert reply_to(ledger, deduct(5, valid_until=until))["code"] == "tokens_deducted"


def test_too_late_is_durable_until_the_next_attempt() -> None:
    ledger = after(opening(), deduct(5, valid_until=NOW - timedelta(days=1)))
    assert picked(reply_to(ledger, deduct(5)), "code", "duplicate") == ("too_late", True)
    assert reply_to(ledger, deduct(5, attempt=2, valid_until=NOW))["code"] == "tokens_deducted"


def test_deadline_of_an_unknown_account_is_not_looked_at() -> None:
    assert (
        reply_to(FakeLedger(), deduct(5, valid_until=NOW - timedelta(days=1)))["code"] == "account_not_found"
    )


# -- an order, a batch ------------------------------------------------------------------------------------


def test_a_period_changes_nothing_about_what_was_rejected_in_the_last() -> None:
    ledger = after(opening(), upload(51))
    again = reply_to(ledger, upload(51), PERIOD_END)
    assert picked(again, "code", "duplicate") == ("free_upload_limit_exceeded", True)


def test_later_commands_of_a_batch_see_the_earlier_ones() -> None:
    plan = planned(
        FakeLedger(),
        opening(),
        deduct(60, "r1"),
        deduct(60, "r2"),
        deduct(40, "r3"),
        refund(5, "r3", reference_id="r4"),
        upload(40, "r5"),
        upload(20, "r6"),
        upload(10, "r7"),
        payment(reference_id="r8"),
        reserve(100, "r9"),
        deduct(6, "r10"),
        settle(90, "r9", reference_id="r11"),
        went_back(original_reference_id="r8", reference_id="r12"),
        bonus(70, "r13"),
        deduct(1, "r14"),
    )
    assert codes(plan) == [
        "account_opened",
        "tokens_deducted",
        "insufficient_balance",
        "tokens_deducted",
        "tokens_refunded",
        "free_upload_counted",
        "free_upload_limit_exceeded",
        "free_upload_counted",
        "tokens_purchased",
        "tokens_reserved",
        "insufficient_balance",
        "hold_settled",
        "payment_refunded",
        "bonus_granted",
        "insufficient_balance",
    ]
    assert [(entry.amount, entry.lot) for entry in plan.entries] == [
        (100, 1),  # opened
        (-60, 1),
        (-40, 1),
        (5, 1),  # refunded
        (90, 2),  # bought, and a bonus
        (10, 3),
        (-5, 1),  # settled: 5, 10 and 75 of 85 were held
        (-10, 3),
        (-75, 2),
        (-15, 2),  # went back: what is left, and a debt
        (-85, None),
        (70, None),  # a bonus that repays
    ]
    assert [entry.used_after for entry in plan.quota_entries] == [40, 50]
    assert plan.opened == {"u"}
    (move,) = plan.accounts
    state = move.state
    assert (state.balance, state.debt, state.held) == (-15, 15, 0)
    assert [(lot.number, lot.remaining) for lot in plan.new_lots] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert (state.allocated, state.purchased, state.bonus, state.refunded) == (100, 90, 80, 5)
    assert (state.used, state.reversed) == (190, 100)


def test_a_command_before_the_opening_of_its_account_finds_none() -> None:
    plan = planned(FakeLedger(), deduct(1, "r1"), opening(), deduct(1, "r2"), opening("o2"))
    assert codes(plan) == ["account_not_found", "account_opened", "tokens_deducted", "account_exists"]


def test_rejected_opening_leaves_the_account_closed_for_later_commands() -> None:
    plan = planned(FakeLedger(), opening(tier="gold"), deduct(1), opening("o2", tier="pro"))
    assert codes(plan) == ["unknown_tier", "account_not_found", "account_opened"]
    (move,) = plan.accounts
    assert (move.state.tier, move.state.balance) == ("pro", 250)


def test_rejected_command_leaves_due_entries_to_the_next_one_of_the_batch() -> None:
    ledger = after(opening(), bonus(20, "b"))
    refused, used = ledger.apply([deduct(50, "r1"), deduct(10, "r2")], PERIOD_END)
    standing = ("code", "balanceBefore", "balanceAfter", "expired")
    assert picked(refused, *standing) == ("insufficient_balance", 20, 20, None)
    assert picked(used, *standing) == ("tokens_deducted", 20, 10, 100)
    assert {entry.outcome.reference_id for entry in ledger.entries[2:]} == {"r2"}


def test_only_the_command_that_posts_an_expiry_reports_it() -> None:
    ledger = after(opening(), bonus(20, "b"))
    replies = ledger.apply([deduct(1, "r1"), deduct(1, "r2"), deduct(100, "r3")], PERIOD_END)
    assert [reply.get("expired") for reply in replies] == [100, None, None]


def test_a_used_reference_opens_no_account_for_another_user() -> None:
    ledger = after(opening())
    reply = reply_to(ledger, opening(user_id="v"))
    assert picked(reply, "code", "field") == ("reference_conflict", "userId")
    assert ledger.balances() == {"u": 100}


def test_users_of_one_batch_have_nothing_to_do_with_each_other() -> None:
    ledger = after(opening(), opening("o2", "v", "pro"), deduct(30), deduct(200, "r2", "v"))
    assert ledger.balances() == {"u": 70, "v": 50}


def test_an_empty_batch_has_an_empty_plan() -> None:
    assert planned(after(opening())) == Plan()


# -- the reference ----------------------------------------------------------------------------------------

#: Commands that the account of ``u`` has seen before them.
BEFORE: list[Command] = [
    opening("first"),
    payment(reference_id="p"),
    reserve(60, "hold"),
    deduct(30, "d"),
]
APPLIED: list[Command] = [
    opening("o", "new", "pro"),
    settling(),
    deduct(10, feature="chat"),
    upload(10),
    reserve(10),
    settle(20),
    release(),
    record("page", 1),
    payment(provider="stripe"),
    payment(package_index=1),
    went_back(),
    disputed(),
    closed("lost"),
    failed(),
    went_back(original_reference_id="unknown"),
    refund(10),
    refund(10, "d"),
    bonus(10),
    bonus(10, effective_at=SOON, expires_at=SOON + timedelta(days=1), priority=7),
    adjust(10),
    adjust(-500, allow_negative=True),
    change("pro"),
    renew(PERIOD_END),
    cancel("now"),
]
REJECTED: list[Command] = [
    opening("o", "u", "pro"),
    opening("o", "new", "gold"),
    deduct(1_000),
    deduct(10, user_id="nobody"),
    upload(1_000),
    reserve(1_000),
    settle(61),
    release("none"),
    record("fax", 1),
    payment(1),
    payment(package_id="huge"),
    went_back(1, "USD"),
    refund(31, "d"),
    refund(10, user_id="nobody"),
    bonus(10, user_id="nobody"),
    bonus(10, expires_at=NOW),
    adjust(-500),
    change("gold"),
    renew(),
]


def described(command: Command) -> str:
    return f"{command.type} by {command.user_id}: {content_of(command)}"


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in a later batch"])
@pytest.mark.parametrize("command", [*APPLIED, *REJECTED], ids=described)
def test_a_redelivered_command_gets_its_first_reply_and_moves_nothing(
    command: Command, together: bool
) -> None:
    ledger = after(*BEFORE)
    if together:
        first, again = ledger.apply([command, command])
        once = after(*BEFORE)
        once.apply([command])
    else:
        first = reply_to(ledger, command)
        once = deepcopy(ledger)
        again = reply_to(ledger, command, NOW + timedelta(days=365))
    assert first["duplicate"] is False
    assert again == {**first, "duplicate": True}
    assert ledger.balances() == once.balances()
    for name, rows in once.rows().items():
        assert len(ledger.rows()[name]) == len(rows), name


@pytest.mark.parametrize(
    "noise",
    [
        {"metadata": {"trace": "2"}},
        {"description": "again"},
        {"occurred_at": NOW - timedelta(hours=1)},
        {"metadata": {}, "description": "", "occurred_at": NOW},
    ],
    ids="+".join,
)
@pytest.mark.parametrize("command", [*APPLIED, *REJECTED], ids=described)
def test_free_text_and_times_are_no_content(command: Command, noise: dict[str, Any]) -> None:
    ledger = after(*BEFORE)
    first = reply_to(ledger, command)
    again = reply_to(ledger, command.model_copy(update=noise))
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
        pytest.param(
            bonus(10, expires_at=SOON),
            bonus(10, expires_at=SOON + timedelta(seconds=1)),
            "expiresAt",
            "2026-11-23T10:15:00+00:00",
            "2026-11-23T10:15:01+00:00",
            id="when a bonus ends",
        ),
        pytest.param(
            bonus(10, effective_at=SOON),
            bonus(10),
            "effectiveAt",
            "2026-11-23T10:15:00+00:00",
            "absent",
            id="when a bonus begins",
        ),
        pytest.param(bonus(10, priority=0), bonus(10), "priority", "0", "absent", id="priority of a bonus"),
        pytest.param(refund(10, "d"), refund(10, "e"), "originalReferenceId", "d", "e", id="original"),
        pytest.param(adjust(10), adjust(-10), "tokens", "10", "-10", id="tokens of a correction"),
        pytest.param(
            adjust(-10),
            adjust(-10, allow_negative=True),
            "allowNegative",
            "False",
            "True",
            id="whether it may go below zero",
        ),
        pytest.param(reserve(10), reserve(11), "tokens", "10", "11", id="tokens of a hold"),
        pytest.param(
            reserve(10), reserve(10, ttl_seconds=1), "ttlSeconds", "86400", "1", id="the life of a hold"
        ),
        pytest.param(settle(0), settle(1), "tokens", "0", "1", id="tokens of a settlement"),
        pytest.param(
            settle(0), settle(0, on_excess="take"), "onExcess", "refuse", "take", id="what becomes of excess"
        ),
        pytest.param(
            release(), release("other"), "originalReferenceId", "hold", "other", id="the hold given up"
        ),
        pytest.param(record("page", 1), record("page", 2), "quantity", "1", "2", id="quantity"),
        pytest.param(record("page", 1), record("chat", 1), "meter", "page", "chat", id="meter"),
        pytest.param(went_back(1), went_back(2), "amountMinor", "1", "2", id="money that went back"),
        pytest.param(disputed(), disputed(dispute_id="y"), "disputeId", "x", "y", id="which dispute"),
        pytest.param(closed("won"), closed("lost"), "result", "won", "lost", id="how a dispute ended"),
        pytest.param(
            failed(), failed(original_reference_id="q"), "originalReferenceId", "p", "q", id="what failed"
        ),
        pytest.param(change("pro"), change("free"), "tier", "pro", "free", id="tier of a change"),
        pytest.param(
            renew(PERIOD_END),
            renew(),
            "periodStart",
            "2026-12-22T10:15:00+00:00",
            "absent",
            id="which period",
        ),
        pytest.param(cancel(), cancel("now"), "at", "period_end", "now", id="when a subscription ends"),
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
            payment(package_index=1), payment(package_index=2), "packageIndex", "1", "2", id="packageIndex"
        ),
        pytest.param(
            payment(), payment(package_index=2), "packageId", "rich", "brief", id="id and then position"
        ),
        pytest.param(
            payment(), payment(package_index=9), "packageId", "rich", "absent", id="id and then no position"
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
    assert picked(reply, "status", "code", "duplicate") == ("rejected", "reference_conflict", False)
    assert picked(reply, "field", "expected", "received") == (field, stored, received)
    assert picked(reply, "referenceId", "type", "userId") == ("r", second.type, second.user_id)
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
def test_rejected_reference_with_other_content_at_the_same_attempt_is_a_conflict(
    rejected: Command, changed: Command
) -> None:
    ledger = after(opening(), rejected)
    assert reply_to(ledger, changed)["code"] == "reference_conflict"
    assert ledger.balances() == {"u": 100}


def test_a_rejection_is_durable_whatever_is_topped_up() -> None:
    ledger = after(opening(), deduct(150))
    reply_to(ledger, bonus(1_000, "b"))
    again = reply_to(ledger, deduct(150))
    assert picked(again, "code", "duplicate", "available") == ("insufficient_balance", True, 100)
    assert ledger.balances() == {"u": 1_100}


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in later batches"])
@pytest.mark.parametrize("attempts", [(1, 2), (1, 7), (3, 4)])
def test_copy_of_a_lower_attempt_gets_what_a_higher_one_applied(
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
    assert picked(first, "code", "attempt", "duplicate") == ("insufficient_balance", lower, False)
    assert picked(second, "code", "attempt", "duplicate") == ("tokens_deducted", higher, False)
    assert first_again == second_again == {**second, "duplicate": True}
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
    assert [(one.reference_id, one.attempt) for one in ledger.superseded] == [("r", n) for n in range(1, 6)]


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
    assert picked(reply, "status", "attempt", "duplicate") == ("applied", 2, False)
    assert reply_to(ledger, rejected)["status"] == "rejected"


@pytest.mark.parametrize(
    ("again", "field"),
    [(upload(5, attempt=2), "type"), (deduct(1_000, user_id="v", attempt=2), "userId")],
    ids=["another type", "another user"],
)
def test_the_type_and_user_of_a_higher_attempt_may_not_differ(again: Command, field: str) -> None:
    ledger = after(opening(), deduct(1_000))
    assert picked(reply_to(ledger, again), "code", "field") == ("reference_conflict", field)
    assert ledger.outcomes["r"].attempt == 1


@pytest.mark.parametrize("attempt", [2, 9, 1_001])
def test_an_applied_reference_is_never_judged_anew(attempt: int) -> None:
    ledger = after(opening())
    first = reply_to(ledger, deduct(10))
    assert reply_to(ledger, deduct(10, attempt=attempt)) == {**first, "duplicate": True}
    assert picked(reply_to(ledger, deduct(11, attempt=attempt)), "code", "field") == (
        "reference_conflict",
        "tokens",
    )
    assert ledger.balances() == {"u": 90}


def test_a_lower_attempt_that_was_never_judged_is_answered_with_the_latest() -> None:
    """The attempt comes too late to be judged: the latest outcome of the reference counts."""
    ledger = after(opening())
    third = reply_to(ledger, deduct(150, attempt=3))
    assert reply_to(ledger, deduct(150, attempt=2)) == {**third, "duplicate": True}
    assert picked(reply_to(ledger, deduct(10, attempt=2)), "code", "field") == (
        "reference_conflict",
        "tokens",
    )
    assert ledger.balances() == {"u": 100}


def test_copy_of_a_lower_attempt_of_another_content_keeps_its_reply() -> None:
    ledger = after(opening())
    first = reply_to(ledger, deduct(150))
    assert reply_to(ledger, deduct(20, attempt=2))["code"] == "tokens_deducted"
    assert reply_to(ledger, deduct(150)) == {**first, "duplicate": True}


def test_copy_of_a_lower_attempt_keeps_its_reply_while_none_is_applied() -> None:
    ledger = after(opening())
    first = reply_to(ledger, deduct(150))
    reply_to(ledger, deduct(150, attempt=2))
    assert reply_to(ledger, deduct(150)) == {**first, "duplicate": True}


def test_a_lower_attempt_is_compared_with_its_own_content() -> None:
    ledger = after(opening(), deduct(150), deduct(20, attempt=2))
    old = reply_to(ledger, deduct(150))
    assert picked(old, "code", "attempt", "duplicate") == ("insufficient_balance", 1, True)
    conflict = reply_to(ledger, deduct(20))
    assert picked(conflict, "code", "expected", "received") == ("reference_conflict", "150", "20")


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
    plan = planned(ledger, deduct(11))
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
        (refund(10, "d"), '{"originalReferenceId":"d","tokens":10}'),
        (bonus(10, occurred_at=NOW), '{"tokens":10}'),
        (
            bonus(10, expires_at=SOON.astimezone(ZoneInfo("Europe/Berlin"))),
            '{"expiresAt":"2026-11-23T10:15:00+00:00","tokens":10}',
        ),
        (adjust(-10), '{"allowNegative":false,"tokens":-10}'),
        (settle(0), '{"onExcess":"refuse","originalReferenceId":"hold","tokens":0}'),
        (settling(), "{}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_content_is_the_same_text_for_ever(command: Command, text: str) -> None:
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


THREE: list[Command] = [deduct(60, "a"), deduct(60, "b"), refund(30, "a", reference_id="c")]
DUPLICATE, CONTRADICTION = deduct(60, "a"), deduct(70, "a")
ORDERS = list(permutations([*THREE, DUPLICATE, CONTRADICTION]))


@pytest.mark.parametrize("sizes", list(compositions(5)), ids=lambda sizes: "+".join(map(str, sizes)))
def test_every_order_of_three_commands_with_a_duplicate_and_a_conflict(sizes: list[int]) -> None:
    for order in ORDERS:
        ledger, model = FakeLedger(), Model(SMALL_CATALOG)
        batches: list[list[Command]] = [[opening()], *cut(order, sizes)]
        replies = assert_like_the_model(ledger, model, [(NOW, batch) for batch in batches])[1:]
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
        day = [(NOW, batch) for batch in cut(order, sizes)]
        assert_like_the_model(FakeLedger(), Model(SMALL_CATALOG), day)
