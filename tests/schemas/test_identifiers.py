"""Rule of new ids: no two look alike, an operator's pattern narrows them, ids the ledger has go on."""

import json
import unicodedata
from typing import Any

import pytest

from schemas import COMMAND_TYPES, Command, Limits, Malformed, QueryBalance, UsageBatch, decode, decode_query
from schemas.identifiers import OWN_REFERENCES, PATTERN_MAX, IdRule, ids_of, matches, pattern_fault
from tests.support.message_bodies import MINIMAL
from tests.support.strategies import LIMITS, NOW

NFD = unicodedata.normalize("NFD", "zoë")
ASCII = Limits(ids=IdRule("[!-~]+"))


def body(**fields: Any) -> bytes:
    least = {"type": "usage.deduct", "referenceId": "r-1", "userId": "ada", "tokens": 5}
    return json.dumps({**least, **fields}).encode()


def decoded(message: bytes, limits: Limits = LIMITS) -> Any:
    return decode(message, now=NOW, limits=limits)


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_", "words"),
    [
        (NFD, "id.normalize()"),
        ("\u212bngstrom", "NFC"),
        ("ada\u034f", "U+034F"),
        ("\u3164", "U+3164"),
        ("ada\ufe0f", "U+FE0F"),
        ("a\U000e0100a", "U+E0100"),
        ("no\u00a0break", "U+00A0"),
        ("a\u2003b", "U+2003"),
        ("a\u3000b", "U+3000"),
    ],
)
@pytest.mark.parametrize("field", ["userId", "referenceId", "openTier"])
def test_look_alike_id_is_refused_with_the_way_out(field: str, id_: str, words: str) -> None:
    refused = decoded(body(**{field: id_}))
    assert isinstance(refused, Malformed)
    assert (refused.reason, refused.field) == ("invalid_id", field)
    assert refused.message.startswith(f"{field}: ")
    assert words in refused.message


@pytest.mark.parametrize("id_", ["zoë", "аda", "ユーザー１", "a b", "مستخدم", "😀"])
def test_id_of_any_script_is_taken(id_: str) -> None:
    assert not isinstance(decoded(body(userId=id_, referenceId=id_)), Malformed)


def test_escapes_in_plain_ascii_don_t_hide_an_id() -> None:
    escaped = body(userId=NFD)
    assert escaped.isascii()
    assert decoded(escaped).reason == "invalid_id"


def test_text_that_is_no_id_may_have_any_form() -> None:
    taken = decoded(body(description=NFD, feature=NFD, metadata={NFD: NFD}))
    assert taken.description == NFD


@pytest.mark.parametrize("type_", sorted(COMMAND_TYPES))
def test_each_id_of_each_command_keeps_the_rule(type_: str) -> None:
    good = decoded(json.dumps(MINIMAL[type_]).encode())
    for field, _ in ids_of(good):
        name, _, place = field.partition(".")
        refused = decoded(json.dumps({**MINIMAL[type_], name: [NFD] if place else NFD}).encode())
        assert (refused.reason, refused.field) == ("invalid_id", field)


def test_ids_within_a_command_keep_the_rule() -> None:
    payment = {"type": "payment.succeeded", "referenceId": "p", "userId": "ada", "packageIndex": 0}
    named = {**payment, "amountMinor": 5, "currency": "USD", "alsoKnownAs": ["ch_1", NFD]}
    assert decoded(json.dumps(named).encode()).field == "alsoKnownAs.1"


def test_item_of_a_batch_is_refused_alone() -> None:
    items = [{"type": "usage.deduct", "referenceId": name, "tokens": 5} for name in ("a", NFD)]
    batch = decoded(
        json.dumps({"type": "usage.batch", "referenceId": "b", "userId": "u", "items": items}).encode()
    )
    assert isinstance(batch, UsageBatch)
    assert [item.reference_id for item in batch.items] == ["a"]
    assert batch.malformed[1].field == "items.1.referenceId"


def test_query_reads_under_an_id_of_any_version() -> None:
    asked = decode_query(json.dumps({"type": "query.balance", "userId": NFD}).encode(), limits=Limits())
    assert isinstance(asked, QueryBalance)
    assert asked.user_id == NFD


# -- ids that the ledger has ------------------------------------------------------------------------------


def knowing(*ids: str) -> Limits:
    return Limits(ids=IdRule(known=frozenset(ids)))


def test_known_user_goes_on_with_references_made_of_the_id() -> None:
    taken = decoded(body(userId=NFD, referenceId=f"page-{NFD}"), knowing(NFD))
    assert isinstance(taken, Command)


def test_known_reference_goes_on_under_a_good_user() -> None:
    assert isinstance(decoded(body(referenceId=NFD), knowing(NFD)), Command)


def test_known_reference_brings_no_new_id_along() -> None:
    refused = decoded(body(referenceId=NFD, userId="a\u00a0b"), knowing(NFD))
    assert (refused.reason, refused.field) == ("invalid_id", "userId")


# -- an operator's pattern --------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", ["zoë", "аda", "two words"])
def test_pattern_refuses_what_does_not_match_as_a_whole(id_: str) -> None:
    refused = decoded(body(userId=id_), ASCII)
    assert (refused.reason, refused.field) == ("invalid_id", "userId")
    assert "BILLING_ID_PATTERN" in refused.message


def test_pattern_takes_what_matches_and_asks_nothing_of_a_user_who_is_not_named() -> None:
    assert not isinstance(decoded(body(), ASCII), Malformed)
    assert not isinstance(decoded(json.dumps(MINIMAL["payment.failed"]).encode(), ASCII), Malformed)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("[a-z", "no regular expression"),
        ("(?=a).*", "no regular expression"),
        (r"(a)\1", "no regular expression"),
        ("a)|(?:.*", "no regular expression"),
        ("[a-z]+", OWN_REFERENCES[0]),
        ("x" * (PATTERN_MAX + 1), "at most"),
    ],
)
def test_pattern_of_no_use_is_refused(pattern: str, words: str) -> None:
    assert words in (pattern_fault(pattern) or "")


def test_pattern_that_backtracks_elsewhere_costs_linear_time() -> None:
    assert pattern_fault("(?:(?:[!-~]+)+)+") is None
    assert not matches("(?:(?:[!-~]+)+)+", "a" * 199 + "é")
