"""Patterns of the contract: pydantic, Python's ``re`` and JavaScript take the same texts.

They differ in two kinds of text. Of characters that Unicode has not assigned its next version may make
letters: the files take them, and the worker takes them once it knows them. And no pattern says that a new id
is in NFC.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import Annotated
from unicodedata import is_normalized

import pytest
from jsonschema import Draft202012Validator
from pydantic import StringConstraints, TypeAdapter

from schemas.identifiers import IdRule
from tests.support.node import ask_script, run_script
from worker.contract.bundle import bundle
from worker.contract.characters import REFUSED
from worker.contract.patterns import translated
from worker.contract.schema import VALUES

POINTS = range(0x110000)
#: Texts around one character: it is alone (at both edges), inside, first or last.
AROUND = {"alone": ("", ""), "inside": ("a", "a"), "first": ("", "a"), "last": ("a", "")}
NAMES = ("Identifier", "StoredIdentifier", "Text")
CASES = [(name, place) for name in NAMES for place in AROUND]

JOINER, NON_JOINER, LEFT_TO_RIGHT, OVERRIDE = "\u200d", "\u200c", "\u200e", "\u202e"
#: Types of texts that are definitions of the bundle.
TEXT_TYPES = ("Identifier", "StoredIdentifier", "Label", "Text", "Currency", "GroupBy")
TEXTS = (
    *("", "a", "ada", "org/7:member 12", "a" * 64, "a" * 65, "a" * 200, "a" * 201, "a" * 500, "a" * 501),
    *("\x00", "a\x00b", "a\tb", "a\nb", "ada\n", "\nada", "ada\r", "a\x7f", "a\x85b", "\x9f", "\x1b[31m"),
    *(" ada", "ada ", " ", "a b", "\u00a0ada", "ada\u3000", "a\u2003b", "\u1680", "a\u2028b", "a\u2029"),
    *(f"a{JOINER}b", f"a{NON_JOINER}b", f"{JOINER}a", f"a{LEFT_TO_RIGHT}", f"a{OVERRIDE}b", "\u2066a\u2069"),
    *("\ufeffada", "a\u00adb", "a\u180eb", "\u061ca", "a\ufff9b", "a\U000e0041b", "\U000e0001", "a\ufe0f"),
    *(
        "a\u034fb",
        "\u115f",
        "a\u1160",
        "a\u17b4",
        "a\u180bb",
        "\u3164",
        "a\uffa0",
        "a\U000e0100",
        "no\u00a0break",
    ),
    *(
        "é",
        "e\u0301",
        "Ω",
        "株式会社",
        "عربى",
        "😀",
        "👩\u200d👩\u200d👧",
        "\U00020000",
        "\U0001f1e9\U0001f1ea",
    ),
    *("😀" * 64, "😀" * 65, "😀" * 200, "😀" * 201, "😀" * 500, "😀" * 501, "a😀", "😀 "),
    *("\ue000", "a\uf8ffb", "\U000f0000", "\U0010fffd", "\ufdd0", "a\ufffe", "\uffff", "\U0001ffff"),
    *("\ud800", "a\udfffb", "\ude00\ud83d", "USD", "usd", "US", "USDT", "USD\n", "ＵＳＤ", "U5D", "ÜSD"),
    *("day", "type", "feature", "month", "day ", "metadata.plan", "metadata.", "metadata.a b", "metadata.é"),
    *(f"metadata.{'k' * 64}", f"metadata.{'k' * 65}", "metadata.a\u200db", "metadata.\u3000", "xday"),
)


def is_taken(name: str, text: str) -> bool:
    is_valid = TypeAdapter(VALUES[name]).validator.isinstance_python(text)
    return is_valid and (name != "Identifier" or IdRule().fault(text) is None)


def is_normal(name: str, text: str) -> bool:
    return name != "Identifier" or is_normalized("NFC", text)


def ranges(points: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


@cache
def unassigned() -> frozenset[int]:
    """Return the unassigned code points by pydantic's Unicode, which the worker judges by."""
    takes = TypeAdapter(Annotated[str, StringConstraints(pattern=r"^\p{Cn}$")]).validator.isinstance_python
    return frozenset(point for point in POINTS if takes(chr(point)))


def refused_for_ever() -> frozenset[int]:
    return frozenset(point for first, last in REFUSED["C"] for point in range(first, last + 1))


@cache
def taken_in_python(name: str, place: str) -> list[list[int]]:
    """Return the ranges of characters that the file's pattern takes: a million numbers are not kept."""
    schema = bundle()["$defs"][name]
    pattern, refused = re.compile(schema["pattern"]), re.compile(schema["not"]["pattern"])
    before, after = AROUND[place]
    texts = ((point, before + chr(point) + after) for point in POINTS)
    return ranges(point for point, text in texts if pattern.search(text) and not refused.search(text))


@pytest.mark.parametrize(("name", "place"), CASES)
def test_file_takes_what_the_worker_takes_and_unassigned_characters(name: str, place: str) -> None:
    before, after = AROUND[place]
    takes, rule = TypeAdapter(VALUES[name]).validator.isinstance_python, IdRule()
    by_worker = {point for point in POINTS if takes(before + chr(point) + after)}
    if name == "Identifier":
        by_worker = {point for point in by_worker if rule.fault(before + chr(point) + after) is None}
    by_file = {point for first, last in taken_in_python(name, place) for point in range(first, last + 1)}
    # For people unassigned characters are text, in both.
    expected = set() if name == "Text" else unassigned() - refused_for_ever()
    if name == "Identifier":
        expected |= {point for point in by_file if not is_normalized("NFC", before + chr(point) + after)}
    assert by_worker <= by_file
    assert by_file - by_worker == expected


def test_javascript_takes_the_same_characters_as_python() -> None:
    asked = [
        [AROUND[place][0], bundle()["$defs"][name]["pattern"], AROUND[place][1]] for name, place in CASES
    ]
    for (name, place), found in zip(CASES, run_script("characters.mjs", asked), strict=True):
        assert found == taken_in_python(name, place), (name, place)


def test_worker_and_both_validators_take_the_same_texts() -> None:
    schema = bundle()
    cases = [(name, text) for name in TEXT_TYPES for text in TEXTS if is_normal(name, text)]
    checks = [[f"#/$defs/{name}", text] for name, text in cases]
    answers = ask_script("validate.mjs", {"schema": schema, "formats": False, "checks": checks})
    for (name, text), error in zip(cases, answers, strict=True):
        here = Draft202012Validator({**schema["$defs"][name]}).is_valid(text)
        assert here == (error is None) == is_taken(name, text), (name, ascii(text))


@pytest.mark.parametrize("pattern", ["abc", "^abc", r"^\p{Lu}$", r"^\w+$", r"^a(?=b)$", r"^[\p{C}]$"])
def test_pattern_that_not_every_language_takes_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        translated(pattern)
