"""Classification of the changes between two contracts: ``python -m worker.contract.diff OLD NEW``.

Both are bundles, or both are AsyncAPI documents. It exits with 1 where a change breaks senders or readers
and the major version, ``SCHEMA_VERSION``, is the old one.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from worker.contract.channels import channel_changes
from worker.contract.comparing import Comparison, Shift
from worker.contract.consequences import Change, Consequence
from worker.contract.schema import CLOSED_ENUMS, DEFINITIONS, Schema, ref

#: Kinds of messages: those that the worker takes, and those that it sends.
_TAKEN: Final = ("Command", "Query")
_SENT: Final = ("Reply", "Answer", "Notice")

_OF_TAKEN: Final = {
    Shift.WIDER: Consequence.WORKER_FIRST,
    Shift.NARROWER: Consequence.BREAKING,
    Shift.ANNOUNCED: Consequence.ANNOUNCED,
    Shift.OTHER: Consequence.BREAKING,
}
_OF_SENT: Final = {
    Shift.WIDER: Consequence.BREAKING,
    Shift.NARROWER: Consequence.COMPATIBLE,
    Shift.ANNOUNCED: Consequence.COMPATIBLE,
    Shift.OTHER: Consequence.BREAKING,
}


def changes(old: Schema, new: Schema) -> list[Change]:
    """Return the changes from one bundle, or AsyncAPI document, to another, the worst first.

    Raises ValueError where only one of them is a bundle.
    """
    if _is_asyncapi(old) != _is_asyncapi(new):
        raise ValueError("one is a bundle and the other an AsyncAPI document")
    # Some are found twice: the items of a batch are of several types.
    found = {*channel_changes(old, new)} if _is_asyncapi(old) else {*_of_bundles(old, new)}
    order = list(Consequence)
    return sorted(found, key=lambda change: (-order.index(change.consequence), change.place, change.text))


def _is_asyncapi(document: Schema) -> bool:
    return "channels" in document


def _of_bundles(old: Schema, new: Schema) -> Iterator[Change]:
    yield from _messages(old, new, _TAKEN)
    yield from _messages(old, new, _SENT)
    yield from _codes(old, new)


def is_allowed(found: Iterable[Change], old: Schema, new: Schema) -> bool:
    """Return False for a breaking change without a new major version."""
    return major(new) > major(old) or all(change.consequence is not Consequence.BREAKING for change in found)


def major(document: Schema) -> int:
    """Return the version that a document names. Raises ValueError where it is none of ours."""
    if _is_asyncapi(document):
        return int(document["info"]["version"])
    found = re.fullmatch(r"urn:billing-worker:contract:(\d+):messages", str(document.get("$id")))
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
    parser.add_argument("old", type=Path, help="messages.schema.json or asyncapi.json of the old contract")
    parser.add_argument("new", type=Path, help="the same of the new contract")
    paths = parser.parse_args(arguments)
    try:
        old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (paths.old, paths.new))
        found = changes(old, new)
        sys.stdout.write(report(found, old, new))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"no two bundles of this contract, nor two AsyncAPI documents: {error}")
    return 0 if is_allowed(found, old, new) else 1


if __name__ == "__main__":
    sys.exit(main())
