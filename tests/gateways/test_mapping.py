"""Events to commands: the replay tables, what holds of all events, and events that are broken on purpose."""

import copy
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from schemas import Command, Limits, Malformed, decode
from tests.gateways.replay import GATEWAYS, RESOLVER, EventCase, all_cases, mapper_of, replay_cases
from worker.gateways import Mapped, PaymentSource, Reason, StripeRules, map_stripe
from worker.gateways.paddle import PADDLE_TYPES
from worker.gateways.stripe import STRIPE_TYPES

NOW = datetime(2026, 12, 1, tzinfo=UTC)
TYPES = {"stripe": STRIPE_TYPES, "paddle": PADDLE_TYPES}
TYPE_KEYS = {"stripe": "type", "paddle": "event_type"}

by_case = pytest.mark.parametrize(
    "case", all_cases(), ids=[f"{case.gateway}: {case.name}" for case in all_cases()]
)


def sent(command: Command) -> dict[str, Any]:
    """Return what goes over the wire, without fields that have their default."""
    fields: dict[str, Any] = json.loads(command.to_json())
    return {name: value for name, value in fields.items() if (name, value) != ("attempt", 1)}


@by_case
def test_event_gives_its_commands_or_its_reason(case: EventCase) -> None:
    mapped = case.mapped()
    assert (
        [sent(command) for command in mapped.commands],
        mapped.reason,
    ) == (case.commands, case.reason), mapped.detail


@by_case
def test_event_has_either_commands_or_a_reason_with_a_text(case: EventCase) -> None:
    mapped = case.mapped()
    assert bool(mapped.commands) is (mapped.reason is None) is (mapped.detail == "")


@by_case
def test_event_that_comes_again_gives_the_same_bytes(case: EventCase) -> None:
    first, second = case.mapped(), case.mapped()
    assert [one.to_json() for one in first.commands] == [one.to_json() for one in second.commands]


@by_case
def test_worker_takes_every_command(case: EventCase) -> None:
    for command in case.mapped().commands:
        decoded = decode(command.to_json(), now=NOW, limits=Limits())
        assert not isinstance(decoded, Malformed), decoded
        assert decoded == command


@by_case
def test_mapping_leaves_the_event_as_it_was(case: EventCase) -> None:
    event = copy.deepcopy(case.event)
    mapper_of(case.gateway, **case.rules)(event)
    assert event == case.event


@by_case
def test_reference_begins_with_the_gateway_and_never_names_the_event(case: EventCase) -> None:
    for command in case.mapped().commands:
        assert command.reference_id.startswith(f"{case.gateway}:")
        assert "evt_" not in command.reference_id
        assert "ntf_" not in command.reference_id


#: Events about one change, by the names of their rows.
REPORTED_TWICE = {
    "stripe": [
        ("charge succeeded", "charge updated"),
        ("session paid", "session paid later"),
        ("refund created and done", "refund updated to done", "refund of old, updated to done"),
        ("refund failed after it was done", "refund failed", "refund canceled"),
        (
            "dispute opened",
            "dispute under review",
            "dispute whose money is withdrawn",
            "dispute whose refunded part came back",
        ),
        ("inquiry opened", "inquiry under review"),
        ("dispute won", "dispute won, with its money"),
        ("dispute lost", "dispute lost without balance transactions"),
        ("fraud warning", "fraud warning updated"),
    ],
    "paddle": [
        ("transaction of a package", "transaction updated when it was complete", "transaction revised"),
        ("refund approved", "refund approved at once"),
        ("refund rejected", "refund reversed"),
        ("chargeback", "chargeback, updated"),
        ("subscription as it is", "subscription resumed"),
    ],
}


@pytest.mark.parametrize(
    ("gateway", "names"), [(gateway, names) for gateway, groups in REPORTED_TWICE.items() for names in groups]
)
def test_events_about_one_change_have_one_reference_and_one_content(
    gateway: str, names: tuple[str, ...]
) -> None:
    table = {case.name: case for case in replay_cases(gateway)}
    reported = [
        [(command.reference_id, command.type, command.content()) for command in table[name].mapped().commands]
        for name in names
    ]
    assert reported[0]
    assert reported == [reported[0]] * len(names)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_known_type_is_in_the_table(gateway: str) -> None:
    assert {case.event[TYPE_KEYS[gateway]] for case in replay_cases(gateway)} >= TYPES[gateway]


#: Types that the gateways' documents name and the research notes list.
NOTED = {
    "stripe": """payment_intent.succeeded payment_intent.payment_failed payment_intent.processing
        payment_intent.partially_funded checkout.session.completed checkout.session.async_payment_succeeded
        checkout.session.async_payment_failed charge.succeeded charge.updated charge.refunded refund.created
        refund.updated refund.failed charge.refund.updated charge.dispute.created charge.dispute.updated
        charge.dispute.closed charge.dispute.funds_withdrawn charge.dispute.funds_reinstated
        radar.early_fraud_warning.created radar.early_fraud_warning.updated invoice.paid invoice_payment.paid
        customer.subscription.created customer.subscription.updated customer.subscription.deleted
        customer.subscription.paused customer.subscription.resumed customer.subscription.trial_will_end
        customer.subscription.pending_update_applied customer.subscription.pending_update_expired""",
    "paddle": """transaction.completed transaction.updated transaction.revised adjustment.created
        adjustment.updated""",
}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_noted_type_is_known(gateway: str) -> None:
    assert set(NOTED[gateway].split()) <= TYPES[gateway]


#: Beginnings of the types that speak of payments, in the vendor's own list of all types.
_OF_PAYMENTS = (
    "payment_intent.",
    "charge.",
    "refund.",
    "checkout.session.",
    "radar.early_fraud_warning.",
    "invoice.",
    "invoice_payment.",
    "customer.subscription.",
)


def literals(cls: type, name: str) -> set[str]:
    """Return the texts that a field of the vendor's library may have."""
    (listed, *_) = [one for one in get_args(cls.__annotations__[name]) if get_args(one)] or [
        cls.__annotations__[name]
    ]
    return set(get_args(listed))


def test_every_type_of_the_vendors_library_that_speaks_of_payments_is_known() -> None:
    listed = {type_ for type_ in literals(stripe.Event, "type") if type_.startswith(_OF_PAYMENTS)}
    assert len(listed) > 40
    assert listed <= STRIPE_TYPES


@pytest.mark.parametrize(
    ("vendors", "row"),
    [
        (stripe.Dispute, "dispute opened"),
        (stripe.Subscription, "subscription resumed"),
        (stripe.PaymentIntent, "intent succeeded"),
    ],
)
def test_every_status_of_the_vendors_library_is_known(vendors: type, row: str) -> None:
    event = next(case.event for case in replay_cases("stripe") if case.name == row)
    statuses = literals(vendors, "status")
    assert len(statuses) > 4
    for status in statuses:
        changed = {**event["data"]["object"], "status": status}
        mapped = mapper_of("stripe")({**event, "data": {"object": changed}})
        assert mapped.reason is not Reason.MALFORMED, (status, mapped.detail)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_reason_but_those_of_one_gateway_is_in_the_tables(gateway: str) -> None:
    elsewhere = {
        "stripe": {Reason.TAX_ONLY, Reason.NO_ORIGINAL},
        "paddle": {Reason.NOTHING_CHANGED, Reason.NO_PERIOD, Reason.NOT_OURS},
    }
    found = {case.reason for case in replay_cases(gateway)}
    assert found >= set(Reason) - elsewhere[gateway]


def test_test_event_is_taken_where_tests_are_asked_for_and_a_live_one_is_not() -> None:
    live = replay_cases("stripe")[0].event
    rules = StripeRules(RESOLVER, takes_live=False)
    assert map_stripe(live, rules).reason is Reason.WRONG_MODE
    assert map_stripe({**live, "livemode": False}, rules).commands


def test_one_source_alone_reports_a_payment() -> None:
    """Intent, session and charge of one payment: whatever the source is, exactly one gives a command."""
    table = {case.name: case.event for case in replay_cases("stripe")}
    events = [table[name] for name in ("intent succeeded", "session paid", "charge succeeded")]
    for source in PaymentSource:
        reported = [map_stripe(event, StripeRules(RESOLVER, source)).commands for event in events]
        assert sorted(map(len, reported)) == [0, 0, 1]


def test_result_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Mapped().reason = Reason.PENDING  # type: ignore[misc]


# -- broken on purpose ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
#: Values that are nearly right: a wrong type, an edge, an empty one.
SURPRISES = JSON | st.sampled_from(
    ["", "0", "-1", "19.99", "٣", "\ud800", 0, -1, 2**63, 10**400, True, [], {}, [None], {"id": None}, [{}]]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within a JSON value."""
    inner = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def with_surprise(event: Any, path: tuple[Any, ...], surprise: Any, *, drops: bool) -> Any:
    """Return the event with another value at a place, or without that place."""
    if not path:
        return surprise
    key, *inner = path
    broken = copy.copy(event)  # what stands beside the path is shared
    if drops and not inner:
        del broken[key]
    else:
        broken[key] = with_surprise(event[key], tuple(inner), surprise, drops=drops)
    return broken


@given(st.data())
def test_broken_event_gives_commands_or_a_reason(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(all_cases()))
    event = case.event
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(event)))
        event = with_surprise(event, path, data.draw(SURPRISES), drops=data.draw(st.booleans()))
    mapped = mapper_of(case.gateway, **case.rules)(event)
    assert bool(mapped.commands) is (mapped.reason is None)
    for command in mapped.commands:
        command.to_json()


@pytest.mark.parametrize("gateway", GATEWAYS)
@given(event=JSON)
def test_any_json_gives_a_reason(gateway: str, event: Any) -> None:
    assert mapper_of(gateway)(event).reason in (Reason.MALFORMED, Reason.UNKNOWN_TYPE)


@by_case
def test_missing_field_gives_commands_or_a_reason(case: EventCase) -> None:
    for path in places(case.event):
        for drops in (True, False):
            mapped = mapper_of(case.gateway, **case.rules)(with_surprise(case.event, path, None, drops=drops))
            assert bool(mapped.commands) is (mapped.reason is None), path


def test_surprise_is_named_with_its_place() -> None:
    case = next(case for case in replay_cases("stripe") if case.name == "refund whose amount is text")
    assert case.mapped().detail == "event.data.object.amount: must be a whole number, is text"
