"""Content of a command, compared when a reference comes again: stored and compared as text, for ever."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import (
    COMMAND_TYPES,
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from schemas.fields import INT64_MAX
from tests.support.message_bodies import MINIMAL, body, taken
from tests.support.strategies import commands, examples, identifiers, labels
from worker.core.contents import content_of

#: Fields that moved the ledger in version 1, by the names on the wire.
VERSION_1: dict[type[Command], tuple[str, ...]] = {
    OpenAccount: ("tier",),
    DeductUsage: ("tokens", "feature"),
    FreeUpload: ("bytes",),
    PaymentSucceeded: ("packageId", "packageIndex", "amountMinor", "currency"),
    RefundCredit: ("tokens",),
    BonusCredit: ("tokens",),
}


def as_version_1_stored(command: Command) -> str:
    """The text that version 1 wrote into the ledger."""
    sent = json.loads(command.to_json())
    content = {name: sent[name] for name in VERSION_1[type(command)] if name in sent}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@st.composite
def commands_of_version_1(draw: st.DrawFn) -> Command:
    """Everything that version 1 took, from plain to strange."""
    who = {"reference_id": "r", "user_id": "u", "attempt": draw(st.integers(1, 9))}
    name = st.sampled_from(['say "hi"', r"back\slash", r"\"", "/", "é", "e\u0301"])
    names, tokens = name | identifiers(), st.integers(1, INT64_MAX)
    currency = st.text("ABCXYZ", min_size=3, max_size=3)
    match draw(st.sampled_from(list(VERSION_1))):
        case model if model is OpenAccount:
            return OpenAccount(**who, tier=draw(names))
        case model if model is DeductUsage:
            feature = draw(st.none() | name | labels())
            return DeductUsage(**who, tokens=draw(tokens), feature=feature, description="x")
        case model if model is FreeUpload:
            return FreeUpload(**who, bytes=draw(tokens))
        case model if model is RefundCredit:
            return RefundCredit(**who, tokens=draw(tokens))
        case model if model is BonusCredit:
            return BonusCredit(**who, tokens=draw(tokens))
    package = draw(st.fixed_dictionaries({"package_id": names}) | st.just({"package_index": 3}))
    return PaymentSucceeded(
        **who, **package, amount_minor=draw(tokens), currency=draw(currency), provider=draw(name)
    )


@examples(400)
@given(commands_of_version_1())
def test_the_content_of_the_first_types_is_to_the_byte_what_version_1_stored(command: Command) -> None:
    assert content_of(command) == as_version_1_stored(command)


@examples(200)
@given(commands())
def test_the_content_of_any_command_is_the_canonical_text_of_its_fields(command: Command) -> None:
    content = json.loads(content_of(command))
    assert content == command.content()
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert content_of(command) == canonical


@examples(100)
@given(commands())
def test_command_keeps_its_content_over_the_wire(command: Command) -> None:
    assert content_of(taken(command.to_json())) == content_of(command)


CONTENT: dict[str, dict[str, Any]] = {
    "account.open": {"tier": "free"},
    "account.settle": {},
    "account.freeze": {"reason": "fraud warning", "userId": "u-1"},
    "account.unfreeze": {"reason": "checked by ann", "userId": "u-1"},
    "account.import": {
        "anchor": "2026-11-03T00:00:00+00:00",
        "asOf": "2026-11-22T10:00:00+00:00",
        "debt": 0,
        "lots": [],
        "openedAt": "2024-01-05T08:00:00+00:00",
        "payments": [],
        "quotas": [],
        "tier": "free",
    },
    "credit.adjust": {"allowNegative": False, "tokens": -5},
    "credit.bonus": {"tokens": 5},
    "credit.refund": {"tokens": 5},
    "payment.dispute_closed": {
        "amountMinor": 499,
        "currency": "USD",
        "disputeId": "d-1",
        "originalReferenceId": "o-1",
        "result": "lost",
    },
    "payment.disputed": {
        "amountMinor": 499,
        "currency": "USD",
        "disputeId": "d-1",
        "originalReferenceId": "o-1",
    },
    "payment.failed": {"originalReferenceId": "o-1"},
    "payment.named": {"alsoKnownAs": ["pi-1"], "originalReferenceId": "o-1"},
    "payment.refund_failed": {"originalReferenceId": "o-1", "refundReferenceId": "re-1"},
    "payment.refunded": {"amountMinor": 499, "currency": "USD", "originalReferenceId": "o-1"},
    "payment.succeeded": {"amountMinor": 499, "currency": "USD", "packageIndex": 0},
    "subscription.cancel": {"at": "period_end"},
    "subscription.change": {"tier": "pro"},
    "subscription.renew": {},
    "usage.deduct": {"tokens": 5},
    "usage.extend": {"originalReferenceId": "o-1", "ttlSeconds": 60},
    "usage.free_upload": {"bytes": 5},
    "usage.record": {"meter": "ocr", "quantity": 5},
    "usage.release": {"originalReferenceId": "o-1"},
    "usage.reserve": {"tokens": 5, "ttlSeconds": 60},
    "usage.settle": {"onExcess": "refuse", "originalReferenceId": "o-1", "tokens": 5},
}


@pytest.mark.parametrize("name", sorted(COMMAND_TYPES))
def test_content_is_what_moves_the_ledger_under_its_names_on_the_wire(name: str) -> None:
    command = taken(body(name))
    assert command.content() == CONTENT[name]
    assert list(command.content()) == sorted(CONTENT[name])


@pytest.mark.parametrize("name", sorted(COMMAND_TYPES))
def test_time_metadata_description_and_attempt_do_not_count(name: str) -> None:
    said = {"occurredAt": "2026-11-22T09:00:00Z", "metadata": {"a": 1}, "description": "x", "attempt": 7}
    assert content_of(taken(body(name, **said))) == content_of(taken(body(name)))


def test_settlement_has_the_content_that_was_stored_before_on_expired() -> None:
    content = '{"onExcess":"refuse","originalReferenceId":"o-1","tokens":5}'
    assert content_of(taken(body("usage.settle"))) == content
    assert content_of(taken(body("usage.settle", onExpired="take"))) == content
    refusing = json.loads(content_of(taken(body("usage.settle", onExpired="refuse"))))
    assert refusing == {**json.loads(content), "onExpired": "refuse"}


def test_the_words_of_an_operator_and_a_gateways_name_do_not_count() -> None:
    for name, changes in (
        ("credit.adjust", {"reason": "another", "actor": "bob"}),
        ("payment.succeeded", {"provider": "stripe"}),
    ):
        assert content_of(taken(body(name, **changes))) == content_of(taken(body(name)))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("credit.bonus", "effectiveAt"),
        ("credit.bonus", "expiresAt"),
        ("credit.adjust", "expiresAt"),
        ("subscription.renew", "periodStart"),
    ],
)
def test_one_moment_is_one_content_whatever_its_offset(name: str, field: str) -> None:
    base = {**MINIMAL[name], "tokens": 5} if name.startswith("credit") else MINIMAL[name]
    same = [
        "2026-12-22T10:15:00Z",
        "2026-12-22t10:15:00z",
        "2026-12-22 10:15:00.000000Z",
        "2026-12-22T12:15:00+02:00",
        "2026-12-21T22:15:00-12:00",
        "2026-12-22T15:45:00.0000009+05:30",
    ]
    contents = {content_of(taken(body(base, **{field: text}))) for text in same}
    assert len(contents) == 1
    (content,) = map(json.loads, contents)
    assert content[field] == "2026-12-22T10:15:00+00:00"
    assert datetime.fromisoformat(content[field]).utcoffset() is not None
    later = content_of(taken(body(base, **{field: "2026-12-22T10:15:00.000001Z"})))
    assert json.loads(later) != content
