"""Imports of accounts: the sums of one message must be true, and each refusal names the field and the way."""

from typing import Any

import pytest

from tests.support.message_bodies import MINIMAL, assert_refused, body, taken

PAYMENT = {
    "referenceId": "pi-1",
    "amountMinor": 999,
    "currency": "EUR",
    "packageId": "gone",
    "tokens": 1_000,
    "bonusTokens": 100,
    "paidAt": "2026-11-10T00:00:00Z",
}
LOT = {"source": "bonus", "tokens": 40}
OF_PAYMENT = {"source": "purchase", "tokens": 300, "paymentReferenceId": "pi-1"}


def importing(**fields: Any) -> bytes:
    return body("account.import", **fields)


def test_balance_is_what_is_left_in_the_lots() -> None:
    command = taken(importing(lots=[LOT, OF_PAYMENT], payments=[PAYMENT]))
    assert command.balance == 340


def test_totals_that_are_not_given_are_those_of_lots_and_payments() -> None:
    command = taken(
        importing(
            lots=[{**LOT, "granted": 60}, OF_PAYMENT, {"source": "carried_over", "tokens": 5}],
            payments=[PAYMENT],
        )
    )
    totals = command.lifetime()
    assert (totals.purchased, totals.bonus, totals.adjusted, totals.used) == (1_000, 160, 5, 20 + 700 + 100)
    assert totals.balance == command.balance == 345


def test_debt_without_totals_is_usage() -> None:
    command = taken(importing(debt=70))
    assert (command.balance, command.lifetime().used) == (-70, 70)


def test_order_of_the_fields_of_a_part_does_not_count() -> None:
    there = taken(
        importing(lots=[LOT], payments=[PAYMENT], totals={"bonus": 140, "purchased": 1_000, "used": 1_100})
    )
    back = taken(
        importing(
            lots=[dict(reversed(LOT.items()))],
            payments=[dict(reversed(PAYMENT.items()))],
            totals={"used": 1_100, "purchased": 1_000, "bonus": 140},
        )
    )
    assert there.content() == back.content()


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (
            {"lots": [LOT], "totals": {"bonus": 41}},
            None,
            "balance of 41, but lots and debt to 40: the difference is 1",
        ),
        ({"debt": 3, "totals": {"used": 2}}, None, "the difference is 1"),
        ({"lots": [LOT], "totals": {"purchased": 40}}, None, "totals.bonus counts, which is only 0"),
        (
            {"lots": [{**LOT, "source": "carried_over", "granted": 50}], "totals": {"bonus": 45, "used": 5}},
            None,
            "carried_over were granted 50 tokens, but no more than 45 came in",
        ),
        ({"lots": [LOT], "debt": 1}, None, "a debt is repaid with them first"),
        ({"lots": [{**LOT, "granted": 39}]}, "lots.0", "granted 39 tokens, of which 40 can't be left"),
        ({"lots": [{**LOT, "tokens": 0}]}, "lots.0", "nothing is left"),
        ({"lots": [{**LOT, "tokens": -1}]}, "lots.0.tokens", "must be 0 or more"),
        ({"lots": [{**LOT, "tokens": 1.5}]}, "lots.0.tokens", "must be a whole number"),
        ({"lots": [{**LOT, "tokens": True}]}, "lots.0.tokens", "must be a whole number"),
        ({"lots": [{**LOT, "source": "gift"}]}, "lots.0.source", "'carried_over'"),
        ({"lots": [{**LOT, "note": "x"}]}, "lots.0.note", "is not known"),
        ({"lots": [{"source": "bonus"}]}, "lots.0.tokens", "is missing"),
        ({"lots": [LOT] * 201}, "lots", "at most 200"),
        ({"lots": LOT}, "lots", "must be an array"),
        ({"lots": [7]}, "lots.0", "must be an object"),
        ({"lots": [{**LOT, "expiresAt": "2024-01-05T08:00:00Z"}]}, None, "lots.0: expiresAt must be after"),
        ({"lots": [{**LOT, "source": "purchase_bonus"}]}, "lots.0", "belongs to a payment"),
        ({"lots": [{**LOT, "paymentReferenceId": "pi-1"}]}, "lots.0", "its purchase or its purchase_bonus"),
        ({"lots": [OF_PAYMENT]}, None, "lots.0: payments does not list its payment 'pi-1'"),
        ({"lots": [{**OF_PAYMENT, "granted": 900}], "payments": [PAYMENT]}, "lots.0", "leave granted out"),
        ({"lots": [OF_PAYMENT] * 2, "payments": [PAYMENT]}, None, "lots.1: the payment 'pi-1' has another"),
        (
            {"lots": [{**OF_PAYMENT, "tokens": 1_001}], "payments": [PAYMENT]},
            None,
            "1001 tokens can't be left of the 1000",
        ),
        ({"payments": [PAYMENT] * 2}, None, "payments: 'pi-1' is given twice"),
        ({"payments": [{**PAYMENT, "referenceId": "r-1"}]}, None, "needs one of its own"),
        ({"payments": [{**PAYMENT, "paidAt": "2026-11-22T10:00:01Z"}]}, None, "send it as payment.succeeded"),
        ({"payments": [PAYMENT], "totals": {"used": 0}}, None, "the difference is"),
        ({"quotas": [{"meter": "ocr", "used": 1}] * 2}, None, "quotas: 'ocr' is given twice"),
        ({"anchor": "2026-11-22T10:00:01Z"}, None, "anchor 2026-11-22T10:00:01+00:00 is after asOf"),
        ({"openedAt": "1969-12-31T23:59:59Z"}, "openedAt", "lies before 1970"),
        ({"asOf": "2026-12-22T10:00:00Z"}, "asOf", "lies in the future"),
        ({"totals": {"used": 10**16}}, "totals.used", "less than or equal to"),
        ({"debt": 10**15, "totals": {"adjusted": -(10**15), "spent": 1}}, "totals.spent", "is not known"),
        (
            {"lots": [{**LOT, "source": "adjustment", "tokens": 10**15}] * 11},
            None,
            "more than 10000000000000000 tokens came in",
        ),
    ],
)
def test_import_that_is_not_true_is_refused(fields: dict[str, Any], field: str | None, words: str) -> None:
    reason = "missing_field" if "missing" in words else "invalid_field"
    assert_refused(importing(**fields), reason, field, words)


def test_part_with_a_thousand_unknown_fields_is_refused_at_once() -> None:
    lot = {**LOT, **{f"x{number}": 1 for number in range(1_000)}}
    assert_refused(importing(lots=[lot]), "invalid_field", "lots.0", "has 1002 fields; known are")


def test_part_that_gives_a_field_twice_is_refused() -> None:
    twice = importing(lots=[LOT]).replace(b'"source": "bonus"', b'"source": "bonus", "source": "bonus"')
    assert_refused(twice, "invalid_field", "lots.0", "gives each field once")


def test_name_of_another_script_is_escaped_in_a_refusal() -> None:
    lot = {**OF_PAYMENT, "paymentReferenceId": "zahlung-ä"}
    assert_refused(importing(lots=[lot]), "invalid_field", None, "does not list its payment")


def test_minimal_import_is_an_empty_account() -> None:
    assert taken(body("account.import")).balance == 0
    assert set(MINIMAL["account.import"]) == {
        "type",
        "referenceId",
        "userId",
        "tier",
        "anchor",
        "openedAt",
        "asOf",
    }
