"""Run of a replay: drain, end items, send the next ones; in steps, at a rate, through outages.

``sending`` is committed before the publish and ``sent`` after the broker has it, so that a killed runner
leaves a replay that the next one resumes: a dead letter that may have been sent is sent again, and the ledger
deduplicates it. The runner also drains the dead letters: a message that fails again comes back that way.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from worker.broker import BILLING, Link, Outgoing
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.models import Replay, ReplayState
from worker.deadletters.replay import items
from worker.deadletters.replay import store as replays
from worker.deadletters.replay.items import UNDER_WAY_MAX, Claimed
from worker.deadletters.replay.links import RunLinks
from worker.deadletters.replay.pace import RunPace
from worker.deadletters.replay.publishing import RunPublisher
from worker.errors import ConfigurationError, LedgerUnavailableError, NotKeptError, TransientError
from worker.ledger.queries import snapshot
from worker.messages.routing import routed
from worker.runtime.backoff import Backoff
from worker.runtime.stop import Stop

#: Most commands in dead letters that are sent and not ended: a batch may hold a thousand.
_COMMANDS_MAX = 10_000
#: Most that are sent and not ended where a limit may stop the replay: so many may follow what stops it.
_UNDER_WAY_LIMITED = 100
_RENEW = timedelta(seconds=6)
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 5.0
STOP_REQUESTED = "it was asked to rest"


@dataclass(frozen=True, slots=True)
class RunnerResources:
    """Resources of a runner: database, links, clocks, and limits.

    ``connect`` opens a link to publish with, ``drain`` one that drains dead letters, once the database takes
    writes. ``name`` is unique to the runner: the lease is in it. ``seconds`` is a clock that
    only goes forward. ``sent_as`` is the broker user that publishes; there are ``partitions`` of the
    queues. In an outage of the database arrived messages are held for ``hold_most_s`` at most.
    """

    engine: Engine
    connect: Callable[[], Link]
    drain: Callable[[], LinkDrainer]
    name: str
    clock: Callable[[], datetime]
    seconds: Callable[[], float]
    rng: random.Random
    sent_as: str | None = None
    hold_most_s: float = 1440.0
    partitions: int = 0

    def routed(self, message: Outgoing) -> Outgoing:
        """Return a replay with the routing key of today's partitions; a notice has none."""
        is_command = message.exchange in BILLING.command_exchanges
        return routed(message, self.partitions, self.clock()) if is_command else message


@dataclass(frozen=True, slots=True)
class RunControls:
    """Stop request of a run, and its callbacks: progress with every look, trouble when it begins."""

    stop: Stop
    on_progress: Callable[[Replay], None]
    on_trouble: Callable[[str], None]


class ReplayRun:
    """One run, from a lease to its end. Its state in memory can be read again from the database."""

    def __init__(
        self,
        resources: RunnerResources,
        links: RunLinks,
        replay_id: int,
        controls: RunControls,
        patience_s: float,
    ) -> None:
        self._with, self._id, self._controls, self._patience_s = resources, replay_id, controls, patience_s
        self._links = links
        self._publisher = RunPublisher(
            links, replay_id, resources.sent_as, controls.on_trouble, resources.routed
        )
        self._pace = RunPace(resources.seconds, controls.stop)
        self._under_way: dict[int, Claimed] | None = None
        self._renewed_at = resources.clock()
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, resources.rng)
        self._failing_since: float | None = None

    def to_its_end(self) -> Replay:
        """Run until the replay rests; returns its state then."""
        while True:
            try:
                ended = self._look()
            except (TransientError, ConfigurationError) as error:
                if isinstance(error, ConfigurationError) and not self._links.have_been_open:
                    raise
                self._wait_after(error)
                if self._controls.stop.requested:
                    return self._end(ReplayState.PAUSED, STOP_REQUESTED)
            else:
                self._note_success()
                if ended is not None:
                    return ended

    # -- one look -----------------------------------------------------------------------------------------

    def _look(self) -> Replay | None:
        """Drain, end items and send the next ones; returns the replay where it rests now, else None."""
        w = self._with
        if not self._is_mine():
            return replays.get(w.engine, self._id)
        if self._controls.stop.requested:
            return self._end(ReplayState.PAUSED, STOP_REQUESTED)
        moved = self._end_items()
        replay = replays.get(w.engine, self._id)
        self._forget_returned(replay)
        self._controls.on_progress(replay)
        if (rested := self._rests(replay)) is not None:
            return rested
        moved |= self._send_next(replay)
        self._pace.pause(moved=moved)
        return None if moved else self._out_of_patience()

    def _is_mine(self) -> bool:
        """Return True while the lease is this runner's; renews it in good time."""
        w, now = self._with, self._with.clock()
        if now - self._renewed_at > replays.LEASE - _RENEW:
            self._renewed_at = now
            return replays.renew(w.engine, now, self._id, w.name)
        replay = replays.get(w.engine, self._id)
        return replay.state is ReplayState.RUNNING and replay.leased_by == w.name

    def _rests(self, replay: Replay) -> Replay | None:
        if replay.steps and replay.failed > self._accepted():
            return self._end(ReplayState.STOPPED, _why_stopped(replay))
        if replay.open == 0:
            return self._end(ReplayState.FINISHED, None)
        if replay.stop_on and (why := self._limit_reached()) is not None:
            return self._end(ReplayState.STOPPED, _stopped_at(replay, why))
        return None

    def _limit_reached(self) -> str | None:
        with snapshot(self._with.engine) as connection:
            return replays.limit_reached(connection, self._id)

    def _accepted(self) -> int:
        with snapshot(self._with.engine) as connection:
            return replays.accepted(connection, self._id)

    def _end(self, state: ReplayState, reason: str | None) -> Replay:
        w = self._with
        replays.end_run(w.engine, w.clock(), self._id, w.name, state, reason)
        ended = replays.get(w.engine, self._id)
        self._controls.on_progress(ended)
        return ended

    # -- results ------------------------------------------------------------------------------------------

    def _end_items(self) -> bool:
        """Drain what came back, end what the ledger shows; returns True where anything changed."""
        w = self._with
        drained = self._drained()
        under_way = self._known_under_way()
        if not under_way:
            return drained > 0
        ended = items.end_shown(w.engine, w.clock(), self._id, list(under_way.values()))
        return ended > 0 or drained > 0

    def _drained(self) -> int:
        """Drain; returns how many came. One that can't be kept stays with this link, and stops no replay."""
        try:
            return self._links.drain()
        except NotKeptError as error:
            self._controls.on_trouble(str(error))
            return 0

    def _forget_returned(self, replay: Replay) -> None:
        """Forget items that have ended in the database, or were drained by another process."""
        under_way = self._known_under_way()
        if replay.counts["sent"] < len(under_way):
            left = items.still_under_way(self._with.engine, self._id, list(under_way))
            self._under_way = {number: each for number, each in under_way.items() if number in left}
            self._pace.note_move()

    def _known_under_way(self) -> dict[int, Claimed]:
        if self._under_way is None:
            w = self._with
            found = items.under_way(w.engine, w.clock(), self._id, UNDER_WAY_MAX)
            self._under_way = {each.dead_letter.number: each for each in found}
        return self._under_way

    # -- the next items -----------------------------------------------------------------------------------

    def _send_next(self, replay: Replay) -> bool:
        """Send as many as the step, the rate and the items under way allow; False where none were."""
        w, room = self._with, self._room(replay)
        if room < 1 or replay.counts["waiting"] + replay.counts["sending"] == 0:
            return False
        up_to = replays.bounds(replay.total, replay.steps)[replay.step - 1]
        before = replay.counts["waiting"]
        claimed = items.claim(w.engine, w.clock(), self._id, up_to, room)
        if not claimed:
            return replays.get(w.engine, self._id).counts["waiting"] < before  # some were skipped
        sent, returned = self._publisher.publish(claimed)
        items.mark_sent(w.engine, w.clock(), self._id, sent, returned)
        under_way = self._known_under_way()
        under_way |= {each.dead_letter.number: each for each in sent if not each.ends_when_sent}
        self._pace.count_sent(len(sent) + len(returned), replay.rate)
        return bool(sent or returned)

    def _room(self, replay: Replay) -> int:
        """Return the number of dead letters that may be sent now."""
        under_way = self._known_under_way()
        if sum(len(each.expected) for each in under_way.values()) >= _COMMANDS_MAX:
            return 0
        most = _UNDER_WAY_LIMITED if replay.stop_on else UNDER_WAY_MAX
        return min(self._pace.room(replay.rate), most - len(under_way))

    # -- waits --------------------------------------------------------------------------------------------

    def _out_of_patience(self) -> Replay | None:
        under_way = len(self._known_under_way())
        if not (under_way or self._publisher.refusal) or self._pace.unmoved_s < self._patience_s:
            return None
        if self._publisher.refusal:
            return self._end(
                ReplayState.PAUSED, f"{self._publisher.refusal} Nothing moved for {self._patience_s:.0f} s"
            )
        dead_letters = "1 dead letter" if under_way == 1 else f"{under_way} dead letters"
        return self._end(
            ReplayState.PAUSED,
            f"no outcome of {dead_letters} within {self._patience_s:.0f} s; is a worker running?",
        )

    def _wait_after(self, error: Exception) -> None:
        """Log it once and wait: doubling, with jitter; without the database, hold what came."""
        if self._failing_since is None:
            self._controls.on_trouble(f"{error}: waiting until it is back")
            self._failing_since = self._with.seconds()
        held_s = self._with.seconds() - self._failing_since
        if not isinstance(error, LedgerUnavailableError) or held_s > self._with.hold_most_s:
            self._links.close()
        self._under_way = None
        self._pace.wait_out(self._backoff.next(), self._links.keep_alive)

    def _note_success(self) -> None:
        if self._failing_since is not None:
            self._controls.on_trouble("it is back: going on")
        self._failing_since = None
        self._backoff.reset()


def _stopped_at(replay: Replay, why: str) -> str:
    return (
        f"{why}. See `billing-worker dead-letters replay show {replay.number}`, or go on anyway with "
        f"`billing-worker dead-letters replay resume {replay.number}`"
    )


def _why_stopped(replay: Replay) -> str:
    failed = {
        state.replace("_", " "): replay.counts[state] for state in ("failed_again", "conflict", "unroutable")
    }
    ends = replays.bounds(replay.total, replay.steps)
    step = replays.step_of(ends, replay.total - replay.open, goes_on=False)
    counted = ", ".join(f"{count} {name}" for name, count in failed.items() if count)
    return (
        f"step {step} of {replay.steps_in_all}: {counted}. See "
        f"`billing-worker dead-letters replay show {replay.number}`, correct them, or go on anyway with "
        f"`billing-worker dead-letters replay resume {replay.number}`"
    )
