"""Content of commands: what moves the ledger, as text that is stored, compared, and read back."""

import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from schemas import COMMAND_TYPES, NO_USER, Command, PaymentSucceeded
from worker.catalog import Catalog
from worker.core.outcomes import Outcome

#: Fields of the content that were added to each type later: they are not compared where none is stored.
_ADDED: Final = {
    type_: frozenset(map(to_camel, model.ADDED)) for type_, model in COMMAND_TYPES.items() if model.ADDED
}


def content_of(command: Command, catalog: Catalog | None = None) -> str:
    """Return the canonical text of what moves the ledger: the same for the same operation.

    With a ``catalog``, a package that is named by its position has its id there as well.
    """
    content = command.content()
    if catalog is not None and isinstance(command, PaymentSucceeded) and command.package_index is not None:
        content = _with_package_id(content, catalog)
    return to_json(content).decode()  # compact; the fields are in order already


def _with_package_id(content: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
    package = catalog.package(None, content["packageIndex"])
    if package is None:
        return content
    return dict(sorted({**content, "packageId": package.id}.items()))


def _comparable(
    had: dict[str, Any], has: dict[str, Any], catalog: Catalog | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two contents with one name of the package: the position where both have it, else the id.

    A position is compared with a position, so that a copy stays one after the catalog was reordered.
    """
    by = [content for content in (had, has) if "packageIndex" in content]
    if not by:
        return had, has
    if len(by) == 1 and "packageId" not in by[0] and catalog is not None:
        by[0].update(_with_package_id(by[0], catalog))
    left_out = "packageId" if len(by) == 2 else "packageIndex"
    return _without(had, left_out), _without(has, left_out)


def _without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in content.items() if other != name}


def first_difference(
    content: str, stored: Outcome, catalog: Catalog | None = None
) -> tuple[str, str, str] | None:
    """Return the first field in which ``content`` differs from the stored one, and both values; or None."""
    return next(differences(content, stored, catalog), None)


def differences(
    content: str, stored: Outcome, catalog: Catalog | None = None
) -> Iterator[tuple[str, str, str]]:
    """Yield the fields in which ``content`` differs from the stored one, with both values, in order."""
    if content == stored.content:
        return
    had: dict[str, Any] = json.loads(stored.content)
    has: dict[str, Any] = json.loads(content)
    had, has = _comparable(had, has, catalog)
    added = _ADDED.get(stored.type, frozenset())
    for name in sorted(had.keys() | has.keys()):
        if had.get(name) != has.get(name) and not (name in added and name not in had):
            yield name, str(had.get(name, "absent")), str(has.get(name, "absent"))


#: Fields of a payment that are no content, and that a rejected one keeps, so that it can be tried again.
_KEPT: Final = ("provider", "also_known_as")


def kept_of(command: PaymentSucceeded) -> dict[str, str]:
    """Return the fields of a rejected payment that are stored beside its content."""
    kept = {
        "provider": command.provider,
        "also_known_as": command.also_known_as and list(command.also_known_as),
    }
    return {name: to_json(value).decode() for name, value in kept.items() if value is not None}


def command_of(outcome: Outcome, attempt: int) -> Command:
    """Return the command of a stored outcome again, as the given attempt."""
    kept = {
        to_camel(name): json.loads(value)
        for name in _KEPT
        if isinstance(value := outcome.detail.get(name), str)
    }
    fields: dict[str, Any] = {
        "referenceId": outcome.reference_id,
        "attempt": attempt,
        "occurredAt": outcome.occurred_at,
        "metadata": outcome.metadata,
        "description": outcome.description,
        **kept,
        **json.loads(outcome.content),
    }
    if "packageId" in fields:
        fields.pop("packageIndex", None)  # the package that it named then
    if outcome.user_id != NO_USER:
        fields["userId"] = outcome.user_id
    return COMMAND_TYPES[outcome.type].model_validate(fields)
