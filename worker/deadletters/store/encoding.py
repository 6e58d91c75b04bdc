"""Values from the wire in a form that both databases keep: text without NUL, JSON with type marks."""

import base64
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any

from worker.messages.dead_letters import encodable

_LEVELS_MAX = 32
_INDEXED, _NAME_MAX = frozenset(("letter_id", "reason", "type", "reference_id", "user_id")), 500


def clean(value: Any) -> Any:
    """Return text that PostgreSQL can store: no NUL, no half of a surrogate pair. Other values stay."""
    if not isinstance(value, str):
        return value
    return encodable(value).replace("\0", "\\x00")


def indexable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its names no longer than an index takes; only a forger sends longer ones."""
    return {
        name: value[:_NAME_MAX] if name in _INDEXED and value is not None else value
        for name, value in row.items()
    }


def kept(value: Any, levels: int = _LEVELS_MAX) -> Any:
    """Return ``value`` as JSON, marked where JSON has no such type or PostgreSQL can't store it.

    Values nested deeper than ``levels`` are left out: one dead letter must not stop the drain.
    """
    if levels == 0:
        return {"$left_out": "nested too deeply"}
    match value:
        case Mapping() if all(isinstance(name, str) and _is_plain(name) for name in value):
            return {name: kept(item, levels - 1) for name, item in value.items()}
        case Mapping():
            return {"$table": [[kept(name), kept(item, levels - 1)] for name, item in value.items()]}
        case list() | tuple():
            return [kept(item, levels - 1) for item in value]
        case str() if value != clean(value):
            return {"$text": _base64(value.encode("utf-8", "surrogatepass"))}
        case bytes() | bytearray() | memoryview():
            return {"$bytes": _base64(bytes(value))}
        case datetime():
            return {"$time": value.isoformat()}
        case Decimal():
            return {"$decimal": str(value)}
        case float() if not isfinite(value):
            return {"$float": str(value)}
        case _:
            return value


def restored(value: Any) -> Any:
    """Return the value that ``kept`` was given."""
    match value:
        case {"$table": pairs}:
            return {restored(name): restored(item) for name, item in pairs}
        case {"$text": text}:
            return base64.b64decode(text).decode("utf-8", "surrogatepass")
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$time": text}:
            return datetime.fromisoformat(text)
        case {"$decimal": text}:
            return Decimal(text)
        case {"$float": text}:
            return float(text)
        case dict():
            return {name: restored(item) for name, item in value.items()}
        case list():
            return [restored(item) for item in value]
        case _:
            return value


def _is_plain(name: str) -> bool:
    return name == clean(name) and not name.startswith("$")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
