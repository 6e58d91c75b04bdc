"""Order of a user's messages: as they were published, and as the ledger has them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from sqlalchemy import Engine, select

from tests.support.steady_producer import Publication
from worker.broker import BILLING
from worker.ledger import tables

#: A user's messages of one lane.
Flow = tuple[str, str]


def misplaced(engine: Engine, publications: Iterable[Publication]) -> list[str]:
    """Return a line for each user and lane whose entries are in another order than the publications.

    Messages without an entry have no place in the ledger; copies of others are passed over.
    """
    places = _places(engine)
    return [
        f"{user}, {lane}: {', '.join(sorted(references, key=places.__getitem__))}"
        for (user, lane), references in _published(publications, places.keys()).items()
        if not _rise([places[reference] for reference in references])
    ]


def _published(publications: Iterable[Publication], known: Iterable[str]) -> dict[Flow, list[str]]:
    known = set(known)
    flows: dict[Flow, list[str]] = defaultdict(list)
    for publication in publications:
        message = publication.message
        if message is None or publication.correlation_id != message["referenceId"]:
            continue
        flow = message["userId"], BILLING.queue_of(message["type"]).name
        flows[flow] += [reference for reference in _references(publication) if reference in known]
    return flows


def _references(publication: Publication) -> Iterator[str]:
    """Yield the references that a message has in the ledger: its own, or those of its items."""
    assert publication.message is not None
    for each in publication.message.get("items") or [publication.message]:
        yield each["referenceId"]


def _places(engine: Engine) -> dict[str, int]:
    """Return the place of each reference among the entries of its user."""
    entries, operations = tables.entries.c, tables.operations.c
    query = select(operations.reference_id, entries.sequence).where(
        entries.operation_id == operations.operation_id
    )
    with engine.connect() as connection:
        return {row.reference_id: row.sequence for row in connection.execute(query)}


def _rise(places: Sequence[int]) -> bool:
    return all(one < other for one, other in pairwise(places))
