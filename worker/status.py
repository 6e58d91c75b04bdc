"""Status of an installation: its lanes, its workers, and what somebody should do. Pure: facts in, status out.

A number that nobody knows is None. Advice follows from known facts alone: nobody is told to start a worker
while one is paused, or while it isn't known whether one runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from worker.broker import BILLING
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.ledger.pauses import Pause
from worker.ledger.workers import KnownWorker, WorkerKind, WorkerState
from worker.messages.dead_letter_limit import PauseCode
from worker.settings_report import differences

#: Age of a row up to which its rates, and the messages that it named, are of now.
_FRESH = timedelta(seconds=15)
#: Time for which a silent worker is worth a line of advice.
_SILENT_SHOWN = timedelta(hours=1)
#: Backlog that is worth a line when it grows.
_GROWING_FROM = 1_000


# -- facts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """State of a queue by the broker: messages ready, consumers, and rates a second where it counts them.

    ``oldest_at`` is when the oldest message was sent; RabbitMQ rarely knows it. ``untaken`` counts those of
    ``depth`` that wait in partitions without a consumer.
    """

    depth: int | None
    consumers: int | None = None
    arrivals: float | None = None
    departures: float | None = None
    oldest_at: datetime | None = None
    untaken: int = 0


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """Queues by their names, at one time; ``problem`` says why they are unknown."""

    at: datetime
    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    problem: str | None = None

    def depth(self, queue: str) -> int | None:
        """Return the number of messages that wait in a queue."""
        found = self.queues.get(queue)
        return None if found is None else found.depth


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Processes and pauses in the database; ``problem`` says why they are unknown."""

    workers: Sequence[KnownWorker] = ()
    by_operators: Sequence[OperatorPause] = ()
    by_workers: Sequence[Pause] = ()
    problem: str | None = None


# -- status -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LanePause:
    """Pause of a lane, or of a ``type`` of it, with the command that ends it.

    ``way_out`` is None where no operator ends it: it goes on by itself when the cause is gone.
    """

    code: str
    type: str | None
    since: datetime
    by: str
    reason: str
    way_out: str | None

    @property
    def is_of_operator(self) -> bool:
        """True where an operator asked for it; False where a worker began it by itself."""
        return self.code in {"paused", "quiesced"}

    @property
    def shown_code(self) -> str:
        """The code in words; a worker's own pause says so."""
        words = self.code.replace("_", " ")
        return words if self.is_of_operator else f"paused ({words})"

    def __str__(self) -> str:
        what = f"{self.type} " if self.type else ""
        return f"{what}{self.shown_code} by {self.by}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """Status of a lane. Rates are messages a second; ``lag`` is the age of the oldest message.

    ``workers`` take its messages now. ``eta`` is when nothing waits at the present rates; None where it
    grows, or where nobody knows. ``untaken`` of its messages wait in partitions without a consumer.
    """

    name: str
    queue: str
    depth: int | None
    consumers: int | None
    workers: int | None
    arrivals: float | None
    departures: float | None
    lag: timedelta | None
    pauses: tuple[LanePause, ...]
    untaken: int

    @property
    def is_paused(self) -> bool:
        """True where the whole lane takes nothing, somewhere at least."""
        return any(pause.type is None for pause in self.pauses)

    @property
    def growth(self) -> float | None:
        """Messages a second by which the backlog grows; negative where it shrinks."""
        if self.arrivals is None or self.departures is None:
            return None
        return self.arrivals - self.departures

    @property
    def eta(self) -> timedelta | None:
        """Time until nothing waits, at the present rates."""
        if self.depth == 0:
            return timedelta(0)
        if self.depth is None or self.growth is None or self.growth >= 0:
            return None
        return timedelta(seconds=self.depth / -self.growth)


@dataclass(frozen=True, slots=True)
class Advice:
    """Sentence about what is the case and what to do; ``needs_somebody`` decides on the exit code."""

    text: str
    needs_somebody: bool = False
    is_about_pause: bool = False


@dataclass(frozen=True, slots=True)
class InstallationStatus:
    """Status at one time. ``held`` counts messages of paused types."""

    at: datetime
    lanes: tuple[LaneStatus, ...]
    workers: tuple[KnownWorker, ...]
    held: int | None
    advice: tuple[Advice, ...]

    @property
    def needs_somebody(self) -> bool:
        """True where something doesn't mend itself."""
        return any(advice.needs_somebody for advice in self.advice)

    @property
    def advice_beside_pauses(self) -> Sequence[Advice]:
        """The advice that is about no pause: for pages that show the pauses themselves."""
        return [advice for advice in self.advice if not advice.is_about_pause]

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON can carry it, in camelCase."""
        return {
            "at": self.at.isoformat(),
            "needsSomebody": self.needs_somebody,
            "lanes": [_lane_dict(lane) for lane in self.lanes],
            "workers": [_worker_dict(worker, self.at) for worker in self.workers],
            "held": self.held,
            "advice": [{"text": one.text, "needsSomebody": one.needs_somebody} for one in self.advice],
        }


def status_of(
    broker: BrokerFacts, ledger: LedgerFacts, before: BrokerFacts | None = None
) -> InstallationStatus:
    """Return the status; ``before`` has the queues a moment earlier, for rates it doesn't count."""
    lanes = tuple(_lane(queue.name, broker, ledger, before) for queue in BILLING.work)
    held = broker.depth(BILLING.held.name)
    advice = tuple(_advice(lanes, broker, ledger, held))
    return InstallationStatus(broker.at, lanes, tuple(ledger.workers), held, advice)


def _lane(queue: str, broker: BrokerFacts, ledger: LedgerFacts, before: BrokerFacts | None) -> LaneStatus:
    facts = broker.queues.get(queue, QueueFacts(None))
    pauses = tuple(_pauses(queue, ledger))
    consuming = [worker for worker in _alive(ledger, broker.at) if worker.consumes(queue)]
    departures = _departures(queue, facts, consuming, ledger, broker.at)
    return LaneStatus(
        lane_name(queue),
        queue,
        facts.depth,
        facts.consumers,
        None if ledger.problem else len(consuming),
        _arrivals(queue, facts, departures, broker, before),
        departures,
        _lag(queue, facts, consuming, broker.at),
        pauses,
        facts.untaken,
    )


def lane_name(queue: str) -> str:
    """Return the name of a lane by its queue, as operators type it."""
    return queue.removeprefix(f"{BILLING.exchange}.")


def _alive(ledger: LedgerFacts, now: datetime) -> list[KnownWorker]:
    return [worker for worker in ledger.workers if worker.kind is WorkerKind.WORKER and worker.is_alive(now)]


def _departures(
    queue: str,
    facts: QueueFacts,
    consuming: Sequence[KnownWorker],
    ledger: LedgerFacts,
    now: datetime,
) -> float | None:
    """Return what the broker counts; else the sum of what the workers count, where all of them are known."""
    if facts.departures is not None:
        return facts.departures
    if facts.consumers == 0:
        return 0.0
    rates = [worker.lanes[queue].per_second for worker in consuming if now - worker.seen_at < _FRESH]
    known = [rate for rate in rates if rate is not None]
    is_complete = len(known) == len(consuming) and (facts.consumers is None or known)
    return sum(known) if is_complete and not ledger.problem and known else None


def _arrivals(
    queue: str, facts: QueueFacts, departures: float | None, broker: BrokerFacts, before: BrokerFacts | None
) -> float | None:
    """Return what the broker counts; else departures and the change of the depth."""
    if facts.arrivals is not None:
        return facts.arrivals
    depth_before = None if before is None else before.depth(queue)
    if before is None or depth_before is None or facts.depth is None or departures is None:
        return None
    elapsed = (broker.at - before.at).total_seconds()
    if elapsed <= 0:
        return None
    return max(departures + (facts.depth - depth_before) / elapsed, 0.0)


def _lag(queue: str, facts: QueueFacts, consuming: Sequence[KnownWorker], now: datetime) -> timedelta | None:
    """Return the age of the oldest message; as old as the newest that workers took, while they take some."""
    if facts.depth == 0:
        return timedelta(0)
    if facts.oldest_at is not None:
        return max(now - facts.oldest_at, timedelta(0))
    sent = [worker.lanes[queue].sent_at for worker in consuming if now - worker.seen_at < _FRESH]
    newest = max((at for at in sent if at is not None), default=None)
    return None if newest is None else max(now - newest, timedelta(0))


def _pauses(queue: str, ledger: LedgerFacts) -> Iterator[LanePause]:
    """Yield the pauses of a lane: those of operators, then those of workers, one of each cause."""
    name = lane_name(queue)
    for pause in ledger.by_operators:
        if pause.queue == queue and pause.lasts:
            of_type = f" --type {pause.type}" if pause.type else ""
            code = "quiesced" if pause.kind is PauseKind.QUIESCE else "paused"
            yield LanePause(
                code,
                pause.type,
                pause.began_at,
                pause.actor,
                pause.reason,
                f"billing-worker resume {name}{of_type}",
            )
    seen: dict[str, list[Pause]] = {}
    for own in ledger.by_workers:
        if own.queue == queue:
            seen.setdefault(own.code, []).append(own)
    for code, same in seen.items():
        by = same[0].worker if len(same) == 1 else f"{len(same)} workers"
        first = min(one.began_at for one in same)
        way_out = None if code == PauseCode.SCHEMA_UNUSABLE else f"billing-worker resume {name}"
        yield LanePause(code, None, first, by, same[0].text, way_out)


# -- advice -----------------------------------------------------------------------------------------------


def _needed(text: str) -> Advice:
    return Advice(text, needs_somebody=True)


def _advice(
    lanes: Sequence[LaneStatus], broker: BrokerFacts, ledger: LedgerFacts, held: int | None
) -> Iterator[Advice]:
    if broker.problem:
        yield _needed(f"the broker: {broker.problem}; depths are unknown, workers wait for it")
    if ledger.problem:
        yield _needed(f"the database: {ledger.problem}; workers and pauses are unknown")
    for lane in lanes:
        yield from _advice_on_pauses(lane)
        if not lane.is_paused:
            yield from _advice_on_backlog(lane, ledger, broker.at)
    yield from _advice_on_held(ledger, held, broker.at)
    yield from _advice_on_workers(ledger, broker.at)


def _advice_on_pauses(lane: LaneStatus) -> Iterator[Advice]:
    for pause in lane.pauses:
        what = f"{pause.type} of {lane.name}" if pause.type else lane.name
        since = f"{pause.since:%Y-%m-%d %H:%M:%S} UTC"
        to_go_on = f"to go on: `{pause.way_out}`" if pause.way_out else "it goes on by itself then"
        yield Advice(
            f"{what} is {pause.shown_code} by {pause.by} since {since}: {pause.reason}; {to_go_on}",
            needs_somebody=True,
            is_about_pause=True,
        )


def _advice_on_backlog(lane: LaneStatus, ledger: LedgerFacts, now: datetime) -> Iterator[Advice]:
    """Yield advice on a lane that nobody paused and that has messages waiting."""
    if not lane.depth or ledger.problem:
        return
    waiting = f"{lane.depth:,} messages wait in {lane.queue}"
    if lane.workers:
        if lane.untaken:
            yield _needed(
                f"{lane.untaken:,} messages wait in partitions of {lane.queue} that no worker takes: see "
                "`billing-worker check`, and BILLING_PARTITIONS of the workers"
            )
        if lane.growth is not None and lane.growth >= 1 and lane.depth >= _GROWING_FROM:
            yield Advice(
                f"{waiting}, {lane.growth:,.0f} more each second: {lane.workers} workers take "
                f"{lane.departures or 0:,.0f} a second; if their machines have room, run more"
            )
        return
    alive = _alive(ledger, now)
    for state, text, needs in (
        (WorkerState.WAITING, "workers wait for a server", True),
        (WorkerState.STARTING, "a worker is starting", False),
        (WorkerState.PAUSED, "the workers are paused", True),
    ):
        found = [worker for worker in alive if worker.state is state]
        if found:
            why = f": {found[0].why}" if found[0].why else ""
            yield Advice(f"{waiting}; {text}{why}", needs_somebody=needs)
            return
    if lane.consumers:
        yield Advice(f"{waiting}; it is consumed by processes that are not known, such as an older version")
    elif alive and lane.consumers is None:
        yield _needed(f"{waiting}; no worker says that it takes them")
    elif not any(worker.state is WorkerState.CONSUMING for worker in alive):
        yield _needed(f"{waiting} and no worker runs: start one with `billing-worker run`")
    else:
        yield _needed(f"{waiting} and no worker consumes it: see the workers' log")


def _advice_on_held(ledger: LedgerFacts, held: int | None, now: datetime) -> Iterator[Advice]:
    if not held or ledger.problem:
        return
    of_types = [pause for pause in ledger.by_operators if pause.type is not None]
    if any(pause.lasts for pause in of_types):
        return  # the advice on the pause says it
    if _alive(ledger, now):
        when = "return to their lanes now" if of_types else "return within five minutes: no pause holds them"
        yield Advice(f"{held:,} held messages {when}")
    else:
        yield _needed(f"{held:,} held messages return when a worker runs: `billing-worker run`")


def _advice_on_workers(ledger: LedgerFacts, now: datetime) -> Iterator[Advice]:
    alive = _alive(ledger, now)
    for worker in ledger.workers:
        if worker.is_silent(now) and now - worker.seen_at < _SILENT_SHOWN:
            yield Advice(
                f"{worker.kind} {worker.host}:{worker.pid} was last seen at {worker.seen_at:%H:%M:%S} UTC: "
                "it was killed, or doesn't reach the database"
            )
    versions = sorted({worker.version for worker in alive})
    if len(versions) > 1:
        yield Advice(f"workers of versions {' and '.join(versions)} run beside each other")
    if len({worker.catalog_hash for worker in alive}) > 1:
        yield _needed("workers price with different catalogs: give all of them the same one")
    for worker in alive[1:]:
        if worker.settings_hash != alive[0].settings_hash:
            names = ", ".join(differences(alive[0].settings, worker.settings)) or "a secret"
            first = f"{alive[0].host}:{alive[0].pid}"
            yield Advice(f"worker {worker.host}:{worker.pid} differs from {first} in {names}")


# -- JSON -------------------------------------------------------------------------------------------------


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else round(time.total_seconds(), 1)


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _at(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _lane_dict(lane: LaneStatus) -> dict[str, Any]:
    return {
        "lane": lane.name,
        "queue": lane.queue,
        "depth": lane.depth,
        "consumers": lane.consumers,
        "workers": lane.workers,
        "arrivalsPerSecond": _rounded(lane.arrivals),
        "departuresPerSecond": _rounded(lane.departures),
        "lagSeconds": _seconds(lane.lag),
        "etaSeconds": _seconds(lane.eta),
        "pauses": [
            {
                "code": pause.code,
                "type": pause.type,
                "since": _at(pause.since),
                "by": pause.by,
                "reason": pause.reason,
                "wayOut": pause.way_out,
            }
            for pause in lane.pauses
        ],
    }


def _worker_dict(worker: KnownWorker, now: datetime) -> dict[str, Any]:
    return {
        "worker": worker.name,
        "kind": worker.kind,
        "host": worker.host,
        "pid": worker.pid,
        "supervisor": worker.supervisor,
        "version": worker.version,
        "settingsHash": worker.settings_hash,
        "changedSettings": dict(worker.settings),
        "catalogHash": worker.catalog_hash,
        "state": None if worker.is_silent(now) else worker.state,
        "why": worker.why,
        "lanes": {lane_name(queue): lane.to_dict() for queue, lane in worker.lanes.items()},
        "lastBatchAt": _at(worker.last_batch_at),
        "lastBatchSize": worker.last_batch_size,
        "startedAt": _at(worker.started_at),
        "seenAt": _at(worker.seen_at),
    }
