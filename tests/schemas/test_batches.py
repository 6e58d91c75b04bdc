"""``usage.batch`` at the border: many commands in one message, each of them as it would be by itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import DeductUsage, FreeUpload, RecordUsage, UsageBatch
from schemas.decoding import BODY_MAX_BYTES
from schemas.usage import BATCH_MAX_ITEMS
from tests.support.message_bodies import (
    GONE,
    MINIMAL,
    assert_fit_for_logs_and_headers,
    assert_refused,
    body,
    outcome_of,
    refusal_of,
    taken,
)
from tests.support.strategies import LIMITS, examples, identifiers, labels, metadata, quantities, timestamps

ITEM = MINIMAL["usage.deduct"]
KINDS = "it is one of usage.deduct, usage.free_upload, usage.record"


def batch_with(*items: Any, **changes: Any) -> bytes:
    """Three good items and then these."""
    good = [{**ITEM, "referenceId": f"i-{number}"} for number in range(3)]
    return body("usage.batch", items=[*good, *items], **changes)


def item(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**ITEM, **changes}.items() if value is not GONE}


def test_the_items_are_commands_in_their_order() -> None:
    batch = taken(
        batch_with(
            {**MINIMAL["usage.record"], "referenceId": "i-3"},
            {**MINIMAL["usage.free_upload"], "referenceId": "i-4"},
        )
    )
    assert isinstance(batch, UsageBatch)
    assert [type(item) for item in batch.items] == [DeductUsage] * 3 + [RecordUsage, FreeUpload]
    assert [item.reference_id for item in batch.items] == [f"i-{number}" for number in range(5)]


def test_an_item_without_a_user_is_the_batchs_users() -> None:
    batch = taken(body("usage.batch", items=[item(userId=GONE), item(userId="other")]))
    assert [item.user_id for item in batch.items] == ["u-1", "other"]


def test_a_batch_of_several_users_need_not_name_one() -> None:
    batch = taken(body("usage.batch", userId=GONE, items=[item(), item(userId="other")]))
    assert batch.user_id is None
    assert [item.user_id for item in batch.items] == ["u-1", "other"]


def test_an_item_in_a_batch_is_the_command_that_it_is_alone() -> None:
    whole = {**ITEM, "feature": "ocr", "attempt": 2, "metadata": {"page": 7}, "description": "p. 7"}
    (one,) = taken(body("usage.batch", items=[whole])).items
    assert one == taken(body(whole))


@pytest.mark.parametrize(
    ("last", "reason", "place", "words"),
    [
        (item(tokens=-1), "invalid_field", ".tokens", "must be 0 or more"),
        (item(tokens="5"), "invalid_field", ".tokens", "without quotes"),
        (item(tokens=10**16), "invalid_field", ".tokens", f"at most {LIMITS.max_quantity} is taken"),
        (item(tokens=GONE), "missing_field", ".tokens", "'items.3.tokens' is missing"),
        (item(tokns=5), "unknown_field", ".tokns", "did you mean 'tokens'?"),
        (
            item(tokns=5, colour="red"),
            "unknown_field",
            ".tokns",
            "The fields 'items.3.tokns', 'items.3.colour' are not known; did you mean 'tokens' for 'tokns'?",
        ),
        (item(metadata={str(n): n for n in range(17)}), "invalid_field", ".metadata", "has 17"),
        (item(metadata={" a": 1}), "invalid_field", ".metadata. a", "white space at either end"),
        (item(reference_id="x"), "unknown_field", ".reference_id", "did you mean 'referenceId'?"),
        (item(user_id="x"), "unknown_field", ".user_id", "did you mean 'userId'?"),
        (item(userId=None), "invalid_field", ".userId", "must be a string"),
        (item(userId=" u"), "invalid_field", ".userId", "white space at either end"),
        (item(referenceId=""), "invalid_field", ".referenceId", "must not be empty"),
        (item(metadata={"a": 1.5}), "invalid_field", ".metadata.a", "must be a string, a whole number"),
        (item(occurredAt="2099-01-01T00:00:00Z"), "invalid_field", ".occurredAt", "lies in the future"),
        (item(occurredAt="now"), "invalid_field", ".occurredAt", "RFC 3339"),
        (item(type=GONE), "invalid_field", "", "has no type; an item is one of usage.deduct"),
        (item(type="credit.bonus"), "invalid_field", "", KINDS),
        (item(type="usage.reserve", ttlSeconds=1), "invalid_field", "", KINDS),
        (item(type="usage.batch", items=[]), "invalid_field", "", KINDS),
        (item(type="usage.record", meter="ocr", quantity=1), "unknown_field", ".tokens", "known are"),
        (item(type=["usage.deduct"]), "invalid_field", "", KINDS),
        (item(type=None), "invalid_field", "", KINDS),
        (5, "invalid_field", "", "must be an object"),
        (None, "invalid_field", "", "must be an object"),
        ([ITEM], "invalid_field", "", "must be an object"),
    ],
)
def test_malformed_item_is_refused_by_itself_and_named_by_its_place(
    last: Any, reason: str, place: str, words: str
) -> None:
    batch = taken(batch_with(last, item(referenceId="i-4")))
    assert [item.reference_id for item in batch.items] == ["i-0", "i-1", "i-2", "i-4"]
    assert batch.places == [0, 1, 2, 4]
    ((index, refused),) = batch.malformed.items()
    assert_fit_for_logs_and_headers(refused)
    assert (index, refused.reason, refused.field) == (3, reason, f"items.3{place}")
    assert words in refused.message


@pytest.mark.parametrize(
    ("last", "field"),
    [
        ('{"type": "usage.deduct", "referenceId": "i-3", "tokens": 5, "tokens": 6}', "tokens"),
        (
            '{"type": "usage.deduct", "referenceId": "i-3", "tokens": 5, "metadata": {"a": 1, "a": 2}}',
            "metadata.a",
        ),
    ],
)
def test_item_that_gives_a_field_twice_is_refused_by_itself(last: str, field: str) -> None:
    batch = taken(batch_with("@").replace(b'"@"', last.encode()))
    assert len(batch.items) == 3
    refused = batch.malformed[3]
    assert (refused.reason, refused.field) == ("duplicate_field", f"items.3.{field}")
    assert f"'items.3.{field}' is given twice" in refused.message
    assert (refused.type, refused.reference_id) == ("usage.deduct", "i-3")


def test_malformed_item_keeps_the_identities_that_could_be_read() -> None:
    bad = [item(userId=GONE, tokens=-1), item(referenceId=5, tokns=1), item(type="credit.bonus"), 5]
    malformed = taken(body("usage.batch", userId="u-9", items=bad)).malformed.values()
    assert [(one.type, one.reference_id, one.user_id) for one in malformed] == [
        ("usage.deduct", "r-1", "u-9"),
        ("usage.deduct", None, "u-1"),
        ("credit.bonus", "r-1", "u-1"),
        (None, None, None),
    ]


def test_item_that_says_which_replies_it_wants_is_refused_with_the_way_out() -> None:
    batch = taken(batch_with(item(referenceId="i-3", replies="none"), replies="problems"))
    assert isinstance(batch, UsageBatch)
    assert batch.replies == "problems"
    (refused,) = batch.malformed.values()
    assert (refused.reason, refused.field) == ("invalid_field", "items.3.replies")
    assert "give `replies` to the batch" in refused.message


def test_producer_cannot_build_a_batch_with_replies_of_an_item() -> None:
    one = DeductUsage(reference_id="i", user_id="u", tokens=1, replies="none")
    with pytest.raises(ValueError, match="give `replies` to the batch"):
        UsageBatch(reference_id="b", items=(one,))


def test_batch_of_malformed_items_alone_is_a_batch_without_commands() -> None:
    batch = taken(body("usage.batch", items=[5, item(tokens=-1)]))
    assert (batch.items, batch.places, list(batch.malformed)) == ((), [], [0, 1])


def test_batch_that_a_producer_builds_has_no_malformed_items() -> None:
    batch = UsageBatch(reference_id="b", items=(DeductUsage(reference_id="i", user_id="u", tokens=5),))
    assert (batch.malformed, batch.places) == ({}, [0])


def test_each_of_a_thousand_malformed_items_has_its_own_message() -> None:
    """This holds after the first ones too, where metadata is looked at before it is validated."""
    bad = {"tokens": -1}, {"metadata": {"a": [1]}}, {"metadata": {"\x00": 1}}, {"tokns": 5}
    items = [item(referenceId=f"i-{n}", **bad[n % 5]) if n % 5 < 4 else item() for n in range(1_000)]
    batch = taken(body("usage.batch", items=items))
    assert len(batch.items) == 200
    for index, refused in batch.malformed.items():
        assert_fit_for_logs_and_headers(refused)
        rest = {0: "tokens", 1: "metadata.a", 2: "metadata.\\x00", 3: "tokns"}[index % 5]
        assert refused.field == f"items.{index}.{rest}"
        assert refused.reference_id == f"i-{index}"


@pytest.mark.parametrize(
    ("message", "reason", "field", "words"),
    [
        (body("usage.batch", items=[]), "invalid_field", "items", "must not be empty"),
        (body("usage.batch", items=None), "invalid_field", "items", "must be an array of usage commands"),
        (body("usage.batch", items=ITEM), "invalid_field", "items", "must be an array of usage commands"),
        (body("usage.batch", items="all"), "invalid_field", "items", "must be an array of usage commands"),
        (
            body("usage.batch", items=GONE, item=[ITEM]),
            "unknown_field",
            "item",
            "did you mean 'items'?",
        ),
        (
            body("usage.batch", colour="red", attempt=2, items=[5]),
            "unknown_field",
            "colour",
            "The fields 'colour', 'attempt' are not known",
        ),
        (body("usage.batch", items=[5] * 1_001), "invalid_field", "items", "holds too many"),
        (body("usage.batch", referenceId=GONE), "missing_field", "referenceId", "is missing"),
        (b'{"type": "usage.batch", "items": [], "items": []}', "duplicate_field", "items", "given twice"),
        (body("usage.batch", userId=5), "invalid_field", "userId", "must be a string"),
        (body("usage.batch", attempt=2), "unknown_field", "attempt", "known are items, referenceId"),
    ],
)
def test_a_bad_batch_is_refused(message: bytes, reason: str, field: str, words: str) -> None:
    assert_refused(message, reason, field, words)


def test_a_thousand_items_are_taken_and_one_more_is_not() -> None:
    short = {"type": "usage.deduct", "userId": "u", "tokens": 1}
    items = [{**short, "referenceId": f"i-{number}"} for number in range(BATCH_MAX_ITEMS + 1)]
    assert len(body("usage.batch", items=items)) < BODY_MAX_BYTES
    assert len(taken(body("usage.batch", items=items[:-1])).items) == BATCH_MAX_ITEMS == 1_000
    too_many = body("usage.batch", items=items)
    assert_refused(too_many, "invalid_field", "items", "holds too many; at most 1000 items are taken")


def test_item_without_a_user_in_a_batch_without_one_is_malformed() -> None:
    refused = taken(body("usage.batch", userId=GONE)).malformed[0]
    assert (refused.reason, refused.field) == ("missing_field", "items.0.userId")
    assert "'items.0.userId' is missing" in refused.message


def test_a_refusal_keeps_the_batchs_own_identities() -> None:
    refused = refusal_of(body("usage.batch", items=[], referenceId="b-1", userId="u-9"))
    assert (refused.type, refused.reference_id, refused.user_id) == ("usage.batch", "b-1", "u-9")


@st.composite
def any_items(draw: st.DrawFn) -> DeductUsage | RecordUsage | FreeUpload:
    said = {
        "reference_id": draw(identifiers()),
        "user_id": draw(identifiers()),
        "occurred_at": draw(st.none() | timestamps()),
        "attempt": draw(st.integers(1, 9)),
        "metadata": draw(st.none() | metadata()),
        "valid_until": draw(st.none() | timestamps()),
    }
    amount, label = draw(quantities()), draw(labels())
    match draw(st.integers(0, 2)):
        case 0:
            return DeductUsage(**said, tokens=amount, feature=label)
        case 1:
            return RecordUsage(**said, meter=label, quantity=amount)
        case _:
            return FreeUpload(**said, bytes=amount)


@examples(50)
@given(st.lists(any_items(), min_size=1, max_size=4))
def test_serialised_batch_decodes_to_itself(
    some: list[DeductUsage | RecordUsage | FreeUpload],
) -> None:
    batch = UsageBatch(reference_id="b", items=tuple(some))
    assert outcome_of(batch.to_json()) == batch


@examples(100)
@given(st.data())
def test_no_change_of_an_item_makes_decode_raise(data: st.DataObject) -> None:
    values = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
    names = st.sampled_from(["type", "userId", "tokens", "metadata", "items", "0"]) | st.text(max_size=3)
    strange = data.draw(values | st.dictionaries(names, values, max_size=3))
    last = {**ITEM, **strange} if isinstance(strange, dict) else strange
    result = outcome_of(json.dumps({**MINIMAL["usage.batch"], "items": [ITEM, last]}).encode())
    assert isinstance(result, UsageBatch)
    for refused in result.malformed.values():
        assert_fit_for_logs_and_headers(refused)
