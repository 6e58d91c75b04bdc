"""Query strings: the query that a broker would have carried, and refusals in the same words."""

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import QUERY_TYPES, Limits, Malformed, QueryBalance, QueryHistory, decode_query
from worker.http.parameters import Parameters

LIMITS = Limits()


def read(query: str, query_string: str | bytes) -> Any:
    given_bytes = query_string.encode() if isinstance(query_string, str) else query_string
    return Parameters(QUERY_TYPES[query]).query_in(given_bytes, LIMITS)


def refused(query: str, query_string: str | bytes) -> Malformed:
    found = read(query, query_string)
    assert isinstance(found, Malformed)
    return found


# -- what is taken ----------------------------------------------------------------------------------------


def test_parameters_are_the_fields_of_the_query() -> None:
    query_string = "userId=ada&limit=20&cursor=abc&status=all&from=2026-11-01T00:00:00Z&minSequence=7"
    assert read("query.history", query_string) == QueryHistory.model_validate(
        {
            "userId": "ada",
            "limit": 20,
            "cursor": "abc",
            "status": "all",
            "from": "2026-11-01T00:00:00Z",
            "minSequence": 7,
        }
    )


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=200))
def test_id_of_any_characters_arrives_as_it_is(user_id: str) -> None:
    for query_string in (urlencode({"userId": user_id}), f"userId={quote(user_id, safe='')}"):
        assert read("query.balance", query_string) == QueryBalance(user_id=user_id)


@pytest.mark.parametrize(
    "user_id", ["a/b?c&d=e", "100%", "%00", "a b", "a+b", "😀", "株式会社", "e\u0301", "'\"\\"]
)
def test_characters_with_a_meaning_in_urls_and_json_lose_it(user_id: str) -> None:
    assert read("query.balance", urlencode({"userId": user_id})).user_id == user_id


def test_utf8_that_is_not_encoded_is_taken() -> None:
    assert read("query.balance", "userId=株式会社").user_id == "株式会社"


def test_digits_of_a_text_stay_text() -> None:
    assert read("query.balance", "userId=007").user_id == "007"


def test_empty_pieces_are_passed_over() -> None:
    assert read("query.balance", "&userId=ada&&").user_id == "ada"


def test_every_parameter_is_a_text_or_a_whole_number() -> None:
    kinds = {
        one["type"]
        for query in QUERY_TYPES.values()
        for field in query.model_json_schema(by_alias=True)["properties"].values()
        for one in (field, *field.get("anyOf", ()))
        if "type" in one
    }
    assert kinds <= {"string", "integer", "null"}, "another kind needs a form in the query string"


# -- what is refused, as the broker refuses it --------------------------------------------------------------

BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("query.balance", "", {}),
    ("query.balance", "userId=", {"userId": ""}),
    ("query.balance", "userId=%00", {"userId": "\0"}),
    ("query.balance", "userId=a%00b", {"userId": "a\0b"}),
    ("query.balance", f"userId={'x' * 201}", {"userId": "x" * 201}),
    ("query.balance", "userId=+ada", {"userId": " ada"}),
    ("query.balance", "user=ada", {"user": "ada"}),
    ("query.balance", "userid=ada", {"userid": "ada"}),
    ("query.balance", "userId=ada&colour=red&size=2", {"userId": "ada", "colour": "red", "size": "2"}),
    ("query.balance", "userId=ada&at=yesterday", {"userId": "ada", "at": "yesterday"}),
    ("query.balance", "userId=ada&at=2026-11-26", {"userId": "ada", "at": "2026-11-26"}),
    ("query.balance", "userId=ada&minSequence=-1", {"userId": "ada", "minSequence": -1}),
    ("query.balance", "userId=ada&minSequence=", {"userId": "ada", "minSequence": ""}),
    ("query.afford", "userId=ada", {"userId": "ada"}),
    ("query.afford", "userId=ada&tokens=1.5", {"userId": "ada", "tokens": "1.5"}),
    ("query.afford", "userId=ada&tokens=1e3", {"userId": "ada", "tokens": "1e3"}),
    ("query.afford", "userId=ada&tokens=007", {"userId": "ada", "tokens": "007"}),
    ("query.afford", "userId=ada&tokens=%2B5", {"userId": "ada", "tokens": "+5"}),
    ("query.afford", "userId=ada&tokens=٣", {"userId": "ada", "tokens": "٣"}),
    ("query.afford", "userId=ada&tokens=true", {"userId": "ada", "tokens": "true"}),
    ("query.afford", f"userId=ada&tokens={'9' * 99}", {"userId": "ada", "tokens": int("9" * 99)}),
    ("query.afford", f"userId=ada&tokens={'9' * 7000}", {"userId": "ada", "tokens": "9" * 7000}),
    ("query.afford", "userId=ada&tokens=5&meter=ocr", {"userId": "ada", "tokens": 5, "meter": "ocr"}),
    ("query.history", "userId=ada&limit=1000000000", {"userId": "ada", "limit": 10**9}),
    ("query.history", "userId=ada&limit=0", {"userId": "ada", "limit": 0}),
    ("query.history", "userId=ada&limit=ten", {"userId": "ada", "limit": "ten"}),
    ("query.history", "userId=ada&offset=1&cursor=x", {"userId": "ada", "offset": 1, "cursor": "x"}),
    ("query.history", f"userId=ada&cursor={'x' * 201}", {"userId": "ada", "cursor": "x" * 201}),
    ("query.history", "userId=ada&status=lost", {"userId": "ada", "status": "lost"}),
    ("query.usage", "userId=ada&days=1000000", {"userId": "ada", "days": 10**6}),
    (
        "query.usage",
        "userId=ada&from=1970-01-01&to=2199-12-31",
        {"userId": "ada", "from": "1970-01-01", "to": "2199-12-31"},
    ),
    ("query.usage", "userId=ada&from=2026-11-01", {"userId": "ada", "from": "2026-11-01"}),
    ("query.usage", "userId=ada&groupBy=colour", {"userId": "ada", "groupBy": "colour"}),
    ("query.usage", f"userId=ada&timezone={'x' * 65}", {"userId": "ada", "timezone": "x" * 65}),
    ("query.operation", "", {}),
    ("query.stats", "userId=ada", {"userId": "ada"}),
]


@pytest.mark.parametrize(("query", "query_string", "fields"), BAD, ids=lambda value: str(value)[:40])
def test_refusal_has_the_words_of_the_broker(query: str, query_string: str, fields: dict[str, Any]) -> None:
    by_broker = decode_query(json.dumps({"type": query, **fields}).encode(), limits=LIMITS)
    assert isinstance(by_broker, Malformed)
    found = refused(query, query_string)
    assert (found.field, found.reason) == (by_broker.field, by_broker.reason)
    assert found.message.startswith(by_broker.message)


def test_parameter_that_is_given_twice_is_named() -> None:
    found = refused("query.balance", "userId=ada&userId=bob")
    assert found.field == "userId"
    assert found.message == "The field 'userId' is given twice; send it once."


def test_refusal_of_too_many_days_says_how_many_are_taken() -> None:
    found = refused("query.usage", "userId=ada&from=1970-01-01&to=2199-12-31")
    assert "from 1 to 366" in found.message


# -- what only a query string can get wrong -----------------------------------------------------------------


def test_type_is_said_by_the_path() -> None:
    found = refused("query.balance", "userId=ada&type=query.stats")
    assert (found.field, found.message) == ("type", "The field 'type' is not known; the path says it.")


@pytest.mark.parametrize("value", ["100%", "%", "%f", "%zz", "%u00e9"])
def test_percent_without_two_digits_is_refused(value: str) -> None:
    found = refused("query.balance", f"userId={value}")
    assert found.field == "userId"
    assert "write %25" in found.message


@pytest.mark.parametrize("value", [b"%ff", b"\xff", b"%ed%a0%80", b"%c3"])
def test_bytes_that_are_not_utf8_are_refused(value: bytes) -> None:
    found = refused("query.balance", b"userId=" + value)
    assert found.field == "userId"
    assert "UTF-8" in found.message


def test_broken_name_of_a_parameter_is_refused() -> None:
    assert "name of a parameter" in refused("query.balance", "us%erId=ada").message
    assert "name of a parameter" in refused("query.balance", b"us\xffer=ada").message


def test_plus_in_a_time_is_explained() -> None:
    found = refused("query.balance", "userId=ada&at=2026-11-26T10:00:00+01:00")
    assert found.field == "at"
    assert "write %2B for a plus" in found.message


def test_space_that_was_sent_as_such_needs_no_hint() -> None:
    assert "%2B" not in refused("query.balance", "userId=ada&at=2026-11-26T10:00:00%2001:00").message


def test_many_parameters_are_refused_at_once() -> None:
    found = refused("query.balance", "&".join(f"p{n}=1" for n in range(1_500)))
    assert "more are not known" in found.message
