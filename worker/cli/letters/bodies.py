"""Bodies for people: pretty where that hides nothing, as text where they are text, hexadecimal where not."""

import json
from typing import Any

from worker.cli.output import printable

_HEX_SHOWN = 4_096


def readable(body: bytes) -> str:
    """The body as a terminal may show it."""
    pretty = pretty_of(body)
    if pretty is not None:
        return lines(pretty)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(line.isprintable() for line in text.split("\n")):  # as broken JSON of several lines is
        return text
    left = len(body) - _HEX_SHOWN
    more = f"\n… and {left:,} bytes more, see `billing-worker dead-letters export`" if left > 0 else ""
    return body[:_HEX_SHOWN].hex(" ", 2) + more


def pretty_of(body: bytes) -> str | None:
    """The body's JSON on several lines; None where writing it anew would show something else."""
    try:
        return json.dumps(_exactly(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _exactly(body: bytes) -> Any:
    """The JSON of ``body``; raises ValueError where writing it anew would show something else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    def as_written(number: str) -> float:
        if str(float(number)) != number:
            raise ValueError("a number would look different")
        return float(number)

    return json.loads(body, object_pairs_hook=unique, parse_float=as_written)


def lines(text: str) -> str:
    """Several lines that a terminal shows and doesn't obey."""
    return "\n".join(map(printable, text.split("\n")))


def editable(body: bytes) -> str | None:
    """The body as an editor may have it and give it back; None for bytes that no editor keeps."""
    pretty = pretty_of(body)
    if pretty is not None and _is_encodable(pretty):
        return pretty
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    # Editors end lines and files in their own way.
    is_kept = all(char.isprintable() or char in "\n\t" for char in text)
    return text if is_kept else None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
