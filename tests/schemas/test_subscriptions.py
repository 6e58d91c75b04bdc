"""Subscriptions at the border."""

import pytest

from tests.support.message_bodies import assert_refused, body, taken


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
