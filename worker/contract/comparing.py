"""Comparison of two JSON Schemas: wider, narrower, or other than before, field by field.

It knows the keywords that the contract's files use. Of a keyword that it can't order, such as a pattern, any
change is "other".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from worker.contract.holding import holds
from worker.contract.schema import DEFINITIONS, Schema, values

Definitions = Mapping[str, Schema]


class Shift(StrEnum):
    """Relation of the values that a schema takes now to those that it took."""

    WIDER = "wider"
    NARROWER = "narrower"
    ANNOUNCED = "announced"  #: narrower, on purpose: see ``_is_announced``
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference at a place, such as ``usage.deduct.tokens``."""

    place: str
    shift: Shift
    text: str


_LOWER: Final = ("minimum", "minLength", "minItems")
_UPPER: Final = ("maximum", "maxLength", "maxItems", "maxProperties")
_INSIDE: Final = ("items", "propertyNames")
_CHOICES: Final = ("anyOf", "oneOf")
_REMARKS: Final = ("description", "title", "$comment", "examples")
_ORDERED: Final = frozenset(
    {*_LOWER, *_UPPER, *_INSIDE, *_REMARKS}
    | {"$ref", "type", "const", "enum", "exclusiveMinimum", "properties", "required"}
    | {"additionalProperties", "default"}
)


class Comparison:
    """Comparison of schemas of two documents, each with its definitions."""

    def __init__(self, old: Definitions, new: Definitions) -> None:
        self._old, self._new = old, new
        self._seen: set[tuple[str, str]] = set()

    def of(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        """Yield the differences between two schemas."""
        names = old.get("$ref", ""), new.get("$ref", "")
        if all(names):
            if names in self._seen:
                return  # a reply holds replies
            self._seen.add(names)
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if _is_choice(old) or _is_choice(new):
            yield from self._choices(place, old, new)
        else:
            yield from self._one(place, old, new)
        self._seen.discard(names)

    def _choices(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        before, after = _by_type(old, self._old), _by_type(new, self._new)
        for name in sorted(before.keys() - after.keys()):
            yield Difference(place, Shift.NARROWER, f"{name} is not taken any more")
        for name in sorted(after.keys() - before.keys()):
            yield Difference(place, Shift.WIDER, f"{name} is taken as well")
        for name in sorted(before.keys() & after.keys()):
            yield from self.of(place, before[name], after[name])
        yield from _default(place, old, new)

    def _one(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        yield from _values(place, old, new)
        yield from _bounds(place, old, new)
        yield from _default(place, old, new)
        yield from self._unordered(place, old, new)
        yield from self._fields(place, old, new)
        for keyword in _INSIDE:
            yield from self._inside(place, old.get(keyword), new.get(keyword), keyword)
        yield from self._others(place, old, new)

    def _unordered(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        for keyword in sorted((old.keys() | new.keys()) - _ORDERED):
            if keyword not in old and holds(keyword, new[keyword], old, self._resolved_of_old):
                continue  # every old message keeps it; what is taken beside them is told by the fields
            if keyword not in old or keyword not in new:
                yield Difference(place, *_appeared(keyword, is_new=keyword not in old))
            elif old[keyword] != new[keyword]:
                shift = Shift.ANNOUNCED if _is_announced(old[keyword], new[keyword]) else Shift.OTHER
                yield Difference(place, shift, f"{keyword} is another one")

    def _resolved_of_old(self, schema: Schema) -> Schema:
        return _resolved(schema, self._old)

    def _inside(
        self, place: str, old: Schema | None, new: Schema | None, keyword: str
    ) -> Iterator[Difference]:
        if old is not None and new is not None:
            yield from self.of(f"{place}[]", old, new)
        elif old is not new:
            yield Difference(place, *_appeared(keyword, is_new=old is None))

    def _fields(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before.keys() - after.keys():
            yield Difference(_join(place, name), *_gone(old))
        for name in after.keys() - before.keys():
            yield Difference(_join(place, name), *_added(new, is_required=name in new.get("required", ())))
        for name in (name for name in before if name in after):
            was, is_ = (name in one.get("required", ()) for one in (old, new))
            if was != is_:
                yield Difference(_join(place, name), *_required(is_required=is_))
            yield from self.of(_join(place, name), before[name], after[name])

    def _others(self, place: str, old: Schema, new: Schema) -> Iterator[Difference]:
        before, after = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self.of(f"{place}.*", before, after)
        elif before != after and (before is True or after is False):
            yield Difference(place, Shift.NARROWER, "other fields are limited now")
        elif before != after:
            yield Difference(place, Shift.WIDER, "other fields are not limited any more")


# -- choices ----------------------------------------------------------------------------------------------


def _is_announced(old: Any, new: Any) -> bool:
    """Return True for the rule of new ids in place of the earlier one.

    It refuses look-alikes, of which there should be none; ids that a ledger has go on. The changelog says so.
    """
    return bool((old, new) == tuple(values()[name]["pattern"] for name in ("StoredIdentifier", "Identifier")))


def _resolved(schema: Schema, definitions: Definitions) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix(DEFINITIONS)]
    choices = schema.get("anyOf", [])
    # A code of an open set is any string; the set itself is compared by its name.
    return {"type": "string"} if {"type": "string"} in choices else schema


def _is_choice(schema: Schema) -> bool:
    """Return True for a choice of values; beside fields, ``anyOf`` is a rule between them."""
    return "properties" not in schema and any(keyword in schema for keyword in _CHOICES)


def _by_type(schema: Schema, definitions: Definitions) -> dict[str, Schema]:
    choices: Iterable[Schema] = next((schema[name] for name in _CHOICES if name in schema), [schema])
    return {_type_of(_resolved(choice, definitions)): choice for choice in choices}


def _type_of(schema: Schema) -> str:
    message: str = schema.get("properties", {}).get("type", {}).get("const", "")
    return message or str(schema.get("type"))


# -- one value --------------------------------------------------------------------------------------------


def _values(place: str, old: Schema, new: Schema) -> Iterator[Difference]:
    if old.get("type") != new.get("type"):
        yield Difference(place, *_type_changed(old.get("type"), new.get("type")))
    before, after = _enumerated(old), _enumerated(new)
    if before is None or after is None:
        if before is not after:
            yield Difference(place, *_appeared("a set of values", is_new=before is None))
        return
    for value in [one for one in before if one not in after]:
        yield Difference(place, Shift.NARROWER, f"the value {value!r} is gone")
    for value in [one for one in after if one not in before]:
        yield Difference(place, Shift.WIDER, f"the value {value!r} is new")


def _type_changed(before: Any, after: Any) -> tuple[Shift, str]:
    text = f"the type was {before} and is {after}"
    if before is None or (before, after) == ("number", "integer"):
        return Shift.NARROWER, text
    if after is None or (before, after) == ("integer", "number"):
        return Shift.WIDER, text
    return Shift.OTHER, text


def _enumerated(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _bounds(place: str, old: Schema, new: Schema) -> Iterator[Difference]:
    for keyword in (*_LOWER, *_UPPER):
        before, after = _bound(old, keyword), _bound(new, keyword)
        if before != after:
            shift = Shift.NARROWER if (after > before) == (keyword in _LOWER) else Shift.WIDER
            yield Difference(place, shift, f"{keyword} was {_shown(before)} and is {_shown(after)}")


def _bound(schema: Schema, keyword: str) -> float:
    if keyword == "minimum" and "exclusiveMinimum" in schema:
        return int(schema["exclusiveMinimum"]) + 1  # of whole numbers
    none = float("-inf") if keyword in _LOWER else float("inf")
    bound: float = schema.get(keyword, none)
    return bound


def _shown(bound: float) -> str:
    return str(bound) if abs(bound) != float("inf") else "none"


def _default(place: str, old: Schema, new: Schema) -> Iterator[Difference]:
    if "default" in old and old["default"] != new.get("default"):
        yield Difference(place, Shift.OTHER, f"the default was {old['default']} and is {new.get('default')}")


def _appeared(keyword: str, *, is_new: bool) -> tuple[Shift, str]:
    if is_new:
        return Shift.NARROWER, f"{keyword} limits it now"
    return Shift.WIDER, f"{keyword} limits it no more"


# -- fields -----------------------------------------------------------------------------------------------


def _is_closed(schema: Schema) -> bool:
    return schema.get("additionalProperties") is False


def _gone(old: Schema) -> tuple[Shift, str]:
    return Shift.NARROWER if _is_closed(old) else Shift.WIDER, "the field is gone"


def _added(new: Schema, *, is_required: bool) -> tuple[Shift, str]:
    if _is_closed(new) and not is_required:
        return Shift.WIDER, "the field is new"
    return Shift.NARROWER, "the field is new" + (" and required" if is_required else "")


def _required(*, is_required: bool) -> tuple[Shift, str]:
    if is_required:
        return Shift.NARROWER, "the field is required now"
    return Shift.WIDER, "the field may be absent now"


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
