"""Plain words in the code: first lines of docstrings, identifiers, file names and names of tests.

An exception needs a reason in a comment on its line: ``# word: a column of the database``.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest

from tests.support.source_files import FOLDERS, SourceFile, source_files

WORDS_MAX = 20
TEST_NAME_MAX = 80
EXCEPTION = "# word: "

RIDDLES = re.compile(
    r"(what|who|how|where|when)(ever)?\b|(whom|whose|whether|why|that|which)\b", re.IGNORECASE
)
#: Words that name nothing of the field, and what to write instead.
RETIRED = {
    "office": "service",
    "desk": "transaction",
    "parker": "drainer",
    "flood": "dead-letter limit",
    "flooded": "paused",
    "suspect": "poison message",
    "suspects": "poison messages",
    "verdict": "outcome, result",
    "verdicts": "outcomes, results",
    "story": "history",
    "stories": "histories, cases",
    "book": "account, post",
    "books": "ledger transaction",
    "correspondence": "replies",
    "dispatch": "publisher",
    "surroundings": "services",
    "told": "replied, notified",
    "tell": "reply, notify",
    "tells": "replies, notifies",
    "stake": "tokens affected",
}
#: Columns, headers and codes: their names stay.
STORED = {"letter_id", "replay_letter", "tokens_at_stake", "config_suspect"}
#: Several words that are retired together.
PHRASE_NAMES = {"lay_down": "write, create", "kept_back": "held"}
INVERTED = re.compile(
    r"test_(what|whatever|who|whoever|whom|whose|how|whether|where|when|why|that|which"
    r"|of|to|nobody|nothing|not|no_sooner|never)_"
)
PHRASES = ("all_the_same", "in_peace", "is_no_matter", "stands_there", "comes_of_it", "what_stands")
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Offence(NamedTuple):
    """Place of an offence, its kind, and the offending text."""

    path: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}: {self.text[:110]}"


def offences(file: SourceFile) -> Iterator[Offence]:
    """Yield the offences of a file that no comment on the line excuses."""
    for line, kind, text in _offences(file):
        if EXCEPTION not in file.line(line):
            yield Offence(file.path, line, kind, text)


def _offences(file: SourceFile) -> Iterator[tuple[int, str, str]]:
    stem = file.path.rpartition("/")[2].removesuffix(".py")
    for instead in retired(stem):
        yield 1, "retired file name", f"{stem}: say {instead}"
    for node in file.nodes:
        if isinstance(node, ast.Module | _Named):
            yield from _in_docstring(node)
        for line, name in _identifiers(node):
            for instead in retired(name):
                yield line, "retired name", f"{name}: say {instead}"
        if isinstance(node, _Named) and node.name.startswith("test_"):
            yield from _in_test_name(node)


def _in_docstring(node: ast.Module | _Named) -> Iterator[tuple[int, str, str]]:
    text = ast.get_docstring(node)
    if not text:
        return
    line = node.body[0].lineno
    sentence = _SENTENCE_END.split(text.strip(), maxsplit=1)[0].replace("\n", " ")
    if RIDDLES.match(sentence):
        yield line, "riddle", sentence
    if max(len(sentence.split()), len(text.splitlines()[0].split())) > WORDS_MAX:
        yield line, "long docstring line", sentence


def _in_test_name(node: _Named) -> Iterator[tuple[int, str, str]]:
    if INVERTED.match(node.name):
        yield node.lineno, "inverted test name", node.name
    if any(phrase in node.name for phrase in PHRASES):
        yield node.lineno, "riddle in a test name", node.name
    if len(node.name) > TEST_NAME_MAX:
        yield node.lineno, "long test name", node.name


def _identifiers(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a node gives: classes, functions, parameters, variables and attributes."""
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.lineno, node.name
        case ast.arg():
            yield node.lineno, node.arg
        case ast.Name(ctx=ast.Store()):
            yield node.lineno, node.id
        case ast.Attribute(ctx=ast.Store()):
            yield node.lineno, node.attr
        case ast.alias(asname=str(name)):
            yield node.lineno, name
        case _:
            pass


@cache
def retired(name: str) -> tuple[str, ...]:
    """Return the plain words for the retired ones in a name."""
    if name.lower().strip("_") in STORED:
        return ()
    words = [word.lower() for word in _CAMEL.findall(name)]
    found = [RETIRED[word] for word in words if word in RETIRED]
    for before, word in pairwise(["", *words]):
        if word in ("letter", "letters") and before != "dead":
            found.append(f"dead {word}")
    joined = "_".join(words)
    return (*found, *(instead for phrase, instead in PHRASE_NAMES.items() if phrase in joined))


@pytest.mark.parametrize("folder", FOLDERS)
def test_code_uses_plain_words(folder: str) -> None:
    found = [
        offence for file in source_files() if file.path.startswith(f"{folder}/") for offence in offences(file)
    ]

    assert not found, "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('"""What the worker does."""', "riddle"),
        ('def f():\n    """Whether it is."""', "riddle"),
        ('class C:\n    """\n    How: so.\n    """', "riddle"),
        (f'"""Return {"very " * 20}much."""', "long docstring line"),
        (f'"""Return {"very " * 9}\n{"very " * 11}much."""', "long docstring line"),
        ("class DeadLetterOffice: ...", "retired name"),
        ("def letter_of(x): ...", "retired name"),
        ("def f(parked_letter): ...", "retired name"),
        ("letters = []", "retired name"),
        ("self.told = 1", "retired name"),
        ("import x as books", "retired name"),
        ("lay_down = 1", "retired name"),
        ("def test_what_is_left_is_kept(): ...", "inverted test name"),
        ("def test_nobody_waits(): ...", "inverted test name"),
        ("def test_worker_ends_in_peace(): ...", "riddle in a test name"),
        (f"def test_{'very_' * 16}long(): ...", "long test name"),
    ],
)
def test_checker_finds_each_kind_of_offence(text: str, kind: str) -> None:
    assert [offence.kind for offence in offences(SourceFile.parse("worker/x.py", text))] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        '"""Return the lots of an account in burn order."""',
        '"""Whoever: """  # word: a quotation',
        "dead_letters = DeadLetters()",
        "letter_id = 1",
        "table.c.letter_id == other.told",
        "def test_redelivered_command_gets_its_first_reply(): ...",
    ],
)
def test_checker_accepts_plain_words_and_excused_lines(text: str) -> None:
    assert list(offences(SourceFile.parse("worker/x.py", text))) == []


def test_checker_finds_retired_file_names() -> None:
    (offence,) = offences(SourceFile.parse("worker/books.py", ""))

    assert str(offence) == "worker/books.py:1: retired file name: books: say ledger transaction"
