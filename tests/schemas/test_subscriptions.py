"""Subscriptions at the border."""

import pytest

from tests.support.message_bodies import GONE, assert_refused, body, taken


def test_cancellation_waits_for_the_end_of_the_period_by_default() -> None:
    assert taken(body("subscription.cancel")).at == "period_end"
    assert taken(body("subscription.cancel", at="now")).at == "now"


@pytest.mark.parametrize("at", ["tomorrow", "NOW", "", None, "2027-01-01T00:00:00Z"])
def test_a_cancellation_has_no_other_time(at: object) -> None:
    assert_refused(body("subscription.cancel", at=at), "invalid_field", "at", "'period_end' or 'now'")


def test_renewal_is_of_the_present_period_by_default() -> None:
    assert taken(body("subscription.renew")).period_start is None
    renewal = taken(body("subscription.renew", periodStart="2026-12-22T12:15:00+02:00"))
    assert renewal.period_start.isoformat() == "2026-12-22T10:15:00+00:00"


@pytest.mark.parametrize("start", ["next", "2026-12-22", 5])
def test_a_period_begins_at_a_moment(start: object) -> None:
    assert_refused(
        body("subscription.renew", periodStart=start), "invalid_field", "periodStart", "RFC 3339 time"
    )


@pytest.mark.parametrize(("tier", "words"), [("", "must not be empty"), (None, "must be a string")])
def test_a_tier_has_a_name(tier: object, words: str) -> None:
    assert_refused(body("subscription.change", tier=tier), "invalid_field", "tier", words)


START, END = "2026-12-22T10:15:00Z", "2027-01-22T10:15:00Z"
PAID = {"referenceId": "in-1", "amountMinor": 2900, "currency": "USD"}


@pytest.mark.parametrize("name", ["subscription.change", "subscription.renew"])
def test_period_of_the_gateway_has_both_ends_and_a_payment(name: str) -> None:
    command = taken(body(name, periodStart=START, periodEnd=END, payment={**PAID, "alsoKnownAs": ["ch-1"]}))
    assert (command.period_end - command.period_start).days == 31
    assert command.payment.reference_id == "in-1"
    assert command.payment.also_known_as == ("ch-1",)


@pytest.mark.parametrize("name", ["subscription.change", "subscription.renew"])
@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (GONE, END, "periodEnd needs periodStart"),
        (END, START, "periodEnd must be later than periodStart"),
        (START, START, "periodEnd must be later than periodStart"),
    ],
)
def test_period_ends_after_it_begins(name: str, start: object, end: str, words: str) -> None:
    assert_refused(body(name, periodStart=start, periodEnd=end), "invalid_field", None, words)


def test_change_names_no_half_of_a_period() -> None:
    message = body("subscription.change", periodStart=START)
    assert_refused(message, "invalid_field", None, "periodStart needs periodEnd")


@pytest.mark.parametrize("more", [{"periodStart": START, "periodEnd": END}, {"payment": PAID}])
def test_change_at_the_end_of_the_period_grants_nothing_now(more: dict[str, object]) -> None:
    assert taken(body("subscription.change", effectiveAt="now", **more)).effective_at == "now"
    assert taken(body("subscription.change", effectiveAt="period_end")).effective_at == "period_end"
    message = body("subscription.change", effectiveAt="period_end", **more)
    assert_refused(message, "invalid_field", None, "leave periodStart and payment out")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"amountMinor": -1}, "payment.amountMinor", "must be 0 or more"),
        ({"currency": "usd"}, "payment.currency", "such as USD"),
        ({"referenceId": ""}, "payment.referenceId", "must not be empty"),
        ({"packageId": "small"}, "payment.packageId", "is not known"),
    ],
)
def test_fault_of_a_payment_is_named_with_its_place(
    changes: dict[str, object], field: str, words: str
) -> None:
    assert_refused(body("subscription.renew", payment={**PAID, **changes}), "invalid_field", field, words)
