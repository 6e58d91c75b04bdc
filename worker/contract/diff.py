"""Classification of the changes between two bundles: ``python -m worker.contract.diff OLD NEW``.

It exits with 1 where a change breaks senders or readers and the major version, ``SCHEMA_VERSION``, is the old
one.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from worker.contract.comparing import Comparison, Shift
from worker.contract.schema import CLOSED_ENUMS, DEFINITIONS, Schema, ref


class Consequence(StrEnum):
    """Consequence of a change, from the mildest."""

    COMPATIBLE = "compatible"  #: in any order
    WORKER_FIRST = "worker first"  #: the worker before those who send the new messages
    BREAKING = "breaking"  #: senders or readers of today would fail


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the contract."""

    consequence: Consequence
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.consequence}: {self.place}: {self.text}"


#: Kinds of messages: those that the worker takes, and those that it sends.
_TAKEN: Final = ("Command", "Query")
_SENT: Final = ("Reply", "Answer", "Notice")

_OF_TAKEN: Final = {
    Shift.WIDER: Consequence.WORKER_FIRST,
    Shift.NARROWER: Consequence.BREAKING,
    Shift.OTHER: Consequence.BREAKING,
}
_OF_SENT: Final = {
    Shift.WIDER: Consequence.BREAKING,
    Shift.NARROWER: Consequence.COMPATIBLE,
    Shift.OTHER: Consequence.BREAKING,
}


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return the changes from one bundle to another, the worst first."""
    # Some are found twice: the items of a batch are of several types.
    found = {*_messages(old, new, _TAKEN), *_messages(old, new, _SENT), *_codes(old, new)}
    order = list(Consequence)
    return sorted(found, key=lambda change: (-order.index(change.consequence), change.place, change.text))


def is_allowed(found: Iterable[Change], old: Schema, new: Schema) -> bool:
    """Return False for a breaking change without a new major version."""
    return major(new) > major(old) or all(change.consequence is not Consequence.BREAKING for change in found)


def major(bundle: Schema) -> int:
    """Return the version that a bundle names. Raises ValueError where it is none of ours."""
    found = re.fullmatch(r"urn:billing-worker:contract:(\d+):messages", str(bundle.get("$id")))
    if found is None:
        raise ValueError("the file is no bundle of this contract: it has another $id")
    return int(found[1])


def _messages(old: Schema, new: Schema, kinds: Sequence[str]) -> Iterator[Change]:
    are_taken = kinds is _TAKEN
    of_shift = _OF_TAKEN if are_taken else _OF_SENT
    for kind in kinds:
        before, after = _of_kind(old, kind), _of_kind(new, kind)
        for type_ in before.keys() - after.keys():
            yield Change(Consequence.BREAKING, type_, "the message is gone")
        for type_ in after.keys() - before.keys():
            consequence = Consequence.WORKER_FIRST if are_taken else Consequence.COMPATIBLE
            yield Change(consequence, type_, "the message is new")
        for type_ in before.keys() & after.keys():
            compared = Comparison(old["$defs"], new["$defs"]).of(type_, before[type_], after[type_])
            yield from (Change(of_shift[one.shift], one.place, one.text) for one in compared)


def _of_kind(bundle: Schema, kind: str) -> dict[str, Schema]:
    """Return references to the messages of a kind by their type; a reply's own is that of its command."""
    definitions = bundle["$defs"]
    choices = definitions.get(kind, {}).get("oneOf")
    if choices is None:
        return {kind.lower(): ref(kind)} if kind in definitions else {}
    names = [choice["$ref"].removeprefix(DEFINITIONS) for choice in choices]
    return {definitions[name]["properties"]["type"]["const"]: ref(name) for name in names}


def _codes(old: Schema, new: Schema) -> Iterator[Change]:
    """Yield the changes of the open sets of codes: a reader passes over those that it doesn't know."""
    before, after = _open_sets(old), _open_sets(new)
    for name in before.keys() & after.keys():
        yield from (
            Change(Consequence.BREAKING, f"{name}.{one}", "the code is gone")
            for one in before[name] - after[name]
        )
        yield from (
            Change(Consequence.COMPATIBLE, f"{name}.{one}", "the code is new")
            for one in after[name] - before[name]
        )
    yield from (
        Change(Consequence.BREAKING, name, "the codes are gone") for name in before.keys() - after.keys()
    )


def _open_sets(bundle: Schema) -> dict[str, set[str]]:
    return {
        name: set(schema["enum"])
        for name, schema in bundle["$defs"].items()
        if "enum" in schema and name not in CLOSED_ENUMS
    }


def report(found: Sequence[Change], old: Schema, new: Schema) -> str:
    """Return the changes as text, with the consequence in the last line."""
    lines = [str(change) for change in found]
    if not found:
        lines.append("no change of the contract")
    elif not is_allowed(found, old, new):
        lines.append(f"breaking changes need a SCHEMA_VERSION above {major(old)}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the changes; return 1 where they break without a new major version."""
    parser = argparse.ArgumentParser(prog="python -m worker.contract.diff", description=__doc__)
    parser.add_argument("old", type=Path, help="messages.schema.json of the old contract")
    parser.add_argument("new", type=Path, help="messages.schema.json of the new contract")
    paths = parser.parse_args(arguments)
    try:
        old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (paths.old, paths.new))
        found = changes(old, new)
        sys.stdout.write(report(found, old, new))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"no two bundles of this contract: {error}")
    return 0 if is_allowed(found, old, new) else 1


if __name__ == "__main__":
    sys.exit(main())
