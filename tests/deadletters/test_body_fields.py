"""Changes of fields of a JSON body, by paths: tables of bodies before and after."""

import json
from typing import Any

import pytest

from worker.deadletters.body_fields import BodyChanges, NotApplicableError, value_in
from worker.errors import QueryError


def changed(body: Any, **changes: list[str]) -> Any:
    """Return the changed body; None where the changes leave it as it is."""
    made = BodyChanges.read(**changes).made_in(json.dumps(body).encode())
    return None if made is None else json.loads(made)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ('{"a": [1]}', {"a": [1]}),
        ("ocr", "ocr"),
        ("007", "007"),
        ("NaN", "NaN"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ("two words", "two words"),
        ("", ""),
    ],
)
def test_value_is_json_where_it_is_json_and_text_elsewhere(text: str, value: Any) -> None:
    assert value_in(text) == value
    assert type(value_in(text)) is type(value)


@pytest.mark.parametrize("text", ['{"a": ', "[1", '"open', "1e400"])
def test_value_that_begins_like_json_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"correct it|larger number"):
        value_in(text)


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        ({"a": 1}, {"sets": ["a=2"]}, {"a": 2}),
        ({"a": 1}, {"sets": ["b=x"]}, {"a": 1, "b": "x"}),
        ({"a": 1}, {"sets": ["m.job=7"]}, {"a": 1, "m": {"job": 7}}),
        ({"m": {"a.b": 1}}, {"sets": [r"m.a\.b=2"]}, {"m": {"a.b": 2}}),
        ({"l": [1, 2]}, {"sets": ["l.1=5"]}, {"l": [1, 5]}),
        ({"l": [{"t": 1}, {}]}, {"sets": ["l.*.t=5"]}, {"l": [{"t": 5}, {"t": 5}]}),
        ({"a": 1, "b": 2}, {"drops": ["a"]}, {"b": 2}),
        ({"l": [{"t": 1, "u": 2}, {"u": 2}]}, {"drops": ["l.*.u"]}, {"l": [{"t": 1}, {}]}),
        ({"a": 1, "b": 2}, {"renames": ["a=c"]}, {"c": 1, "b": 2}),
        ({"l": [{"t": 1}, {"u": 2}]}, {"renames": ["l.*.t=l.*.u"]}, {"l": [{"u": 1}, {"u": 2}]}),
        ({"a": 1}, {"renames": ["a=m.a"]}, {"m": {"a": 1}}),
        ({"old": 1, "new": 2}, {"drops": ["new"], "renames": ["old=new"]}, {"new": 1}),
        ({"old": 1}, {"renames": ["old=new"], "sets": ["new=3"]}, {"new": 3}),
    ],
)
def test_fields_are_dropped_then_renamed_then_set(
    before: Any, changes: dict[str, list[str]], after: Any
) -> None:
    assert changed(before, **changes) == after
    assert list(changed(before, **changes)) == list(after), "a renamed field keeps its place"


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({"a": 1}, {"sets": ["a=1"]}),
        ({"a": 1}, {"drops": ["b"]}),
        ({"a": 1}, {"renames": ["b=c"]}),
        ({"a": 1}, {"sets": ["l.*.t=1"]}),
    ],
)
def test_body_without_the_field_stays_as_it_is(body: Any, changes: dict[str, list[str]]) -> None:
    assert changed(body, **changes) is None


@pytest.mark.parametrize(
    ("body", "changes", "why"),
    [
        (b"oops", {"sets": ["a=1"]}, "no JSON"),
        (b"[1]", {"sets": ["a=1"]}, "no JSON object"),
        (b'{"a": 1, "a": 2}', {"sets": ["b=1"]}, "a name is given twice"),
        (b'{"a": 1e3}', {"sets": ["b=1"]}, "a number would look different"),
        (b'{"a": "x"}', {"sets": ["a.b=1"]}, "a is no object"),
        (b'{"a": 1, "b": 2}', {"renames": ["a=b"]}, "it has b as well as a"),
        (b'{"l": [1]}', {"drops": ["l.0"]}, "item of a list"),
        (b'{"l": [1]}', {"sets": ["l.3=1"]}, "an item that its list doesn't have"),
    ],
)
def test_body_to_which_a_change_does_not_apply_says_why(
    body: bytes, changes: dict[str, list[str]], why: str
) -> None:
    with pytest.raises(NotApplicableError, match=why):
        BodyChanges.read(**changes).made_in(body)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "1 to 20 changes"),
        ({"sets": ["a"]}, "must be field=value"),
        ({"renames": ["a"]}, "must be old=new"),
        ({"drops": ["a..b"]}, "is no field"),
        ({"renames": ["a=b.*"]}, "more \\*"),
        ({"renames": ["a=a.b"]}, "a part of itself"),
        ({"drops": ["a"] * 21}, "1 to 20 changes"),
    ],
)
def test_change_that_makes_no_sense_is_refused(changes: dict[str, list[str]], why: str) -> None:
    with pytest.raises(QueryError, match=why):
        BodyChanges.read(**changes)


def test_other_values_of_a_changed_body_are_written_as_they_were() -> None:
    body = '{"a":1.5,"é":"日本","n":12345678901234567890,"s":"\\ud800"}'.encode()
    made = BodyChanges.read(sets=["b=1"]).made_in(body)
    assert made is not None
    assert json.loads(made) == {**json.loads(body), "b": 1}
