"""Readable forms of a message's body: JSON where that hides nothing, text, or a hex dump."""

from dataclasses import dataclass
from typing import Literal

from worker.console.formats import visible
from worker.deadletters.body_text import pretty_json

#: Bytes of a body on a page, at most; the download has it all.
SHOWN_MAX = 64 * 1024
_HEX_MAX = 4 * 1024
_LINE = 16


@dataclass(frozen=True, slots=True)
class Readable:
    """Readable form of a body; ``omitted`` bytes of it are left out."""

    kind: Literal["json", "text", "hex", "empty"]
    text: str
    size: int
    omitted: int = 0


def readable(body: bytes) -> Readable:
    """Return the most readable form that hides nothing of ``body``."""
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


def from_form(text: str) -> bytes:
    """Return an edited text as bytes, with LF instead of a form's CRLF."""
    return text.replace("\r\n", "\n").encode()


def hex_dump(body: bytes) -> str:
    """Return lines of offset, bytes and characters; a star stands for repeated lines."""
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
