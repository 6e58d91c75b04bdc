"""Payments at the border: taken, and going back."""

from datetime import UTC, datetime

import pytest

from schemas import Limits, PaymentRefunded, decode
from tests.support.message_bodies import GONE, assert_refused, body, taken

BACK = ["payment.refunded", "payment.disputed", "payment.dispute_closed"]


@pytest.mark.parametrize("name", ["payment.refunded", "payment.disputed"])
@pytest.mark.parametrize("amount", [0, -499])
def test_money_that_goes_back_is_positive(name: str, amount: int) -> None:
    assert_refused(body(name, amountMinor=amount), "invalid_field", "amountMinor", "must be 1 or more")


@pytest.mark.parametrize("result", ["won", "lost", "prevented", "withdrawn"])
def test_closed_dispute_may_have_taken_nothing(result: str) -> None:
    closed = taken(body("payment.dispute_closed", result=result, amountMinor=0))
    assert (closed.result, closed.amount_minor) == (result, 0)
    message = body("payment.dispute_closed", result=result, amountMinor=-1)
    assert_refused(message, "invalid_field", "amountMinor", "must be 0 or more")


@pytest.mark.parametrize("name", BACK)
@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"amountMinor": 4.99}, "amountMinor", "must be a whole number"),
        ({"amountMinor": 10**16}, "amountMinor", "at most 1000000000000000 is taken"),
        ({"currency": "usd"}, "currency", "such as USD"),
        ({"currency": "USDT"}, "currency", "such as USD"),
        ({"originalReferenceId": "a\x00b"}, "originalReferenceId", "characters that are not taken"),
    ],
)
def test_money_that_goes_back_is_whole_and_has_a_currency(
    name: str, changes: dict[str, object], field: str, words: str
) -> None:
    assert_refused(body(name, **changes), "invalid_field", field, words)


@pytest.mark.parametrize("name", ["payment.disputed", "payment.dispute_closed"])
@pytest.mark.parametrize(
    ("dispute", "words"),
    [("", "must not be empty"), (5, "must be a string"), ("x" * 201, "at most 200 characters")],
)
def test_a_dispute_has_a_name(name: str, dispute: object, words: str) -> None:
    assert_refused(body(name, disputeId=dispute), "invalid_field", "disputeId", words)
    assert_refused(body(name, disputeId=GONE), "missing_field", "disputeId", "'disputeId' is missing")


def test_dispute_ends_in_one_of_four_results() -> None:
    for other in ("draw", "WON", None, True):
        message = body("payment.dispute_closed", result=other)
        assert_refused(message, "invalid_field", "result", "'won', 'lost', 'prevented' or 'withdrawn'")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"amountMinor": GONE}, "give amountMinor, or refundedTotalMinor for a cumulative amount"),
        ({"refundedTotalMinor": 500}, "give amountMinor, or refundedTotalMinor for a cumulative amount"),
        ({"amountMinor": GONE, "refundedTotalMinor": 500}, "refundedTotalMinor needs occurredAt"),
    ],
)
def test_refund_has_an_amount_or_a_total_with_its_time(changes: dict[str, object], words: str) -> None:
    assert_refused(body("payment.refunded", **changes), "invalid_field", None, words)


def test_failed_refund_does_not_name_itself() -> None:
    message = body("payment.refund_failed", refundReferenceId="r-1")
    assert_refused(message, "invalid_field", None, "refundReferenceId names this command itself")


def test_a_failure_takes_everything_back_and_names_no_amount() -> None:
    assert taken(body("payment.failed")).original_reference_id == "o-1"
    assert_refused(body("payment.failed", amountMinor=499), "unknown_field", "amountMinor", "known are ")


def test_cumulative_refund_decodes_without_an_amount_of_its_own() -> None:
    body = (
        b'{"type": "payment.refunded", "referenceId": "shop:order:1:refunded:500", "originalReferenceId": '
        b'"shop:order:1", "refundedTotalMinor": 500, "currency": "USD", "occurredAt": "2026-11-22T10:00:00Z"}'
    )
    decoded = decode(body, now=datetime(2026, 11, 23, tzinfo=UTC), limits=Limits())
    assert isinstance(decoded, PaymentRefunded)
    assert (decoded.amount_minor, decoded.refunded_total_minor) == (None, 500)
