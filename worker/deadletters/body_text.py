"""Bodies for people: JSON pretty-printed where that hides nothing, and bodies that an editor keeps intact."""

import json
from typing import Any

#: Deepest nesting that is pretty-printed: each line is indented by its depth, and a body of 256 KiB could
#: become hundreds of megabytes.
_DEPTH_MAX = 24


def pretty_json(body: bytes) -> str | None:
    """Return the JSON of ``body`` on several lines; None where writing it anew would show something else.

    Invisible characters are written as JSON escapes them, which means the same.
    """
    try:
        pretty = json.dumps(read_exactly(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    if pretty.replace("\n", "").isprintable():
        return pretty
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in pretty)


def editable(body: bytes) -> str | None:
    """Return ``body`` as text for an editor or a form; None where these would give back other bytes.

    They end lines in their own way (a form always in CR LF), so that JSON is edited in its pretty form, and
    other text only where LF alone ends its lines.
    """
    if (pretty := pretty_json(body)) is not None and "\r" not in pretty:
        return pretty
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\n\t" for char in text) else None


def read_exactly(body: bytes) -> Any:
    """Return the JSON of ``body``. Raises ValueError where it would look different when written anew.

    It is read as a worker reads it, UTF-8 without a byte order mark: a refused body must not look fine.
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
    """Raise ValueError for a value that would grow out of all proportion on lines of its own."""
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
