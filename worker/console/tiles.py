"""Tiles of the overview: the most important numbers that are known.

A number that nobody knows gives its place to the next one that is known, and is named in one line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from markupsafe import Markup

from worker.console.formats import number
from worker.deadletters.models import Counts
from worker.ledger.queries import Stats
from worker.ledger.queries.pace import Pace
from worker.ledger.workers import WorkerKind
from worker.runtime.cached_value import KnownValue, Unknown
from worker.runtime.durations import lasting
from worker.status import InstallationStatus, LaneStatus

_NO_BROKER, _NO_LEDGER = Unknown("the broker does not answer"), Unknown("the ledger does not answer")
#: Number of tiles.
SHOWN = 6


@dataclass(frozen=True, slots=True)
class Tile:
    """Number with its name and a line below it; ``page`` is the endpoint of its page."""

    name: str
    value: Markup | str | Unknown
    below: str = ""
    page: str | None = None


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles that are shown, and the names of the unknown numbers by the reason."""

    shown: tuple[Tile, ...]
    unknown: tuple[tuple[str, str], ...]


def tiles_of(
    status: KnownValue[InstallationStatus] | Unknown,
    counts: Counts | Unknown,
    pace: Pace | Unknown,
    totals: KnownValue[Stats] | Unknown,
) -> Tiles:
    """Return the first known tiles, and what is unknown among the first."""
    every = [*_of_status(status), *_of_counts(counts), *_of_pace(pace), *_of_totals(totals)]
    first = every[:SHOWN]
    known = [tile for tile in every if not isinstance(tile.value, Unknown)]
    missing: dict[str, list[str]] = {}
    for tile in first:
        if isinstance(tile.value, Unknown):
            missing.setdefault(tile.value.why, []).append(tile.name)
    unknown = tuple((", ".join(names), why) for why, names in missing.items())
    return Tiles(tuple(known[:SHOWN]), unknown)


def _of_status(status: KnownValue[InstallationStatus] | Unknown) -> Iterator[Tile]:
    if isinstance(status, Unknown):
        for name in ("Messages waiting", "Lag", "Workers"):
            yield Tile(name, status)
        return
    lanes, found = status.value.lanes, status.value
    depths = [lane.depth for lane in lanes]
    known = [depth for depth in depths if depth is not None]
    yield Tile(
        "Messages waiting",
        number(sum(known)) if len(known) == len(depths) else _NO_BROKER,
        "in the work queues",
    )
    yield Tile("Lag", _lag(lanes), "age of the oldest message")
    if all(lane.workers is None for lane in lanes):
        yield Tile("Workers", _NO_LEDGER)
        return
    alive = [one for one in found.workers if one.kind is WorkerKind.WORKER and one.is_alive(found.at)]
    paused = [lane.name for lane in lanes if lane.is_paused]
    below = f"{', '.join(paused)} paused" if paused else "that run"
    yield Tile("Workers", number(len(alive)), below, "workers.index")


def _lag(lanes: Sequence[LaneStatus]) -> Markup | str | Unknown:
    if any(lane.depth is None for lane in lanes):
        return _NO_BROKER
    lags = [lane.lag for lane in lanes]
    known = [lag for lag in lags if lag is not None]
    if len(known) < len(lags):
        return Unknown("RabbitMQ can't tell the age of the oldest message of a lane that nobody consumes")
    return lasting(max(known, default=timedelta(0)))


def _of_counts(counts: Counts | Unknown) -> Iterator[Tile]:
    if isinstance(counts, Unknown):
        yield Tile("Dead letters", _NO_LEDGER)
        yield Tile("Tokens affected", _NO_LEDGER)
        return
    waiting = counts.parked + counts.replaying
    groups = f"waiting, in {counts.groups:,} group{'' if counts.groups == 1 else 's'}"
    yield Tile("Dead letters", number(waiting), groups, "dead_letters.index")
    if waiting and counts.tokens_unknown == waiting:
        yield Tile("Tokens affected", Unknown("no waiting dead letter has a known amount"))
        return
    more = f"and {counts.tokens_unknown:,} of unknown amount" if counts.tokens_unknown else ""
    yield Tile("Tokens affected", number(counts.tokens_at_stake), more or "in waiting dead letters")


def _of_pace(pace: Pace | Unknown) -> Iterator[Tile]:
    if isinstance(pace, Unknown):
        yield Tile("Last posted", _NO_LEDGER)
    elif pace.last_at is None:
        yield Tile("Last posted", "–", "no entry yet")
    else:
        yield Tile("Last posted", f"{pace.last_at:%H:%M:%S}", f"{pace.last_at:%d %b %Y}, UTC")


def _of_totals(totals: KnownValue[Stats] | Unknown) -> Iterator[Tile]:
    """Yield numbers of the whole ledger: they fill the places of unknown ones."""
    if isinstance(totals, Unknown):
        return
    found = totals.value
    yield Tile("Users", number(found.users), "with an account", "accounts.index")
    yield Tile("Held", number(found.total_held), "tokens for work to come")
    yield Tile("Debt", number(found.total_debt), "tokens below zero")
