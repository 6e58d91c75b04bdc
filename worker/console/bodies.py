"""A message's body as a person may read it: as JSON where that hides nothing, as text, or byte by byte."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from worker.console.formats import visible

#: More than this of a body is not put on a page; the download has it all.
SHOWN_MAX = 64 * 1024
_HEX_MAX = 4 * 1024
_LINE = 16
#: JSON that is nested deeper is shown as it is: each line is indented by its depth, and a body of 256 KiB
#: could become hundreds of megabytes.
_DEPTH_MAX = 24


@dataclass(frozen=True, slots=True)
class Readable:
    """What of a body is shown; ``omitted`` bytes of it are not."""

    kind: Literal["json", "text", "hex", "empty"]
    text: str
    size: int
    omitted: int = 0


def readable(body: bytes) -> Readable:
    """The most readable form that hides nothing of ``body``."""
    if not body:
        return Readable("empty", "", 0)
    if (pretty := pretty_json(body)) is not None:
        return _cut("json", pretty, len(body))
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(char.isprintable() or char in "\r\n\t" for char in text):
        return _cut("text", text, len(body))
    return Readable("hex", hex_dump(body[:_HEX_MAX]), len(body), max(len(body) - _HEX_MAX, 0))


def pretty_json(body: bytes) -> str | None:
    """The JSON of ``body`` on lines of its own; None where writing it anew would show something else.

    What nobody can see in a text of it is written as JSON escapes it, which means the same.
    """
    try:
        pretty = json.dumps(_exactly(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    if pretty.replace("\n", "").isprintable():
        return pretty
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in pretty)


def editable(body: bytes) -> str | None:
    """``body`` as text for a form; None where a browser would give back other bytes.

    A form's lines end in CR LF whatever was in it, so that JSON is edited in its pretty form, and other text
    only where its lines are told by LF.
    """
    if (pretty := pretty_json(body)) is not None and "\r" not in pretty:
        return pretty
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\n\t" for char in text) else None


def from_form(text: str) -> bytes:
    """What was edited, as bytes: the line ends of forms become those of text."""
    return text.replace("\r\n", "\n").encode()


def hex_dump(body: bytes) -> str:
    """Place, bytes and characters; lines that repeat the one above are told by a star."""
    shown: list[str] = []
    before, is_starred = None, False
    for place in range(0, len(body), _LINE):
        piece = body[place : place + _LINE]
        if piece == before:
            if not is_starred:
                shown.append("*")
            is_starred = True
            continue
        before, is_starred = piece, False
        characters = "".join(chr(octet) if 32 <= octet < 127 else "·" for octet in piece)
        shown.append(f"{place:08x}  {piece.hex(' '):<{3 * _LINE - 1}}  {characters}")
    return "\n".join(shown)


def _cut(kind: Literal["json", "text"], text: str, size: int) -> Readable:
    shown = visible(text[:SHOWN_MAX])
    return Readable(kind, shown, size, max(len(text) - SHOWN_MAX, 0))


def _exactly(body: bytes) -> Any:
    """The JSON of ``body``; raises ValueError where it would look different when it is written anew.

    As a worker reads it: UTF-8 without a mark in front, so that what is refused for that does not look fine.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    def as_written(number: str) -> float:
        if str(float(number)) != number:
            raise ValueError("a number would look different")
        return float(number)

    def whole(number: str) -> int:
        if number == "-0":
            raise ValueError("a number would look different")
        return int(number)

    found = json.loads(body.decode(), object_pairs_hook=unique, parse_float=as_written, parse_int=whole)
    _refuse_deep(found)
    return found


def _refuse_deep(value: Any) -> None:
    """Raises ValueError for what can't be set out by lines without growing out of all proportion."""
    level: list[Any] = [value]
    for _ in range(_DEPTH_MAX):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("nested too deep")
