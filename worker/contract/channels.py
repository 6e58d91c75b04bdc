"""Classification of the changes of exchanges and queues between two AsyncAPI documents.

It asks of each exchange and queue whether it is still there and declared alike, and of each type of message
where its routing key leads. Messages themselves are compared in their schemas.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.contract.consequences import Change, Consequence
from worker.contract.schema import Schema

_CHANNEL: Final = "#/channels/"
#: Queues that each type of message reaches, by exchange and type.
Routes = Mapping[tuple[str, str], set[str]]


def channels_of(document: Schema) -> Schema:
    """Return the part of an AsyncAPI document that is compared: what ``released/channels.json`` keeps."""
    return {
        "info": {"version": document["info"]["version"]},
        "channels": document["channels"],
        "operations": {
            name: {"action": one["action"], "channel": one["channel"]}
            for name, one in document["operations"].items()
        },
    }


def channel_changes(old: Schema, new: Schema) -> Iterator[Change]:
    """Yield the changes of exchanges, queues and routes of two documents, or of two ``channels_of`` them."""
    before, after = _by_name(old), _by_name(new)
    sent = _sent(old) | _sent(new)
    for place in before.keys() - after.keys():
        yield Change(Consequence.BREAKING, place, "it is gone; who uses it by its name fails")
    for place in after.keys() - before.keys():
        consequence = Consequence.COMPATIBLE if place in sent else Consequence.WORKER_FIRST
        yield Change(consequence, place, "it is new")
    for place in before.keys() & after.keys():
        yield from _declaration(place, before[place], after[place])
        if place in sent:
            yield from _sent_messages(place, before[place], after[place])
    yield from _routes(old, new)


def _by_name(document: Schema) -> dict[str, Schema]:
    """Return exchanges and queues by name, as in ``exchange billing``; reply addresses are no part of it."""
    return {_place(channel): channel for channel in document["channels"].values() if "bindings" in channel}


def _place(channel: Schema) -> str:
    binding = channel["bindings"]["amqp"]
    kind = "queue" if binding["is"] == "queue" else "exchange"
    return f"{kind} {binding[kind]['name']}"


def _sent(document: Schema) -> set[str]:
    """Return the exchanges and queues that the worker publishes to."""
    names = {
        one["channel"]["$ref"].removeprefix(_CHANNEL)
        for one in document["operations"].values()
        if one["action"] == "send"
    }
    return {_place(document["channels"][name]) for name in names}


# -- one exchange or queue --------------------------------------------------------------------------------


def _declaration(place: str, old: Schema, new: Schema) -> Iterator[Change]:
    """Yield what the broker would refuse to declare anew, and what an operator may set at any time."""
    before, after = _declared(old), _declared(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            text = f"{name} was {before.get(name)} and is {after.get(name)}; the broker keeps what it has"
            yield Change(Consequence.BREAKING, place, text)
    if "x-policy" in old and old["x-policy"] != new.get("x-policy"):
        yield Change(Consequence.COMPATIBLE, place, "the policy that an operator should set is another")


def _declared(channel: Schema) -> dict[str, Any]:
    binding = channel["bindings"]["amqp"]
    return {**binding["queue" if binding["is"] == "queue" else "exchange"], **channel.get("x-arguments", {})}


def _sent_messages(place: str, old: Schema, new: Schema) -> Iterator[Change]:
    for type_ in old["messages"].keys() - new["messages"].keys():
        yield Change(Consequence.BREAKING, place, f"{type_} does not come here any more")
    for type_ in new["messages"].keys() - old["messages"].keys():
        yield Change(Consequence.COMPATIBLE, place, f"{type_} comes here as well")


# -- routes -----------------------------------------------------------------------------------------------


def _routes(old: Schema, new: Schema) -> Iterator[Change]:
    before, after = _queues_by_route(old), _queues_by_route(new)
    exchanges = {exchange for exchange, _ in before}
    for exchange, type_ in before.keys() | after.keys():
        was, is_ = (routes.get((exchange, type_), set()) for routes in (before, after))
        place = f"exchange {exchange}"
        if not is_:
            yield Change(Consequence.BREAKING, place, f"{type_} leads to no queue any more")
        elif was and was != is_:
            text = f"{type_} led to {_listed(was)} and leads to {_listed(is_)}"
            yield Change(Consequence.WORKER_FIRST, place, text)
        elif not was and exchange in exchanges:  # those of a new exchange are new with it
            yield Change(Consequence.WORKER_FIRST, place, f"{type_} leads to {_listed(is_)}")


def _queues_by_route(document: Schema) -> Routes:
    found: dict[tuple[str, str], set[str]] = {}
    for channel in document["channels"].values():
        for type_ in channel["messages"] if "x-exchange" in channel else ():
            found.setdefault((channel["x-exchange"], type_), set()).add(channel["address"])
    return found


def _listed(queues: set[str]) -> str:
    return " and ".join(sorted(queues))
