"""Rules between fields that hold of every object that another schema takes.

A new rule limits nothing where each message of the old form keeps it: a field that was required and is now
one of two is still given, and the other one was not known. What is unknown counts as a limit.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from worker.contract.schema import Schema

#: Follows a reference to its definition.
Resolve = Callable[[Schema], Schema]
#: True and False are certain; None is unknown.
Truth = bool | None

_NULL: Final[Schema] = {"type": "null"}
_RULES: Final = frozenset({"anyOf", "oneOf", "allOf"})


def holds(keyword: str, rule: Any, old: Schema, resolve: Resolve) -> bool:
    """Return True where every object that ``old`` takes keeps the rule ``{keyword: rule}``, for certain."""
    return keyword in _RULES and _truth({keyword: rule}, old, resolve) is True


def _truth(rule: Schema, old: Schema, resolve: Resolve) -> Truth:
    return _all(_truth_of(keyword, value, old, resolve) for keyword, value in rule.items())


def _truth_of(keyword: str, value: Any, old: Schema, resolve: Resolve) -> Truth:
    match keyword:
        case "required":
            return _all(_is_present(name, old) for name in value)
        case "properties":
            return _all(_fits(name, one, old, resolve) for name, one in value.items())
        case "allOf":
            return _all(_truth(one, old, resolve) for one in value)
        case "anyOf":
            return _any(_truth(one, old, resolve) for one in value)
        case "oneOf":
            return _one([_truth(one, old, resolve) for one in value])
    return None


def _is_present(name: str, old: Schema) -> Truth:
    if name in old.get("required", ()):
        return True
    is_unknown_field = name not in old.get("properties", {})
    return False if is_unknown_field and old.get("additionalProperties") is False else None


def _fits(name: str, rule: Schema, old: Schema, resolve: Resolve) -> Truth:
    """Return whether a field keeps its part of a rule, also by being absent."""
    is_present = _is_present(name, old)
    if is_present is False or rule == {}:
        return True
    is_null = _is_null(old.get("properties", {}).get(name, {}), resolve)
    if is_null is None or rule not in (_NULL, {"not": _NULL}):
        return None
    is_kept = is_null == (rule == _NULL)
    return True if is_kept else False if is_present else None


def _is_null(value: Schema, resolve: Resolve) -> Truth:
    """Return whether a value of this schema is null: always, never, or unknown."""
    value = resolve(value)
    if "anyOf" in value:
        found = {_is_null(one, resolve) for one in value["anyOf"]}
        return found.pop() if len(found) == 1 else None
    kind = value.get("type")
    return kind == "null" if isinstance(kind, str) else None


# -- three values -----------------------------------------------------------------------------------------


def _all(truths: Iterable[Truth]) -> Truth:
    found = set(truths)
    return False if False in found else None if None in found else True


def _any(truths: Iterable[Truth]) -> Truth:
    found = set(truths)
    return True if True in found else None if None in found else False


def _one(truths: list[Truth]) -> Truth:
    if truths.count(True) > 1:
        return False
    return None if None in truths else True in truths
