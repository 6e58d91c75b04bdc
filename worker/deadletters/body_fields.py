"""Changes of the fields of a JSON body: set, rename and drop, by dotted paths. Pure.

A path is names between dots: ``metadata.job``. A number names an item of a list, ``*`` all of them, and
``\\.`` is a dot within a name. Fields are dropped first, then renamed, then set.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from worker.deadletters.body_text import read_exactly
from worker.errors import QueryError

#: Most changes of one edit, and most names of one path.
CHANGES_MAX, _DEPTH_MAX = 20, 16
_EACH = "*"
_BETWEEN = re.compile(r"(?<!\\)\.")
_LOOKS_LIKE_JSON = ('"', "{", "[")

#: Names and numbers from the outside in.
Path = tuple[str, ...]


class NotApplicableError(Exception):
    """A body to which the changes can't be made; the text says why."""


def path_in(text: str) -> Path:
    """Return the path that ``text`` writes. Raises QueryError."""
    names = tuple(name.replace("\\.", ".") for name in _BETWEEN.split(text.strip()))
    if not all(names) or len(names) > _DEPTH_MAX:
        raise QueryError(
            f"{text[:60]!r} is no field: give its name, or up to {_DEPTH_MAX} names with dots between them, "
            "such as metadata.job or items.*.tokens"
        )
    return names


def shown_path(path: Path) -> str:
    """Return the path as it is written."""
    return ".".join(name.replace(".", "\\.") for name in path)


def value_in(text: str) -> Any:
    """Return the value that ``text`` writes: JSON where it is JSON, else the text itself.

    Raises QueryError for a text that begins like JSON and isn't, and for a number that JSON does not have.
    """
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        if text.lstrip().startswith(_LOOKS_LIKE_JSON):
            raise QueryError(
                f"{text[:60]!r} begins like JSON and isn't: correct it, or write a text as JSON, "
                f"{json.dumps(text[:60])}"
            ) from None
        return text
    if isinstance(value, float) and not isfinite(value):
        raise QueryError(f"{text[:60]!r} is a larger number than JSON's readers take")
    return value


def _no_json(constant: str) -> Any:
    raise ValueError(constant)


@dataclass(frozen=True, slots=True)
class BodyChanges:
    """Fields to drop, to rename (old path, new path), and to set, in this order."""

    drops: tuple[Path, ...] = ()
    renames: tuple[tuple[Path, Path], ...] = ()
    sets: tuple[tuple[Path, Any], ...] = ()

    @classmethod
    def read(
        cls, *, sets: Sequence[str] = (), renames: Sequence[str] = (), drops: Sequence[str] = ()
    ) -> Self:
        """Return the changes of ``field=value``, ``old=new`` and ``field``. Raises QueryError."""
        changes = cls(
            drops=tuple(map(path_in, drops)),
            renames=tuple((path_in(old), path_in(new)) for old, new in _pairs(renames, "old=new")),
            sets=tuple((path_in(name), value_in(value)) for name, value in _pairs(sets, "field=value")),
        )
        count = len(changes.drops) + len(changes.renames) + len(changes.sets)
        if not 0 < count <= CHANGES_MAX:
            raise QueryError(
                f"an edit of a set takes 1 to {CHANGES_MAX} changes: fields to set, rename or drop"
            )
        for old, new in changes.renames:
            if new[: len(old)] == old and new != old:
                raise QueryError(f"{shown_path(old)!r} can't become a part of itself")
            if new.count(_EACH) > old.count(_EACH):
                raise QueryError(f"{shown_path(new)!r} has more * than {shown_path(old)!r}, which it renames")
        return changes

    def to_dict(self) -> dict[str, Any]:
        """Return the changes as they are stored."""
        return {
            "drop": [shown_path(path) for path in self.drops],
            "rename": [[shown_path(old), shown_path(new)] for old, new in self.renames],
            "set": [[shown_path(path), value] for path, value in self.sets],
        }

    def __str__(self) -> str:
        """Return the changes as text for people."""
        return describe(self.to_dict())

    def made_in(self, body: bytes) -> bytes | None:
        """Return the changed body; None where the changes leave it as it is. Raises NotApplicableError."""
        try:
            message = read_exactly(body)
        except (ValueError, RecursionError) as error:
            raise NotApplicableError(_why_unread(error)) from error
        if not isinstance(message, dict):
            raise NotApplicableError("it is no JSON object")
        before = json.dumps(message)
        for path in self.drops:
            _drop(message, path)
        for old, new in self.renames:
            _rename(message, old, new)
        for path, value in self.sets:
            _set(message, path, value)
        return None if json.dumps(message) == before else _written(message)


def describe(changes: Mapping[str, Any]) -> str:
    """Return stored changes as text for people."""
    said = [f"drop {path}" for path in changes.get("drop", ())]
    said += [f"rename {old} to {new}" for old, new in changes.get("rename", ())]
    said += [
        f"set {path} to {json.dumps(value, ensure_ascii=False)}" for path, value in changes.get("set", ())
    ]
    return ", ".join(said)


def _pairs(texts: Sequence[str], form: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise QueryError(f"{text[:60]!r} must be {form}")
        yield name, value


def _why_unread(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "it is no JSON"
    return f"it can't be written again as it is: {error}"


def _written(message: dict[str, Any]) -> bytes:
    try:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(message, separators=(",", ":")).encode()


# -- one change -------------------------------------------------------------------------------------------


def _drop(message: dict[str, Any], path: Path) -> None:
    for *parents, name in _found(message, path):
        parent = _at(message, parents)
        if isinstance(parent, dict):
            del parent[name]
        else:
            raise NotApplicableError(f"{shown_path(path)} is an item of a list, which is never dropped")


def _rename(message: dict[str, Any], old: Path, new: Path) -> None:
    for place in list(_found(message, old)):
        target = _with_items(new, old, place)
        *parents, name = place
        *new_parents, new_name = target
        source, goal = _at(message, parents), _made(message, new_parents)
        if not isinstance(source, dict) or not isinstance(goal, dict):
            raise NotApplicableError(f"{shown_path(old)} is an item of a list, which has no name")
        if target == place:
            continue
        if new_name in goal:
            raise NotApplicableError(f"it has {shown_path(target)} as well as {shown_path(place)}")
        if goal is source:  # keeps its place among its neighbours
            renamed = [(new_name if key == name else key, value) for key, value in source.items()]
            source.clear()
            source.update(renamed)
        else:
            goal[new_name] = source.pop(name)


def _set(message: dict[str, Any], path: Path, value: Any) -> None:
    for *parents, name in _targets(message, path):
        parent = _made(message, parents)
        copy = json.loads(json.dumps(value))
        if isinstance(parent, dict):
            parent[name] = copy
        elif (index := _index(parent, name)) is not None:
            parent[index] = copy
        else:
            raise NotApplicableError(f"{shown_path(path)} names an item that its list doesn't have")


def _with_items(new: Path, old: Path, place: Path) -> Path:
    """Return ``new`` with the items of lists that ``place`` has where ``old`` says each."""
    items = iter([index for index, name in zip(place, old, strict=True) if name == _EACH])
    return tuple(next(items) if name == _EACH else name for name in new)


def _found(value: Any, path: Path, above: Path = ()) -> Iterator[Path]:
    """Yield the places that ``path`` names and that are there, the last first: one may be taken away."""
    if not path:
        yield above
        return
    name, rest = path[0], path[1:]
    for child in _children(value, name)[::-1]:
        yield from _found(_child(value, child), rest, (*above, child))


def _targets(value: Any, path: Path, above: Path = ()) -> Iterator[Path]:
    """Yield the places to set: all that a ``*`` names, and one where there is none, there or not."""
    if _EACH not in path:
        yield (*above, *path)
        return
    name, rest = path[0], path[1:]
    for child in _children(value, name):
        yield from _targets(_child(value, child), rest, (*above, child))


def _children(value: Any, name: str) -> list[str]:
    if isinstance(value, dict):
        return [name] if name in value else []
    if isinstance(value, list):
        if name == _EACH:
            return [str(index) for index in range(len(value))]
        return [] if _index(value, name) is None else [name]
    return []


def _child(value: Any, name: str) -> Any:
    return value[int(name)] if isinstance(value, list) else value[name]


def _index(items: list[Any], name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and int(name) < len(items) else None


def _at(message: Any, path: Sequence[str]) -> Any:
    for name in path:
        message = _child(message, name)
    return message


def _made(message: Any, path: Sequence[str]) -> Any:
    """Return the object or list at ``path``; objects that are missing are made."""
    for place, name in enumerate(path):
        if isinstance(message, dict):
            message = message.setdefault(name, {})
        elif isinstance(message, list) and _index(message, name) is not None:
            message = message[int(name)]
        else:
            raise NotApplicableError(f"{shown_path(tuple(path[: place + 1]))} is not there")
    if not isinstance(message, dict | list):
        raise NotApplicableError(f"{shown_path(tuple(path))} is no object")
    return message
