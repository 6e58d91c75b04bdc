"""Receiving: a delivery becomes a message or a failure, by its bytes, its routing key and its sender."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import DeadLetterReason, DeductUsage, Message, UsageBatch
from tests.support.fakes import delivery
from tests.support.own_user import OWN_POLICY, OWN_USER
from worker.broker import Delivery
from worker.messages import receiving
from worker.messages.dead_letters import Failure
from worker.messages.policy import Policy
from worker.messages.receiving import deadline_of, message_in, poison_failure

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
RECORD = {"type": "usage.record", "referenceId": "m", "meter": "ocr", "quantity": 1}
PREFIXED: Mapping[str, Sequence[str] | Mapping[str, str]] = {"usage.*": {"ocr": "ocr-", "app": ""}}


def deduct(reference: str = "d", **fields: Any) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "u", "tokens": 10, **fields}


def batch(*items: dict[str, Any], reference: str = "batch") -> dict[str, Any]:
    return {"type": "usage.batch", "referenceId": reference, "userId": "u", "items": list(items)}


def command_in(one: Delivery) -> Message:
    message = message_in(one, OWN_POLICY, NOW)
    assert not isinstance(message, Failure)
    return message


def failure_in(one: Delivery, policy: Policy | None = None) -> Failure:
    failure = message_in(one, policy or Policy(), NOW)
    assert isinstance(failure, Failure)
    return failure


def refused_field(message: dict[str, Any], sender: str | None, policy: Policy) -> str | None:
    """Return the field for which the sender is refused; ``type`` for the whole message, None for nothing."""
    found = message_in(delivery(message, user_id=sender), policy, NOW)
    if not isinstance(found, Failure):
        return None
    assert found.code is DeadLetterReason.WRONG_SENDER
    return found.field or "type"


def test_delivery_becomes_its_command() -> None:
    assert isinstance(message_in(delivery(deduct()), Policy(), NOW), DeductUsage)


def test_batch_with_a_malformed_item_is_a_message() -> None:
    message = message_in(delivery(batch(deduct(), {})), Policy(), NOW)
    assert isinstance(message, UsageBatch)
    assert list(message.malformed) == [1]


def test_malformed_body_is_a_failure_with_its_identities() -> None:
    failure = failure_in(delivery(deduct(tokens=-1)))
    assert (failure.code, failure.field) == (DeadLetterReason.INVALID_FIELD, "tokens")
    assert (failure.type, failure.reference_id, failure.user_id) == ("usage.deduct", "d", "u")


def test_unreadable_properties_are_a_failure_whatever_the_body_is() -> None:
    assert failure_in(delivery(deduct(), unreadable=b"\0")).code is DeadLetterReason.UNREADABLE_PROPERTIES


@pytest.mark.parametrize("message", [deduct(), batch(deduct())], ids=["command", "batch"])
def test_routing_key_must_be_the_type(message: dict[str, Any]) -> None:
    failure = failure_in(delivery(message, routing_key="payment.succeeded"))
    assert (failure.code, failure.field) == (DeadLetterReason.WRONG_ROUTING_KEY, "type")
    assert failure.reference_id == message["referenceId"]


@pytest.mark.parametrize(
    ("key", "fits"),
    [
        ("usage.deduct.07", True),
        ("usage.deduct.63", True),
        ("usage.deduct.7", False),
        ("usage.deduct.007", False),
        ("usage.deduct.x7", False),
        ("usage.deduct.", False),
        ("usage.deduct07", False),
        ("usage.deduct.07.07", False),
        ("usage.deduct.\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT SEVEN}", False),
        ("usage.record.07", False),
        ("", False),
    ],
)
def test_routing_key_may_have_a_partition_behind_the_type(key: str, *, fits: bool) -> None:
    found = message_in(delivery(deduct(), routing_key=key), Policy(), NOW)
    assert isinstance(found, DeductUsage) is fits


DEATHS = {"x-death": [{"queue": "mine", "exchange": "", "reason": "expired"}]}
WAYS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"exchange": "", "routing_key": "billing.usage"}, {}, "by the default exchange"),
    ({"exchange": "", "routing_key": "usage.deduct"}, {}, "by the default exchange"),
    ({"exchange": "mine", "routing_key": "usage.deduct"}, {}, "by the exchange 'mine'"),
    ({"exchange": "billing.events", "routing_key": "usage.deduct"}, {}, "by the exchange 'billing.events'"),
    ({}, DEATHS, "out of another queue, by its dead-letter exchange"),
    ({}, {"x-death": None}, "out of another queue, by its dead-letter exchange"),
]


@pytest.mark.parametrize(("route", "headers", "way"), WAYS)
def test_message_that_walked_past_the_exchanges_of_commands_is_refused(
    route: dict[str, Any], headers: dict[str, Any], way: str
) -> None:
    """Also from a worker user, unless it has published the message again."""
    for user in ("app", None, OWN_USER):
        came = replace(delivery(deduct(), user_id=user, **route), headers=headers)
        failure = failure_in(came, OWN_POLICY)
        assert (failure.code, failure.field) == (DeadLetterReason.WRONG_EXCHANGE, None)
        assert failure.message == f"A usage.deduct came {way}; publish it to the exchange 'billing'."


@pytest.mark.parametrize(("route", "headers", "way"), WAYS)
def test_message_that_we_publish_again_may_go_to_its_queue(
    route: dict[str, Any], headers: dict[str, Any], way: str
) -> None:
    del way
    came = delivery(deduct(), user_id=OWN_USER, **route)
    found = message_in(replace(came, headers=headers | {"x-billing-sender": "app"}), OWN_POLICY, NOW)
    assert isinstance(found, Failure) == ("x-death" in headers)


BULK: dict[str, Any] = {"queue": "billing.bulk", "exchange": "billing.bulk"}
OPEN = {"type": "account.open", "referenceId": "o", "userId": "u", "tier": "free"}


@pytest.mark.parametrize("message", [deduct(), RECORD | {"userId": "u"}, batch(deduct())])
def test_bulk_lane_takes_usage(message: dict[str, Any]) -> None:
    assert not isinstance(message_in(delivery(message, **BULK), Policy(), NOW), Failure)


@pytest.mark.parametrize(
    "route",
    [BULK, {"queue": "billing.bulk", "exchange": "", "routing_key": "billing.bulk"}],
    ids=["exchange", "queue itself"],
)
@pytest.mark.parametrize("key", [None, "usage.deduct"])
def test_bulk_lane_takes_nothing_but_usage(route: dict[str, Any], key: str | None) -> None:
    failure = failure_in(delivery(OPEN, **({"routing_key": key} if key else {}) | route))
    assert (failure.code, failure.field, failure.reference_id) == (DeadLetterReason.WRONG_LANE, "type", "o")
    assert "publish it to the exchange 'billing'" in failure.message


def test_routing_key_must_be_the_type_in_the_bulk_lane() -> None:
    failure = failure_in(delivery(deduct(), routing_key="usage.record", **BULK))
    assert failure.code is DeadLetterReason.WRONG_ROUTING_KEY


LATE = "2026-11-22T10:00:00Z"


def test_replayed_dead_letter_has_no_deadline() -> None:
    replayed = delivery(batch(deduct(validUntil=LATE), deduct("e"), {}), user_id=OWN_USER)
    replayed = replace(replayed, headers={"x-billing-replay": 1, "x-billing-replay-letter": 7})
    message = message_in(replayed, OWN_POLICY, NOW)
    assert isinstance(message, UsageBatch)
    assert [item.valid_until for item in message.items] == [None, None]
    assert list(message.malformed) == [2]
    alone = replace(replayed, routing_key="usage.deduct", body=json.dumps(deduct(validUntil=LATE)).encode())
    assert deadline_of(command_in(alone)) is None
    forged = replace(alone, properties={"user_id": "app"})
    assert deadline_of(command_in(forged)) is not None, "headers of ours count from worker users alone"


def test_recovered_message_keeps_only_the_deadlines_that_were_over_before() -> None:
    since = int(NOW.timestamp()) - 60
    ahead = "2026-11-22T10:14:30Z"
    items = (deduct(validUntil=LATE), deduct("e", validUntil=ahead), deduct("f"))
    recovered = delivery(batch(*items), user_id="ops")
    recovered = replace(recovered, headers={"x-billing-recovery": 7, "x-billing-recovery-since": since})
    message = message_in(recovered, Policy(worker_users=frozenset({"ops"})), NOW)
    assert isinstance(message, UsageBatch)
    assert [item.valid_until for item in message.items] == [datetime.fromisoformat(LATE), None, None]
    forged = message_in(recovered, Policy(), NOW)
    assert isinstance(forged, UsageBatch)
    assert forged.items[1].valid_until is not None


def test_message_that_is_no_replay_keeps_its_deadline() -> None:
    assert deadline_of(command_in(delivery(deduct(validUntil=LATE)))) == datetime(
        2026, 11, 22, 10, 0, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("message", "first"),
    [
        (deduct(), None),
        (OPEN, None),
        (deduct(validUntil=LATE), LATE),
        (batch(deduct(), deduct("e", validUntil="2026-11-23T00:00:00Z"), deduct("f", validUntil=LATE)), LATE),
    ],
)
def test_deadline_of_a_message_is_the_first_of_its_commands(
    message: dict[str, Any], first: str | None
) -> None:
    assert deadline_of(command_in(delivery(message))) == (
        None if first is None else datetime.fromisoformat(first)
    )


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (deduct(replies="none"), "none"),
        (deduct(tokens=-1, replies="problems"), "problems"),
        (deduct(tokens=-1, replies="some"), None),
        (deduct(tokens=-1, replies=["none"]), None),
        (batch(reference="") | {"replies": "none"}, "none"),
    ],
)
def test_failure_knows_the_wanted_replies_as_far_as_they_can_be_read(
    message: dict[str, Any], wanted: str | None
) -> None:
    assert failure_in(delivery(message, routing_key="usage.record")).replies == wanted


@pytest.mark.parametrize(
    ("message", "sender", "refused"),
    [
        (deduct("ocr-1"), "ocr", None),
        (deduct("ocr-"), "ocr", None),
        (deduct("ocr"), "ocr", "referenceId"),
        (deduct("job-1"), "ocr", "referenceId"),
        (deduct("OCR-1"), "ocr", "referenceId"),
        (deduct("job-1"), "app", None),
        (deduct("ocr-1"), "other", "type"),
        (deduct("ocr-1"), None, "type"),
        (batch(deduct("ocr-1"), deduct("ocr-2"), reference="ocr-b"), "ocr", None),
        (batch(deduct("ocr-1"), deduct("job-2"), reference="ocr-b"), "ocr", "items.1.referenceId"),
        (batch(deduct("ocr-1"), reference="job-b"), "ocr", "referenceId"),
        (batch(deduct("job-1"), reference="job-b"), "app", None),
    ],
)
def test_sender_uses_only_references_with_its_prefix(
    message: dict[str, Any], sender: str | None, refused: str | None
) -> None:
    assert refused_field(message, sender, Policy(senders=PREFIXED)) == refused


@pytest.mark.parametrize(
    ("senders", "refused"),
    [
        ({"usage.batch": ["uploader"]}, "type"),
        ({"usage.record": ["meter"]}, "items.1.type"),
        ({"usage.*": ["app"], "usage.record": ["meter"]}, "items.1.type"),
        ({"usage.*": ["app"]}, None),
        ({"credit.*": ["gateway"]}, None),
    ],
)
def test_sender_rules_apply_to_the_items_of_a_batch(
    senders: dict[str, list[str]], refused: str | None
) -> None:
    assert refused_field(batch(deduct(), RECORD, RECORD), "app", Policy(senders=senders)) == refused


def test_place_of_an_item_counts_malformed_ones() -> None:
    policy = Policy(senders={"usage.record": ["meter"]})
    assert refused_field(batch({}, deduct(), RECORD), "app", policy) == "items.2.type"


def test_longest_pattern_decides_the_senders_of_a_type() -> None:
    policy = Policy(senders={"*": ["app"], "usage.*": ["meter"]})
    assert refused_field(deduct(), "app", policy) == "type"
    assert refused_field(deduct(), "meter", policy) is None


def test_poison_message_keeps_its_identities() -> None:
    failure = poison_failure(delivery(deduct()), Policy(), NOW, 3, decoded=True)
    assert (failure.code, failure.reference_id) == (DeadLetterReason.DELIVERY_LIMIT, "d")
    assert failure.message.startswith("3 workers crashed")


def test_message_deadly_to_decode_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "decode", None)
    failure = poison_failure(delivery(deduct()), Policy(), NOW, 3, decoded=False)
    assert (failure.code, failure.reference_id) == (DeadLetterReason.DELIVERY_LIMIT, None)


@pytest.mark.parametrize(
    ("sender", "field"), [("app", None), ("ocr", "openTier"), (None, "type")], ids=["app", "ocr", "nobody"]
)
def test_open_tier_is_for_senders_who_may_open_accounts(sender: str | None, field: str | None) -> None:
    policy = Policy(senders={"usage.*": ["app", "ocr"], "account.open": ["app"]})
    assert refused_field(deduct(openTier="free"), sender, policy) == field
    assert refused_field(deduct(), sender, policy) == (None if sender else "type")
    in_batch = None if field is None else field.replace("openTier", "items.1.openTier")
    assert refused_field(batch(deduct("d-0"), deduct(openTier="free")), sender, policy) == in_batch


def test_open_tier_needs_a_rule_about_opening_once_there_are_rules() -> None:
    assert refused_field(deduct(openTier="free"), "app", Policy()) is None
    assert refused_field(deduct(openTier="free"), "app", Policy(senders={"usage.*": ["app"]})) == "openTier"


BONUS = {"type": "credit.bonus", "referenceId": "b", "userId": "u", "tokens": 1_000_000}
RULES: dict[str, Any] = {
    "credit.*": {"gateway": "gw-", OWN_USER: ""},
    "usage.*": ["app", "clerk"],
    "account.*": ["gateway"],
}
CLERK = "clerk"  #: one of our own users without the right to give credit


@pytest.mark.parametrize(
    ("publisher", "sender", "reference", "refusal"),
    [
        (OWN_USER, "gateway", "gw-1", None),
        (OWN_USER, "gateway", "x-1", "'gateway' may send credit.bonus only with references"),
        (OWN_USER, "app", "gw-1", "'app' may not send credit.bonus."),
        (OWN_USER, "", "gw-1", "An anonymous user may not send credit.bonus."),
        (OWN_USER, 7, "gw-1", "An anonymous user may not send credit.bonus."),
        (OWN_USER, None, "x-1", None),
        (CLERK, "gateway", "gw-1", "'clerk' may not send credit.bonus."),
        (CLERK, None, "gw-1", "'clerk' may not send credit.bonus."),
        ("app", "gateway", "gw-1", "'app' is no worker user, so its header x-billing-sender is not"),
        ("gateway", "gateway", "gw-1", "'gateway' is no worker user, so its header x-billing-sender is not"),
        (None, OWN_USER, "gw-1", "An anonymous user is no worker user"),
        ("gateway", None, "gw-1", None),
    ],
)
def test_copy_needs_the_rights_of_its_first_sender_and_publisher(
    publisher: str | None, sender: Any, reference: str, refusal: str | None
) -> None:
    policy = replace(OWN_POLICY, senders=RULES, worker_users=frozenset({OWN_USER, CLERK}))
    headers = {} if sender is None else {"x-billing-sender": sender}
    came = replace(delivery(BONUS | {"referenceId": reference}, user_id=publisher), headers=headers)
    found = message_in(came, policy, NOW)
    if refusal is None:
        assert not isinstance(found, Failure)
    else:
        assert isinstance(found, Failure)
        assert found.code is DeadLetterReason.WRONG_SENDER
        assert found.message.startswith(refusal)


def test_forged_sender_is_refused_where_there_are_no_rules() -> None:
    failure = failure_in(replace(delivery(deduct(), user_id="app"), headers={"x-billing-sender": "ops"}))
    assert failure.code is DeadLetterReason.WRONG_SENDER
    assert failure.message.endswith("leave the header out, or name the user in BILLING_WORKER_USERS.")


def test_refusal_of_an_open_tier_names_the_way_out() -> None:
    policy = Policy(senders={"account.open": ["app"]})
    failure = failure_in(delivery(deduct(openTier="free"), user_id="ocr"), policy)
    assert failure.message == (
        "'ocr' may not open accounts: leave openTier out, or grant account.open to this sender."
    )
