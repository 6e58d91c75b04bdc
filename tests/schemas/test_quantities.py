"""Quantities of all commands: each field that may hold a large number has the configured maximum."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from schemas import Limits, Malformed, decode
from schemas.base import BaseMessage, BasePart
from schemas.commands import COMMAND_TYPES
from schemas.fields import INT64_MAX
from schemas.subscriptions import SubscriptionCommand
from tests.support.message_bodies import MINIMAL
from tests.support.strategies import NOW

LIMITS = Limits(max_quantity=1_000)
#: Fields that stand for another one: the message has one of the two.
INSTEAD = {"refundedTotalMinor": "amountMinor"}
PAYMENT = {"referenceId": "p-1", "amountMinor": 5, "currency": "USD"}


def quantities(model: type[BaseMessage]) -> Iterator[str]:
    """Return the names on the wire of a model's own fields that take any 64-bit number."""
    for name, field in model.model_json_schema()["properties"].items():
        forms = field.get("anyOf", [field])
        if any(form.get("maximum") == INT64_MAX for form in forms):
            yield name


def bodies() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return type, field and a body for each quantity of each command."""
    for type_, model in COMMAND_TYPES.items():
        least = MINIMAL.get(type_, {})
        for name in quantities(model):
            body = {key: value for key, value in least.items() if key != INSTEAD.get(name)}
            yield type_, name, {**body, "occurredAt": NOW.isoformat()}
        if issubclass(model, SubscriptionCommand):
            yield type_, "payment.amountMinor", {**least, "payment": PAYMENT}


def with_quantity(body: dict[str, Any], place: str, value: int) -> bytes:
    """Return the body with a value at a place."""
    holder, _, name = place.rpartition(".")
    changed = {**body, holder: {**body[holder], name: value}} if holder else {**body, name: value}
    return json.dumps(changed).encode()


@pytest.mark.parametrize(("type_", "place", "body"), list(bodies()))
def test_quantity_up_to_the_maximum_is_taken_and_one_more_is_refused(
    type_: str, place: str, body: dict[str, Any]
) -> None:
    taken = decode(with_quantity(body, place, 1_000), now=NOW, limits=LIMITS)
    assert not isinstance(taken, Malformed), taken
    refused = decode(with_quantity(body, place, 1_001), now=NOW, limits=LIMITS)
    assert isinstance(refused, Malformed), type_
    assert (refused.field, refused.message) == (place, f"{place}: at most 1000 is taken.")


def test_money_and_tokens_of_all_commands_are_among_the_quantities() -> None:
    places = {f"{type_} {place}" for type_, place, _ in bodies()}
    assert places >= {
        "payment.succeeded amountMinor",
        "payment.succeeded listMinor",
        "payment.succeeded taxMinor",
        "payment.succeeded discountMinor",
        "payment.succeeded otherMinor",
        "payment.refunded refundedTotalMinor",
        "subscription.change payment.amountMinor",
        "subscription.renew payment.amountMinor",
        "credit.refund freeQuantity",
        "usage.record quantity",
    }


def test_parts_of_commands_have_quantities_of_their_own() -> None:
    for part in BasePart.__subclasses__():
        assert set(quantities(part)) == {"amountMinor"}, part
