"""Fingerprints: the same for failures of the same kind, whatever their data and our own code's names."""

import json
import traceback
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Limits, Malformed, decode, first_malformed
from tests.deadletters.parts import NOW, TRACEBACK, deduct, failed
from tests.schemas.test_decoding import REFUSED
from tests.support.own_user import OWN_USERS
from tests.support.strategies import LIMITS
from worker.deadletters.fingerprints import fault_class, field_path, fingerprint_of, rule_in
from worker.deadletters.store.ingest import drained_from
from worker.messages.replies import failure_of

# -- faults -----------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True).filter(str.isidentifier)
classes = st.sampled_from(["KeyError", "ValueError", "worker.errors.LedgerUnavailableError", "OSError"])
causes = st.lists(classes, max_size=2)
frames = st.lists(
    st.builds(
        '  File "/{}/{}.py", line {}, in {}\n    {}(1)\n'.format,
        names,
        names,
        st.integers(1, 9_999),
        names,
        names,
    ),
    min_size=1,
    max_size=4,
)
texts = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20)
joints = st.sampled_from(
    [
        "\nThe above exception was the direct cause of the following exception:\n\n",
        "\nDuring handling of the above exception, another exception occurred:\n\n",
    ]
)


def fault(draw: st.DrawFn, chain: list[str]) -> tuple[str, str]:
    """Return message and traceback of a chain of exceptions, with frames and data of any kind."""
    blocks = [
        f"Traceback (most recent call last):\n{''.join(draw(frames))}{name}: {draw(texts)}\n"
        for name in chain
    ]
    text = blocks[0]
    for block in blocks[1:]:
        text += draw(joints) + block
    return f"{chain[-1].rpartition('.')[2]}: {draw(texts)}", text


@given(st.data(), classes, causes, causes)
def test_fingerprint_of_a_fault_depends_on_its_class_alone(
    data: st.DataObject, name: str, one: list[str], other: list[str]
) -> None:
    prints = set()
    for chain in ([*one, name], [*other, name]):
        message, text = data.draw(st.composite(fault)(chain))
        prints.add(fingerprint_of("unprocessable", "usage.deduct", None, message, text))
        assert fault_class(message) == name.rpartition(".")[2]
    assert len(prints) == 1


@given(st.data(), classes, classes, causes)
def test_other_exceptions_have_other_fingerprints(
    data: st.DataObject, one: str, other: str, before: list[str]
) -> None:
    prints = {
        fingerprint_of(
            "unprocessable", "usage.deduct", None, *data.draw(st.composite(fault)([*before, name]))
        )
        for name in (one, other)
    }
    assert (len(prints) == 1) == (one == other)


def raised(source: str, path: str) -> tuple[str, str]:
    """Return message and traceback, as dead letters have them, of the fault that ``f`` raises."""
    space: dict[str, Any] = {}
    exec(compile(source, path, "exec"), space)  # noqa: S102 - the sources below
    with pytest.raises(Exception, match="no 1") as caught:
        space["f"](17)
    error = caught.value
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


SOURCE = """
class OwnError(Exception): pass
def deeper(n):
    return {}[n]
def f(n):
    try:
        deeper(n)
    except KeyError as error:
        raise OwnError(f"no {n}: KeyError: nothing") from error
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [("deeper", "further_down"), ("\nclass", "\n\n\nclass"), ("f(n):", "f(n):\n    n += 1\n    n += 1")],
)
def test_real_fault_keeps_its_fingerprint_when_our_code_changes(old: str, new: str) -> None:
    before = raised(SOURCE, "/app/worker/core/rules.py")
    after = raised(SOURCE.replace(old, new), "/opt/worker/ledger/moved.py")
    assert before[1] != after[1]
    assert fault_class(before[0]) == "OwnError"
    assert len({fingerprint_of("unprocessable", None, None, *one) for one in (before, after)}) == 1


def test_cut_of_a_traceback_changes_no_fingerprint() -> None:
    message, text = raised(SOURCE, "/app/worker/core/rules.py")
    kind = ("unprocessable", None, None, message)
    assert len({fingerprint_of(*kind, text[cut:]) for cut in range(len(text))}) == 1


JOINT = "\n\nThe above exception was the direct cause of the following exception:\n\n"


def drained_fault(text: str) -> str:
    """Return the fingerprint of a drained dead letter whose fault has this text and a cause."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is any
        raise ValueError(text) from KeyError("u-17")
    return str(
        drained_from(failed(reason=failure_of(None, caught.value)), None, OWN_USERS).row["fingerprint"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 9_000,
        f"KeyError: 1{JOINT}Traceback (most recent call last):\nOSError: 2",
        f"\nZap{JOINT}Traceback (most recent call last):\nZoo: 1{JOINT}",
        "\0\ud800",
    ],
)
def test_text_of_a_fault_is_no_part_of_the_fingerprint(text: str) -> None:
    assert drained_fault(text) == drained_fault("a bug")


def test_group_of_exceptions_is_named_by_its_class() -> None:
    assert fault_class("ExceptionGroup: several (1 sub-exception)") == "ExceptionGroup"


@pytest.mark.parametrize("message", ["", "no class here", "1: 2"])
def test_message_without_a_class_names_none(message: str) -> None:
    assert fault_class(message) == ""


# -- refusals ---------------------------------------------------------------------------------------------


def refused(body: Any, limits: Limits = LIMITS) -> Malformed:
    """Return the refusal of a message, or of the first malformed item of a batch."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    malformed = first_malformed(decode(raw, now=NOW, limits=limits))
    assert malformed is not None
    return malformed


def print_of(body: Any, limits: Limits = LIMITS) -> str:
    """Return the fingerprint of the dead letter of a malformed message."""
    one = refused(body, limits)
    return fingerprint_of(one.reason, one.type, one.field, one.message, None)


def batch(item: dict[str, Any], place: int) -> dict[str, Any]:
    items = [deduct(f"i-{n}") for n in range(place)] + [item]
    return {"type": "usage.batch", "referenceId": "b", "userId": "ann", "items": items}


INVALID = [row for row in REFUSED if row[2] == "invalid_field"]


@pytest.mark.parametrize("body", [pytest.param(row[1], id=row[0]) for row in INVALID])
def test_each_text_about_an_invalid_value_names_its_rule(body: bytes) -> None:
    one = refused(body)
    assert rule_in(one.reason, one.field, one.message)


@given(st.integers(LIMITS.max_quantity + 1, 10**30), st.integers(LIMITS.max_quantity + 1, 10**30))
def test_amount_that_is_too_large_is_no_part_of_the_fingerprint(one: int, other: int) -> None:
    assert print_of(deduct("r", tokens=one)) == print_of(deduct("s", tokens=other, user="ben"))


@given(st.integers(-(10**30), -1), st.integers(-(10**30), -1))
def test_amount_that_is_too_small_is_no_part_of_the_fingerprint(one: int, other: int) -> None:
    assert print_of(deduct("r", tokens=one)) == print_of(deduct("r", tokens=other))


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_limit_is_no_part_of_the_fingerprint(one: int, other: int) -> None:
    body = deduct("r", tokens=10**9)
    assert print_of(body, Limits(max_quantity=one)) == print_of(body, Limits(max_quantity=other))


@given(st.datetimes(datetime(1900, 1, 1), datetime(2000, 1, 1)), st.integers(0, 40))  # noqa: DTZ001 - as text
def test_time_and_place_in_a_batch_are_no_part_of_the_fingerprint(at: datetime, place: int) -> None:
    bad = deduct("bad", occurredAt=f"{at.isoformat()}Z")
    first = deduct("bad", occurredAt="1999-01-01T00:00:00Z")
    assert print_of(batch(bad, place)) == print_of(batch(first, 0))


def test_further_items_are_no_part_of_the_fingerprint() -> None:
    one = refused(batch(deduct("bad", tokens=-1), 3))
    alone = fingerprint_of(one.reason, one.type, one.field, one.message, None)
    more = f"{one.message} It is one of 17 such items. 3 more are in conflict with their references."
    assert fingerprint_of(one.reason, one.type, one.field, more, None) == alone


own_names = st.from_regex(r"[a-z][a-z.0-9]{0,60}", fullmatch=True)


@given(own_names, own_names, st.integers(0, 40))
def test_names_in_metadata_are_no_part_of_the_fingerprint(one: str, other: str, place: int) -> None:
    assert print_of(deduct("r", metadata={one: [1]})) == print_of(deduct("r", metadata={other: {}}))
    items = [batch(deduct("r", metadata={name: [1]}), at) for name, at in ((one, place), (other, 0))]
    assert print_of(items[0]) == print_of(items[1])


def with_twice(name: str) -> bytes:
    """Return a message that gives a field of this name twice."""
    return json.dumps(deduct("r"))[:-1].encode() + f', "{name}": 1, "{name}": 2}}'.encode()


@given(own_names, own_names)
def test_name_that_is_given_twice_is_no_part_of_the_fingerprint(one: str, other: str) -> None:
    assert print_of(with_twice(one)) == print_of(with_twice(other))


@pytest.mark.parametrize(
    ("code", "field", "path"),
    [
        ("invalid_field", "metadata", "metadata"),
        ("invalid_field", "metadata.a.b\n1", "metadata.*"),
        ("invalid_field", "items.31.metadata.metadata.x", "items.#.metadata.*"),
        ("invalid_field", "items.31.tokens", "items.#.tokens"),
        ("duplicate_field", "a.b", "*"),
        ("duplicate_field", "metadata.a", "metadata.*"),
        ("duplicate_field", "items.3.metadata.a", "items.#.metadata.*"),
        ("duplicate_field", "items.3.a", "items.#.*"),
        ("unknown_field", "tokenz", "tokenz"),
        ("not_json", None, ""),
    ],
)
def test_field_is_a_path_without_names_of_producers(code: str, field: str | None, path: str) -> None:
    assert field_path(code, field) == path


def test_unknown_fields_and_types_keep_their_names() -> None:
    bodies = [
        deduct("r", tokenz=5),
        deduct("r", usr=5),
        deduct("r") | {"type": "a"},
        deduct("r") | {"type": "b"},
    ]
    assert len(set(map(print_of, bodies))) == len(bodies)


DIFFERENT: dict[str, Any] = {
    "too large": deduct("r", tokens=10**16),
    "too small": deduct("r", tokens=-1),
    "a fraction": deduct("r") | {"tokens": 1.5},
    "another field": deduct("r", attempt=0),
    "a missing field": {"type": "usage.deduct", "referenceId": "r", "userId": "ann"},
    "an unknown field": deduct("r", tokenz=5),
    "another type": {"type": "usage.reserve", "referenceId": "r", "userId": "ann", "tokens": -1},
    "in a batch": batch(deduct("bad", tokens=-1), 0),
    "too old": deduct("r", occurredAt="1999-01-01T00:00:00Z"),
    "in the future": deduct("r", occurredAt="2999-01-01T00:00:00Z"),
    "no time": deduct("r", occurredAt="yesterday"),
    "too long": deduct("r", user="x" * 300),
    "empty": deduct("r", user=""),
    "white space": deduct("r", user=" ann"),
}


def test_other_rules_fields_and_types_have_other_fingerprints() -> None:
    assert len({print_of(body) for body in DIFFERENT.values()}) == len(DIFFERENT)


def test_fault_and_refusal_have_different_fingerprints() -> None:
    kind = ("unprocessable", "usage.deduct", None, "KeyError: a bug")
    assert fingerprint_of(*kind, TRACEBACK) != fingerprint_of(*kind, None)


@given(st.text(), st.none() | st.text(), st.none() | st.text(), st.text(), st.none() | st.text())
def test_strangest_values_have_a_fingerprint(
    code: str, type_: str | None, field: str | None, message: str, trace: str | None
) -> None:
    assert len(fingerprint_of(code, type_, field, message, trace)) == 32
