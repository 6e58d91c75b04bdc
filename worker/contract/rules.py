"""Rules of the models' own validators, as JSON Schema, or as sentences where it can't say them.

Every validator of a message that is a function is named here; a test finds one that isn't.
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
    "FreezingCommand._names_an_account": _either(given("userId"), given("paymentReferenceId")),
    "PaymentRefunded._one_amount": _either(
        {**given("amountMinor"), "allOf": [_not_given("refundedTotalMinor")]},
        {**given("refundedTotalMinor", "occurredAt"), "allOf": [_not_given("amountMinor")]},
    ),
    "SubscriptionCommand._whole_period": {"anyOf": [_not_given("periodEnd"), given("periodStart")]},
    "ChangeSubscription._later_has_no_period": {
        "allOf": [
            {
                "anyOf": [
                    {"properties": {"effectiveAt": {"enum": ["now", None]}}},
                    {"allOf": [_not_given("periodStart"), _not_given("payment")]},
                ]
            },
            {"anyOf": [_not_given("periodStart"), given("periodEnd")]},
        ]
    },
    "AdjustCredit._what_is_taken_has_no_expiry": {
        "anyOf": [_not_given("expiresAt"), {"properties": {"tokens": {"type": "integer", "minimum": 1}}}]
    },
    "_Part._within_fields": {},
    "QueryAfford._one_usage": _either(
        {**given("tokens"), "allOf": [_not_given("meter"), _not_given("quantity")]},
        {**given("meter", "quantity"), "allOf": [_not_given("tokens")]},
    ),
    "QueryBalance._one_time": {"anyOf": [_not_given("at"), _not_given("minSequence")]},
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

#: What they ask for beyond that: sentences, which the description of the message ends with.
DESCRIBED: Final[dict[str, str]] = {
    "CommandAbout._not_itself": "`originalReferenceId` must differ from `referenceId`.",
    "UsageBatch._replies_of_the_batch": "Items have no `replies`: the batch says which it wants.",
    "RefundCredit._not_itself": "`originalReferenceId` must differ from `referenceId`.",
    "RefundFailed._another_refund": "`refundReferenceId` must differ from `referenceId`.",
    "SubscriptionCommand._whole_period": "`periodEnd` must be after `periodStart`.",
    "BonusCredit._effective_before_it_expires": "`expiresAt` must be after `effectiveAt`.",
    "ImportedLot._no_more_than_granted": (
        "`tokens` are at most `granted`. A lot that names its payment is a purchase or a purchase_bonus, and"
        " leaves `granted` out."
    ),
    "ImportAccount._true_in_itself": (
        "`totals` come to the tokens of all lots less `debt`, and hold what lots and payments were granted."
        " No time is after `asOf`. A lot names a payment of the list; nothing is named twice."
    ),
    "QueryHistory._one_place": "`from` must be before `to`.",
    "QueryUsage._one_range": "`from` and `to` are at most 366 days, both included.",
}

#: Functions that validate a value: the sentence for its field, or None where its schema says all.
OF_VALUES: Final[dict[str, str | None]] = {
    "parse_rfc3339": None,
    "parse_day": None,
    "_in_utc": None,
    "_or_unnamed": None,
    "_since_1970": "Not before 1970.",
    "_in_years": "In the years 1970 to 2199.",
    "_not_negative": None,
    "_not_zero": None,
    "_within_keys": None,
}
