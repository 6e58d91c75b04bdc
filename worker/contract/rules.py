"""Rules between the fields of one message, as JSON Schema says them, or as sentences where it can't.

Every validator of a model that JSON Schema doesn't see is named here; a test finds one that isn't.
"""

from typing import Final

from worker.contract.patterns import Schema


def given(*names: str) -> Schema:
    """Return the schema of an object that gives all these fields a value; null is as good as absent."""
    return {"required": list(names), "properties": {name: {"not": {"type": "null"}} for name in names}}


def _not_given(name: str) -> Schema:
    return {"properties": {name: {"type": "null"}}}


def _either(*choices: Schema) -> Schema:
    return {"oneOf": list(choices)}


_WITH_USER: Final[Schema] = {"type": "object", "required": ["userId"], "properties": {"userId": {}}}

#: What the validators of each name ask for, as JSON Schema.
EXPRESSED: Final[dict[str, Schema]] = {
    "PaymentSucceeded._one_package": _either(given("packageId"), given("packageIndex")),
    "AdjustCredit._what_is_taken_has_no_expiry": {
        "anyOf": [_not_given("expiresAt"), {"properties": {"tokens": {"type": "integer", "minimum": 1}}}]
    },
    "QueryAfford._one_usage": _either(
        {**given("tokens"), "allOf": [_not_given("meter"), _not_given("quantity")]},
        {**given("meter", "quantity"), "allOf": [_not_given("tokens")]},
    ),
    "QueryHistory._one_place": {
        "anyOf": [
            _not_given("offset"),
            {
                "properties": {
                    **{
                        name: {"type": "null"}
                        for name in ("cursor", "transactionType", "feature", "from", "to")
                    },
                    "status": {"const": "applied"},
                }
            },
        ]
    },
    "QueryUsage._one_range": {
        "anyOf": [
            {"allOf": [_not_given("from"), _not_given("to")]},
            {**given("from", "to"), "allOf": [_not_given("days")]},
        ]
    },
    "UsageBatch._items_of_the_user": {
        "anyOf": [given("userId"), {"properties": {"items": {"type": "array", "items": _WITH_USER}}}]
    },
}

#: What they ask for beyond that: sentences, which the description ends with.
DESCRIBED: Final[dict[str, str]] = {
    "CommandAbout._not_itself": "originalReferenceId must differ from referenceId.",
    "RefundCredit._not_itself": "originalReferenceId must differ from referenceId.",
    "BonusCredit._effective_before_it_expires": "expiresAt must be after effectiveAt.",
    "QueryHistory._one_place": "from must be before to.",
    "QueryUsage._one_range": "from and to are at most 366 days, both included.",
}
