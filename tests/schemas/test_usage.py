"""Usage at the border: at once, under a hold, by a meter."""

import pytest

from schemas.usage import HOLD_MAX_SECONDS
from tests.support.message_bodies import GONE, assert_refused, body, taken
from tests.support.strategies import LIMITS

WHOLE = "must be a whole number, without quotes, fraction or exponent"
DAYS_31 = 31 * 24 * 3600


@pytest.mark.parametrize("seconds", [1, 60, DAYS_31])
def test_a_hold_lives_from_a_second_to_thirty_one_days(seconds: int) -> None:
    assert HOLD_MAX_SECONDS == DAYS_31
    assert taken(body("usage.reserve", ttlSeconds=seconds)).ttl_seconds == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "greater than or equal to 1"),
        (-1, "greater than or equal to 1"),
        (DAYS_31 + 1, f"less than or equal to {DAYS_31}"),
        (2**63, f"less than or equal to {DAYS_31}"),
        (1.5, WHOLE),
        ("60", WHOLE),
        (True, WHOLE),
        (None, WHOLE),
    ],
)
def test_no_hold_lives_for_ever_or_for_no_time(seconds: object, words: str) -> None:
    assert_refused(body("usage.reserve", ttlSeconds=seconds), "invalid_field", "ttlSeconds", words)


def test_hold_may_be_captured_for_zero_and_refuses_an_excess_by_default() -> None:
    settled = taken(body("usage.settle", tokens=0))
    assert (settled.tokens, settled.on_excess, settled.original_reference_id) == (0, "refuse", "o-1")
    assert taken(body("usage.settle", onExcess="take")).on_excess == "take"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"tokens": -1}, "tokens", "must be 0 or more"),
        ({"tokens": 1.0}, "tokens", WHOLE),
        ({"tokens": LIMITS.max_quantity + 1}, "tokens", f"at most {LIMITS.max_quantity} is taken"),
        ({"onExcess": "ask"}, "onExcess", "'refuse' or 'take'"),
        ({"onExcess": None}, "onExcess", "'refuse' or 'take'"),
        ({"feature": "x" * 65}, "feature", "at most 64 characters"),
        ({"originalReferenceId": ""}, "originalReferenceId", "must not be empty"),
        ({"originalReferenceId": None}, "originalReferenceId", "must be a string"),
        ({"originalReferenceId": "x" * 201}, "originalReferenceId", "at most 200 characters"),
    ],
)
def test_a_bad_settlement_is_refused(changes: dict[str, object], field: str, words: str) -> None:
    assert_refused(body("usage.settle", **changes), "invalid_field", field, words)


@pytest.mark.parametrize(
    "name",
    [
        "usage.settle",
        "usage.release",
        "payment.refunded",
        "payment.disputed",
        "payment.dispute_closed",
        "payment.failed",
        "credit.refund",
    ],
)
def test_command_cannot_name_itself_as_its_original(name: str) -> None:
    itself = body(name, originalReferenceId="r-1")
    assert_refused(itself, "invalid_field", None, "originalReferenceId names this command itself")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"quantity": -1}, "quantity", "must be 0 or more"),
        ({"quantity": 0.5}, "quantity", WHOLE),
        ({"quantity": LIMITS.max_quantity + 1}, "quantity", f"at most {LIMITS.max_quantity} is taken"),
        ({"meter": ""}, "meter", "must not be empty"),
        ({"meter": "x" * 65}, "meter", "at most 64 characters"),
        ({"meter": "a\u200bb"}, "meter", "invisible characters"),
        ({"meter": 7}, "meter", "must be a string"),
    ],
)
def test_bad_metering_is_refused(changes: dict[str, object], field: str, words: str) -> None:
    assert_refused(body("usage.record", **changes), "invalid_field", field, words)


@pytest.mark.parametrize(
    ("name", "field"),
    [("usage.deduct", "tokens"), ("usage.record", "quantity"), ("usage.free_upload", "bytes")],
)
def test_usage_of_zero_is_a_usage(name: str, field: str) -> None:
    assert getattr(taken(body(name, **{field: 0})), field) == 0
    item = {"type": name, "referenceId": "i-1", **({"meter": "ocr"} if field == "quantity" else {}), field: 0}
    (one,) = taken(body("usage.batch", items=[item])).items
    assert getattr(one, field) == 0


def test_reservation_of_zero_tokens_is_refused() -> None:
    assert_refused(body("usage.reserve", tokens=0), "invalid_field", "tokens", "must be 1 or more")


def test_a_meter_measures_in_units_and_not_in_tokens() -> None:
    assert_refused(body("usage.record", quantity=GONE, tokens=5), "unknown_field", "tokens", "known are ")
