"""The files of ``schemas/contract/``: the text of each by its path."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import schemas
from worker.contract.asyncapi import asyncapi
from worker.contract.bundle import KINDS, bundle, message_schema
from worker.contract.codes import codes
from worker.contract.openapi import openapi

FOLDER: Final = Path(schemas.__file__).parent / "contract"
#: Bundle of the last release, and its exchanges and queues.
RELEASED: Final = FOLDER / "released" / "messages.schema.json"
RELEASED_CHANNELS: Final = FOLDER / "released" / "channels.json"


def contents() -> Iterator[tuple[str, str]]:
    """Yield path and text of every generated file; paths begin at ``FOLDER``."""
    yield "messages.schema.json", text_of(bundle())
    yield "codes.json", text_of(codes())
    yield "asyncapi.json", text_of(asyncapi())
    yield "openapi.json", text_of(openapi())
    for kind in KINDS:
        for type_ in kind.definitions:
            yield f"{kind.folder}/{type_}.schema.json", text_of(message_schema(kind, type_))


def text_of(document: Any) -> str:
    """Return the JSON text of a document; invisible characters are escaped."""
    return json.dumps(document, indent=2) + "\n"
