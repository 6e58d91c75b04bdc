"""Explanation of one reference: the command, its outcome, and what followed."""

import json

import pytest
from sqlalchemy import Engine, text

from schemas import (
    ChangeSubscription,
    DeductUsage,
    PaymentDisputed,
    PaymentRefunded,
    RefundCredit,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
)
from tests.support.query_samples import (
    DAY,
    NOW,
    TICK,
    Apply,
    adjusted,
    asked_catalog,
    given,
    on_sqlite,
    opened,
    paid,
    used,
)
from worker.catalog import Catalog
from worker.core import reply_for
from worker.errors import NotFoundError
from worker.ledger.queries import Explanation, Reader
from worker.ledger.queries.payment_views import AwaitedView
from worker.ledger.queries.senders import SenderView
from worker.ledger.senders import UNNAMED, Sender


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


def test_a_deduction_is_explained_from_the_command_to_the_reply(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    command = DeductUsage(
        reference_id="job",
        user_id=ada,
        tokens=10_030,
        feature="chat",
        occurred_at=NOW - DAY,
        metadata={"node": 7},
        description="A long talk",
    )
    apply(given(ada, 40, "brief", priority=0), now=NOW - TICK)
    (answer,) = apply(command, now=NOW, sender=Sender("ocr", "scan"))
    view = reader.explain("job", NOW, catalog).to_dict()
    assert view["asked"] == {
        "type": "usage.deduct",
        "userId": "ada",
        "content": {"tokens": 10_030, "feature": "chat"},
        "occurredAt": "2026-11-21T10:15:00Z",
        "description": "A long talk",
        "metadata": {"node": 7},
    }
    assert view["outcomes"] == [
        {
            "type": "usage.deduct",
            "userId": "ada",
            "attempt": 1,
            "status": "applied",
            "code": "tokens_deducted",
            "message": "Deducted 10.0K tokens. Balance: 10",
            "amount": 10_030,
            "balanceBefore": 10_040,
            "balanceAfter": 10,
            "detail": {},
            "sender": {"brokerUser": "ocr", "application": "scan"},
            "catalog": {"digest": catalog.digest, "isInUse": True},
            "recordedAt": "2026-11-22T10:15:00Z",
        }
    ]
    assert [(entry["amount"], entry["lot"], entry["source"]) for entry in view["entries"]] == [
        (-40, 2, "bonus"),
        (-9_990, 1, "bonus"),
    ]
    assert view["reply"] == json.loads(reply_for(command, answer).to_json())
    assert [notice["type"] for notice in view["notices"]] == ["balance.low"]


def test_explanation_has_every_attempt_the_valid_one_last(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(used("job", 10_500), now=NOW)
    apply(given(ada, 600, "topped"), now=NOW + TICK)
    apply(used("job", 10_500).model_copy(update={"attempt": 2}), now=NOW + DAY)
    outcomes = reader.explain("job", NOW + DAY, catalog).outcomes
    assert [(outcome.attempt, outcome.code, outcome.recorded_at) for outcome in outcomes] == [
        (1, "insufficient_balance", NOW),
        (2, "tokens_deducted", NOW + DAY),
    ]
    assert outcomes[0].detail == {"required": 10_500, "available": 10_000, "shortfall": 500}


def test_explanation_has_the_sender_of_each_attempt(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    senders = (UNNAMED, Sender("ocr", ""), Sender("", "scan"), Sender("ocr", "scan"))
    for attempt, sender in enumerate(senders, start=1):
        command = used("job", 10_500).model_copy(update={"attempt": attempt})
        apply(command, now=NOW, sender=sender)
    outcomes = reader.explain("job", NOW, catalog).outcomes
    assert [outcome.sender for outcome in outcomes] == [
        None,
        SenderView("ocr", None),
        SenderView(None, "scan"),
        SenderView("ocr", "scan"),
    ]
    assert [str(outcome.sender) for outcome in outcomes[1:]] == ["ocr", "anonymous (scan)", "ocr (scan)"]


def test_both_outcomes_of_a_squatted_reference_are_shown(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(used("taken", 10_500).model_copy(update={"attempt": 2}), now=NOW)
    apply(given(ada, 600, "taken").model_copy(update={"reference_id": "taken"}), now=NOW + TICK)
    view = reader.explain("taken", NOW + DAY, catalog)
    assert [(one.type, one.user_id, one.attempt, one.code) for one in view.outcomes] == [
        ("usage.deduct", "ada", 2, "insufficient_balance"),
        ("credit.bonus", "ada", 1, "bonus_granted"),
    ]
    assert view.asked is not None
    assert view.asked.type == "credit.bonus"
    assert [entry.amount for entry in view.entries] == [600]


def test_attempts_of_a_taken_usage_come_before_those_of_the_taker(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    squat = DeductUsage(reference_id="pay-ada", user_id="nobody", tokens=5)
    apply(squat, now=NOW)
    apply(squat.model_copy(update={"attempt": 2}), now=NOW + TICK)
    short = paid(ada).model_copy(update={"amount_minor": 1})
    apply(short, now=NOW + 2 * TICK)
    apply(paid(ada).model_copy(update={"attempt": 2}), now=NOW + 3 * TICK)
    outcomes = reader.explain("pay-ada", NOW + DAY, catalog).outcomes
    assert [(one.user_id, one.attempt, one.code) for one in outcomes] == [
        ("nobody", 1, "account_not_found"),
        ("nobody", 2, "account_not_found"),
        ("ada", 1, "amount_mismatch"),
        ("ada", 2, "tokens_purchased"),
    ]
    counted = {(one.type, one.code): one.count for one in reader.stats().operations}
    assert counted["payment.succeeded", "tokens_purchased"] == 1
    assert ("usage.deduct", "account_not_found") not in counted, "its reference is another's"


def test_event_that_named_another_user_counts_for_the_payment(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        opened("eve", "none"),
        PaymentRefunded(
            reference_id="back",
            user_id="eve",
            original_reference_id="pay-ada",
            amount_minor=1_999,
            currency="USD",
        ),
        now=NOW,
    )
    apply(paid(ada), now=NOW + TICK)
    for reference in ("pay-ada", "back"):
        view = reader.explain(reference, NOW + DAY, catalog)
        assert view.payment is not None
        assert (view.payment.reference_id, view.payment.collected) == ("pay-ada", 275_000)
        assert [event.reference_id for event in view.payment_events] == ["back", "pay-ada"]


@on_sqlite
def test_explanation_marks_the_entries_that_fell_due(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(given(ada, 40, "brief", expires_at=NOW + DAY), now=NOW)
    apply(used("job", 10), now=NOW + 2 * DAY)
    entries = reader.explain("job", NOW + 2 * DAY, catalog).entries
    assert [(entry.counter, entry.amount, entry.due_at) for entry in entries] == [
        ("expiry", -40, NOW + DAY),
        ("usage", -10, None),
    ]


def test_credit_is_explained_with_what_is_left_of_it(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(given(ada, 40, "brief", expires_at=NOW + DAY, priority=0), used("job", 10), now=NOW)
    (lot,) = reader.explain("brief-ada", NOW, catalog).lots
    assert (lot.number, lot.granted, lot.remaining, lot.reference_id) == (2, 40, 30, "brief-ada")
    (lot,) = reader.explain("brief-ada", NOW + DAY, catalog).lots
    assert lot.remaining == 0, "it has expired, although nobody has booked it"


def test_a_hold_is_explained_by_the_one_who_opened_it_and_the_one_who_ended_it(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    reserve = ReserveUsage(reference_id="hold", user_id=ada, tokens=100, ttl_seconds=60)
    settle = SettleUsage(reference_id="settle", user_id=ada, original_reference_id="hold", tokens=30)
    apply(reserve, now=NOW)
    opened_ = reader.explain("hold", NOW, catalog).hold
    assert opened_ is not None
    assert (opened_.state, opened_.amount, opened_.closed_by) == ("open", 100, None)
    ran_out = reader.explain("hold", NOW + DAY, catalog).hold
    assert ran_out is not None
    assert ran_out.state == "expired"
    apply(settle, now=NOW + TICK)
    late = ReleaseUsage(reference_id="late", user_id=ada, original_reference_id="hold")
    apply(late, now=NOW + DAY)
    for reference in ("hold", "settle", "late"):
        hold = reader.explain(reference, NOW + DAY, catalog).hold
        assert hold is not None
        assert (hold.state, hold.captured, hold.closed_by) == ("settled", 30, "settle")
    original = reader.explain("late", NOW, catalog).original
    assert original is not None
    assert (original.reference_id, original.type, original.code) == (
        "hold",
        "usage.reserve",
        "tokens_reserved",
    )
    assert reader.explain("late", NOW, catalog).outcomes[0].code == "hold_closed"


def test_a_payment_is_explained_with_all_that_happened_to_it(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    money = {"user_id": ada, "original_reference_id": "pay-ada", "currency": "USD"}
    disputed = PaymentDisputed(reference_id="dispute", dispute_id="d-1", amount_minor=1_999, **money)
    refunded = PaymentRefunded(reference_id="back", amount_minor=1_999, **money)
    apply(disputed, now=NOW)
    awaited = reader.explain("pay-ada", NOW, catalog)
    assert (awaited.asked, awaited.reply) == (None, None)
    assert [event.happened for event in awaited.payment_events] == ["disputed"]
    apply(paid(ada), now=NOW + TICK)
    apply(used("all", 200_000), refunded, now=NOW + DAY)
    for reference in ("pay-ada", "back", "dispute"):
        view = reader.explain(reference, NOW + DAY, catalog)
        assert view.payment is not None
        assert (view.payment.package_id, view.payment.amount_minor) == ("standard", 1_999)
        assert (view.payment.collected, view.payment.uncollected) == (275_000, 0)
        assert [(event.reference_id, event.happened, event.collected) for event in view.payment_events] == [
            ("dispute", "disputed", 0),
            ("pay-ada", "succeeded", 0),
            ("back", "refunded", 275_000),
        ]
    assert [lot.source for lot in reader.explain("pay-ada", NOW, catalog).lots] == [
        "purchase",
        "purchase_bonus",
    ]


def late_refund(reference: str, payment: str, currency: str = "USD") -> PaymentRefunded:
    fields = {"original_reference_id": payment, "amount_minor": 1_999, "currency": currency}
    return PaymentRefunded.model_validate({"reference_id": reference, **fields})


def test_event_that_waits_says_for_what_and_until_when(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(late_refund("back", "ch_1"), now=NOW)
    view = reader.explain("back", NOW + DAY, catalog)
    assert view.awaited == AwaitedView(
        name="ch_1",
        state="waiting",
        since=NOW,
        overdue_at=NOW + 3 * DAY,
        payment_reference_id=None,
        taken_in_by=None,
        taken_in_at=None,
    )
    by_name = reader.explain("ch_1", NOW, catalog)
    assert (by_name.asked, by_name.payment) == (None, None)
    assert [(event.reference_id, event.state) for event in by_name.payment_events] == [("back", "waiting")]


def test_event_that_was_taken_in_names_the_operation_that_did_it(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(late_refund("back", "ch_1"), now=NOW)
    apply(paid(ada).model_copy(update={"also_known_as": ("ch_1",)}), now=NOW + TICK)
    view = reader.explain("back", NOW + DAY, catalog)
    assert view.awaited is not None
    assert (view.awaited.state, view.awaited.payment_reference_id) == ("counted", "pay-ada")
    assert (view.awaited.taken_in_by, view.awaited.taken_in_at) == ("pay-ada", NOW + TICK)
    assert view.original is not None
    assert (view.original.reference_id, view.original.type) == ("pay-ada", "payment.succeeded")
    for reference in ("pay-ada", "ch_1"):
        view = reader.explain(reference, NOW + DAY, catalog)
        assert view.payment is not None
        assert view.payment.names == ("ch_1", "pay-ada")
        assert view.payment.collected == 275_000
        assert view.awaited is None


def test_event_that_cannot_count_says_why(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    apply(late_refund("back", "pay-ada", "EUR"), now=NOW)
    apply(paid(ada), now=NOW + TICK)
    view = reader.explain("back", NOW + DAY, catalog)
    assert view.awaited is not None
    assert (view.awaited.state, view.awaited.payment_reference_id) == ("currency_mismatch", "pay-ada")
    assert view.awaited.taken_in_by is None
    assert [(event.reference_id, event.state) for event in view.payment_events] == [
        ("back", "currency_mismatch")
    ]


def test_payment_of_a_subscription_is_explained_by_both_references(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    change = {
        "reference_id": "sub",
        "user_id": ada,
        "tier": "pro",
        "payment": {"reference_id": "in_1", "amount_minor": 900, "currency": "USD"},
    }
    apply(ChangeSubscription.model_validate(change), now=NOW)
    for reference in ("sub", "in_1"):
        payment = reader.explain(reference, NOW, catalog).payment
        assert payment is not None
        assert (payment.reference_id, payment.tier, payment.package_id) == ("in_1", "pro", None)


def test_a_usage_and_its_refunds_name_each_other(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        used("job", 100),
        *(
            RefundCredit(reference_id=f"r{n}", user_id=ada, tokens=n, original_reference_id="job")
            for n in (30, 20)
        ),
        now=NOW,
    )
    refunds = reader.explain("job", NOW, catalog).refunds
    assert sorted((refund.reference_id, refund.tokens) for refund in refunds) == [("r20", 20), ("r30", 30)]
    original = reader.explain("r30", NOW, catalog).original
    assert original is not None
    assert (original.reference_id, original.type) == ("job", "usage.deduct")


@on_sqlite
def test_explanation_names_an_unknown_original(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(RefundCredit(reference_id="r", user_id=ada, tokens=1, original_reference_id="lost"), now=NOW)
    original = reader.explain("r", NOW, catalog).original
    assert original is not None
    assert original.to_dict() == {"referenceId": "lost", "type": None, "status": None, "code": None}


@on_sqlite
def test_a_refusal_without_an_account_is_explained(reader: Reader, apply: Apply, catalog: Catalog) -> None:
    apply(DeductUsage(reference_id="job", user_id="nobody", tokens=1), now=NOW)
    view = reader.explain("job", NOW, catalog)
    assert [outcome.code for outcome in view.outcomes] == ["account_not_found"]
    assert (view.entries, view.lots, view.hold) == ((), (), None)
    assert view.reply is not None
    assert view.reply["message"] == "No token account for user nobody"


@on_sqlite
def test_explanation_of_an_adjustment_has_actor_and_reason(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(adjusted(ada, -7), now=NOW)
    (outcome,) = reader.explain("adjust", NOW, catalog).outcomes
    assert outcome.detail == {"reason": "a slip", "actor": "ann"}


def test_entries_are_found_where_the_operation_does_not_name_them(
    reader: Reader, engine: Engine, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(used("job", 5), now=NOW)
    explanation = reader.explain("job", NOW, catalog)
    with engine.begin() as connection:
        for statement in _without_guard(engine):
            connection.execute(text(statement))
        connection.execute(
            text(
                "UPDATE operations SET first_entry = NULL, last_entry = NULL,"
                " balance_before = coalesce(balance_before, balance_after + amount)"
            )
        )
    assert reader.explain("job", NOW, catalog).entries == explanation.entries


def _without_guard(engine: Engine) -> tuple[str, ...]:
    if engine.dialect.name == "postgresql":
        return ("ALTER TABLE operations DISABLE TRIGGER ALL",)
    return ("DROP TRIGGER operations_final",)


@on_sqlite
def test_unknown_reference_is_not_found_and_the_error_names_the_way_on(
    reader: Reader, ada: str, catalog: Catalog
) -> None:
    with pytest.raises(NotFoundError, match=r"nothing is known of the reference 'job'.*dead-letters list"):
        reader.explain("job", NOW, catalog)


@on_sqlite
def test_an_explanation_has_one_form_whatever_is_known(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(opened("bob"), used("job", 1), now=NOW)
    names = {frozenset(reader.explain(r, NOW, catalog).to_dict()) for r in ("open-bob", "job", "give-ada")}
    assert len(names) == 1
    assert isinstance(reader.explain("job", NOW, catalog), Explanation)
