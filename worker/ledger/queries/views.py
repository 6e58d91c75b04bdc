"""Base of all answers: frozen, and with the same JSON for every caller."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class View:
    """Answer of the read side. ``to_dict`` is its form for JSON, the same for every view."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, in their order, named in camelCase; times are RFC 3339 and days ISO 8601."""
        return {to_camel(field.name): _json_value(getattr(self, field.name)) for field in fields(self)}


def _json_value(value: Any) -> Any:
    match value:
        case View():
            return value.to_dict()
        case datetime():
            return stamp(value)
        case date():
            return value.isoformat()
        case Mapping():  # its keys are data (a feature, a currency), so they stay as they are
            return {key: _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
    return value


def stamp(moment: datetime) -> str:
    """Return a time in UTC as RFC 3339."""
    return moment.isoformat().replace("+00:00", "Z")
