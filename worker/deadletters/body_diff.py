"""Differences of two bodies, line by line, for people."""

from dataclasses import dataclass
from difflib import unified_diff
from typing import Literal

from worker.deadletters.body_text import pretty_json

#: Lines of context around a change, and most lines of one diff.
_AROUND, LINES_MAX = 2, 80
_HEAD = 2


@dataclass(frozen=True, slots=True)
class DiffLine:
    """Line of a diff; ``place`` is a line number between two parts that are far apart."""

    kind: Literal["same", "removed", "added", "place"]
    text: str


_KINDS: dict[str, Literal["same", "removed", "added", "place"]] = {
    " ": "same",
    "-": "removed",
    "+": "added",
    "@": "place",
}


def diff_of(before: bytes, after: bytes) -> tuple[DiffLine, ...]:
    """Return the lines that differ, with their neighbours; of a long diff the first lines."""
    lines = unified_diff(_lines(before), _lines(after), lineterm="", n=_AROUND)
    found = [DiffLine(_KINDS[line[0]], line[1:]) for line in list(lines)[_HEAD:]]
    if found and found[0].kind == "place":
        found = found[1:]
    return tuple(found[:LINES_MAX])


def _lines(body: bytes) -> list[str]:
    pretty = pretty_json(body)
    return (body.decode("utf-8", "backslashreplace") if pretty is None else pretty).split("\n")
