"""Credit at the border: given, given back, and corrected by hand."""

from typing import Any

import pytest

from tests.support.message_bodies import GONE, assert_refused, body, taken
from tests.support.strategies import LIMITS

LATER, LATEST = "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"
OUTSIDE = "lies outside the years 1 to 9999 in UTC"

BY_HAND: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"tokens": 0}, "invalid_field", "tokens", "must not be 0; give tokens with a positive number"),
    ({"tokens": -0.5}, "invalid_field", "tokens", "must be a whole number"),
    ({"tokens": "-5"}, "invalid_field", "tokens", "without quotes"),
    ({"tokens": LIMITS.max_quantity + 1}, "invalid_field", "tokens", "at most"),
    ({"tokens": -LIMITS.max_quantity - 1}, "invalid_field", "tokens", "at most"),
    ({"tokens": -(2**63)}, "invalid_field", "tokens", "greater than or equal to -9223372036854775807"),
    ({"reason": ""}, "invalid_field", "reason", "must not be empty"),
    ({"reason": 5}, "invalid_field", "reason", "must be a string"),
    ({"reason": "x" * 501}, "invalid_field", "reason", "at most 500 characters"),
    ({"reason": "a\u202eb"}, "invalid_field", "reason", "characters that are not taken"),
    ({"reason": GONE}, "missing_field", "reason", "'reason' is missing"),
    ({"actor": ""}, "invalid_field", "actor", "must not be empty"),
    ({"actor": " ann"}, "invalid_field", "actor", "white space at either end"),
    ({"actor": "x" * 65}, "invalid_field", "actor", "at most 64 characters"),
    ({"actor": GONE}, "missing_field", "actor", "'actor' is missing"),
    ({"allowNegative": "yes"}, "invalid_field", "allowNegative", "must be true or false"),
    ({"allowNegative": 1}, "invalid_field", "allowNegative", "must be true or false"),
    ({"allowNegative": None}, "invalid_field", "allowNegative", "must be true or false"),
    ({"expiresAt": LATER}, "invalid_field", None, "for tokens that are given, and these are taken"),
]


@pytest.mark.parametrize(("changes", "reason", "field", "words"), BY_HAND)
def test_a_bad_adjustment_is_refused(
    changes: dict[str, Any], reason: str, field: str | None, words: str
) -> None:
    assert_refused(body("credit.adjust", **changes), reason, field, words)


@pytest.mark.parametrize("tokens", [1, -1, LIMITS.max_quantity, -LIMITS.max_quantity])
def test_an_adjustment_gives_or_takes(tokens: int) -> None:
    adjusted = taken(body("credit.adjust", tokens=tokens))
    assert (adjusted.tokens, adjusted.allow_negative, adjusted.actor) == (tokens, False, "ann")


def test_adjustment_may_give_tokens_that_expire_or_make_a_debt() -> None:
    assert taken(body("credit.adjust", tokens=5, expiresAt=LATER)).expires_at.isoformat() == (
        "2027-01-01T00:00:00+00:00"
    )
    assert taken(body("credit.adjust", allowNegative=True)).allow_negative is True


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"effectiveAt": LATEST, "expiresAt": LATER}, None, "expiresAt must be after effectiveAt"),
        ({"effectiveAt": LATER, "expiresAt": LATER}, None, "expiresAt must be after effectiveAt"),
        # The same moment from another offset is no later.
        (
            {"effectiveAt": LATER, "expiresAt": "2027-01-01T02:00:00+02:00"},
            None,
            "expiresAt must be after effectiveAt",
        ),
        ({"effectiveAt": "2027-01-01T00:00:00"}, "effectiveAt", "RFC 3339 time with an offset"),
        ({"effectiveAt": "0001-01-01T00:00:00+00:01"}, "effectiveAt", OUTSIDE),
        ({"expiresAt": "9999-12-31T23:59:59-00:01"}, "expiresAt", OUTSIDE),
        ({"expiresAt": 1_795_342_500}, "expiresAt", "RFC 3339 time with an offset"),
        ({"priority": -1}, "priority", "greater than or equal to 0"),
        ({"priority": 1_001}, "priority", "less than or equal to 1000"),
        ({"priority": True}, "priority", "must be a whole number"),
    ],
)
def test_a_bad_bonus_is_refused(changes: dict[str, Any], field: str | None, words: str) -> None:
    assert_refused(body("credit.bonus", **changes), "invalid_field", field, words)


@pytest.mark.parametrize("priority", [0, 1_000])
def test_a_bonus_may_say_when_it_is_there_and_when_it_is_spent(priority: int) -> None:
    bonus = taken(body("credit.bonus", effectiveAt=LATER, expiresAt=LATEST, priority=priority))
    assert (bonus.effective_at < bonus.expires_at, bonus.priority) == (True, priority)


def test_a_refund_may_name_what_it_refunds() -> None:
    assert taken(body("credit.refund")).original_reference_id is None
    assert taken(body("credit.refund", originalReferenceId="job-1")).original_reference_id == "job-1"
