"""Running a replay: claim, publish, watch the outcomes; in steps, at a rate, through outages, to its end.

``sending`` is committed before the publish and ``sent`` after the broker has it, so that a killed runner
leaves a replay that the next one resumes: a dead letter that may have been sent is sent again, and the ledger
deduplicates it. The runner also drains the dead letters: a message that fails again comes back that way.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine

from worker.broker import BILLING, Link, Outgoing, PublishResult
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.models import Replay, ReplayState
from worker.deadletters.replay import items
from worker.deadletters.replay import store as replays
from worker.deadletters.replay.items import UNDER_WAY_MAX, Claimed
from worker.deadletters.replay.message import replay_of
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    LedgerUnavailableError,
    NotKeptError,
    NotPossibleError,
    TransientError,
)
from worker.ledger.queries import snapshot
from worker.runtime.backoff import Backoff
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Most commands in dead letters that are sent and not ended: a batch may hold a thousand.
_COMMANDS_MAX = 10_000
_CHUNK = 250
_RENEW = timedelta(seconds=6)
_LOOK_FIRST_S, _LOOK_MOST_S = 0.02, 0.25
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 5.0
_BURST_S = 0.2
_KEPT_ALIVE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class RunnerResources:
    """Resources of a runner: database, links, clocks, and limits.

    ``connect`` opens a link to publish with, ``drain`` one that drains dead letters, once the database takes
    writes. ``name`` is unique to the runner: the lease is in it. ``seconds`` is a clock that
    only goes forward. ``sent_as`` is the broker user that publishes. In an outage of the database arrived
    messages are held for ``hold_most_s`` at most.
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


@dataclass(frozen=True, slots=True)
class RunControls:
    """Stop request of a run, and its callbacks: progress with every look, trouble when it begins."""

    stop: Stop
    on_progress: Callable[[Replay], None] = field(default=lambda _replay: None)
    on_trouble: Callable[[str], None] = field(default=log.warning)


class ReplayRunner:
    """Runs replays, one after the other, in whichever thread it is called."""

    def __init__(self, resources: RunnerResources) -> None:
        self._with = resources

    def run(
        self,
        replay_id: int,
        actor: str,
        *,
        stop: Stop,
        on_progress: Callable[[Replay], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        patience_s: float = 60.0,
    ) -> Replay:
        """Run the replay until it ends, stops by itself or pauses; returns its state then.

        A killed runner's lease is waited for. Raises NotFoundError; NotPossibleError where the replay has
        ended or is being run; ConfigurationError where the broker refuses the first connection. An outage of
        either server is waited out.
        """
        controls = RunControls(stop, on_progress or _nobody, on_trouble or log.warning)
        self._take_lease(replay_id, actor, controls)
        if stop.requested:
            return self._rest(replay_id, _STOP_REQUESTED)
        run = _Run(self._with, replay_id, controls, patience_s)
        try:
            return run.to_its_end()
        finally:
            run.close()

    def _take_lease(self, replay_id: int, actor: str, controls: RunControls) -> None:
        """Wait for an abandoned lease: it expires unless somebody renews it."""
        seen: datetime | None = None
        while True:
            now = self._with.clock()
            until = replays.lease(self._with.engine, now, replay_id, self._with.name, actor)
            if until is None:
                return
            if seen is None:
                controls.on_trouble(
                    f"replay {replay_id} is leased until {until:%H:%M:%S}Z: waiting, if its runner is gone"
                )
            elif until > seen:
                raise NotPossibleError(
                    f"replay {replay_id} is being run by another process: see "
                    f"`billing-worker dead-letters replay show {replay_id}`, or pause it there"
                )
            seen = until
            controls.stop.wait(min(max((until - now).total_seconds(), 0.0) + 0.05, 0.5))
            if controls.stop.requested:
                raise NotPossibleError(f"replay {replay_id} was not gone on with: it is leased by another")

    def _rest(self, replay_id: int, reason: str) -> Replay:
        w = self._with
        replays.end_run(w.engine, w.clock(), replay_id, w.name, ReplayState.PAUSED, reason)
        return replays.get(w.engine, replay_id)


_STOP_REQUESTED = "it was asked to rest"


def _nobody(_replay: Replay) -> None:
    """Ignore progress."""


class _Run:
    """One run, from a lease to its end. Its state in memory can be read again from the database."""

    def __init__(
        self, resources: RunnerResources, replay_id: int, controls: RunControls, patience_s: float
    ) -> None:
        self._with, self._id, self._controls, self._patience_s = resources, replay_id, controls, patience_s
        self._link: Link | None = None
        self._draining: LinkDrainer | None = None
        self._under_way: dict[int, Claimed] | None = None
        self._renewed_at = resources.clock()
        self._moved_at = resources.seconds()
        self._may_send_at = resources.seconds()
        self._look_s = _LOOK_FIRST_S
        self._refusal: str | None = None
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, resources.rng)
        self._failing_since: float | None = None
        self._has_been_linked = False

    def to_its_end(self) -> Replay:
        while True:
            try:
                ended = self._look()
            except (TransientError, ConfigurationError) as error:
                if isinstance(error, ConfigurationError) and not self._has_been_linked:
                    raise
                self._wait_after(error)
                if self._controls.stop.requested:
                    return self._end(ReplayState.PAUSED, _STOP_REQUESTED)
            else:
                self._note_success()
                if ended is not None:
                    return ended

    def close(self) -> None:
        for link in (self._link, self._draining):
            if link is not None:
                with suppress(BrokerUnavailableError):
                    link.close()
        self._link = self._draining = None

    # -- one look -----------------------------------------------------------------------------------------

    def _look(self) -> Replay | None:
        """Drain, end items and send the next ones; returns the replay where it rests now, else None."""
        w = self._with
        if not self._is_mine():
            return replays.get(w.engine, self._id)
        if self._controls.stop.requested:
            return self._end(ReplayState.PAUSED, _STOP_REQUESTED)
        moved = self._end_items()
        replay = replays.get(w.engine, self._id)
        self._forget_returned(replay)
        self._controls.on_progress(replay)
        if (rested := self._rests(replay)) is not None:
            return rested
        moved |= self._send_next(replay)
        self._pause_between(moved=moved)
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
        return None

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
            return self._link_drainer().drain_all(wait_s=0)
        except NotKeptError as error:
            self._controls.on_trouble(str(error))
            return 0

    def _forget_returned(self, replay: Replay) -> None:
        """Forget items that have ended in the database, or were drained by another process."""
        under_way = self._known_under_way()
        if replay.counts["sent"] < len(under_way):
            left = items.still_under_way(self._with.engine, self._id, list(under_way))
            self._under_way = {number: each for number, each in under_way.items() if number in left}
            self._moved_at = self._with.seconds()

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
        sent, returned = self._published(claimed)
        items.mark_sent(w.engine, w.clock(), self._id, sent, returned)
        under_way = self._known_under_way()
        under_way |= {each.dead_letter.number: each for each in sent if not each.ends_when_sent}
        self._count_against_rate(replay, len(sent) + len(returned))
        return bool(sent or returned)

    def _room(self, replay: Replay) -> int:
        """Return the number of dead letters that may be sent now."""
        if self._with.seconds() < self._may_send_at:
            return 0
        under_way = self._known_under_way()
        if sum(len(each.expected) for each in under_way.values()) >= _COMMANDS_MAX:
            return 0
        burst = _CHUNK if replay.rate is None else max(int(replay.rate * _BURST_S), 1)
        return min(burst, _CHUNK, UNDER_WAY_MAX - len(under_way))

    def _count_against_rate(self, replay: Replay, count: int) -> None:
        if replay.rate is not None:
            self._may_send_at = max(self._may_send_at, self._with.seconds() - _BURST_S) + count / replay.rate

    def _published(self, claimed: Sequence[Claimed]) -> tuple[list[Claimed], dict[int, str]]:
        """Return those that the broker has, and by number those without a queue. Others are sent again."""
        messages = {replay_of(each.dead_letter, self._with.sent_as, self._id): each for each in claimed}
        try:
            result = self._publish_link().publish(list(messages))
        except Exception:  # noqa: BLE001 - one message is at fault until proven otherwise
            self._drop_link()
            return self._published_one_by_one(messages)
        self._note_refusal(result)
        returned = {messages[message].dead_letter.number: _no_route(message) for message in result.returned}
        return [messages[message] for message in result.accepted], returned

    def _note_refusal(self, result: PublishResult) -> None:
        if result.refused and self._refusal is None:
            self._controls.on_trouble(f"{result.refusal} What it refused is sent again until it is taken")
        self._refusal = result.refusal if result.refused else None

    def _published_one_by_one(
        self, messages: dict[Outgoing, Claimed]
    ) -> tuple[list[Claimed], dict[int, str]]:
        """Publish one by one: the broker closes the connection for a message, or it can't be written at all.

        Raises BrokerUnavailableError where the broker is away: then no message is at fault.
        """
        sent: list[Claimed] = []
        returned: dict[int, str] = {}
        for message, each in messages.items():
            self._publish_link().depth(BILLING.dead.name)
            try:
                result = self._publish_link().publish([message])
            except Exception as error:  # noqa: BLE001 - what can't even be written comes here too
                self._drop_link()
                self._publish_link().depth(BILLING.dead.name)  # raises where the broker itself is away
                returned[each.dead_letter.number] = f"it can't be sent: {error}"
            else:
                if result.returned:
                    returned[each.dead_letter.number] = _no_route(message)
                elif result.accepted:
                    sent.append(each)  # one that a full queue refused is claimed still, and sent again
        return sent, returned

    # -- time ---------------------------------------------------------------------------------------------

    def _pause_between(self, *, moved: bool) -> None:
        """Look often while items change, and seldom while they don't."""
        if moved:
            self._moved_at = self._with.seconds()
            self._look_s = _LOOK_FIRST_S
            return
        until_rate = self._may_send_at - self._with.seconds()
        self._controls.stop.wait(min(self._look_s, until_rate) if until_rate > 0 else self._look_s)
        self._look_s = min(self._look_s * 1.5, _LOOK_MOST_S)

    def _out_of_patience(self) -> Replay | None:
        under_way = len(self._known_under_way())
        if not (under_way or self._refusal) or self._with.seconds() - self._moved_at < self._patience_s:
            return None
        if self._refusal:
            return self._end(
                ReplayState.PAUSED, f"{self._refusal} Nothing moved for {self._patience_s:.0f} s"
            )
        dead_letters = "1 dead letter" if under_way == 1 else f"{under_way} dead letters"
        return self._end(
            ReplayState.PAUSED,
            f"no outcome of {dead_letters} within {self._patience_s:.0f} s; is a worker running?",
        )

    # -- servers ------------------------------------------------------------------------------------------

    def _publish_link(self) -> Link:
        if self._link is None:
            self._link = self._with.connect()
            self._has_been_linked = True
        return self._link

    def _link_drainer(self) -> LinkDrainer:
        if self._draining is None:
            self._draining = self._with.drain()
            self._has_been_linked = True
        if self._link is not None:
            self._link.keep_alive()
        return self._draining

    def _drop_link(self) -> None:
        if self._link is not None:
            with suppress(BrokerUnavailableError):
                self._link.close()
        self._link = None

    def _wait_after(self, error: Exception) -> None:
        """Log it once and wait: doubling, with jitter; without the database, hold what came."""
        if self._failing_since is None:
            self._controls.on_trouble(f"{error}: waiting until it is back")
            self._failing_since = self._with.seconds()
        held_s = self._with.seconds() - self._failing_since
        if not isinstance(error, LedgerUnavailableError) or held_s > self._with.hold_most_s:
            self.close()
        self._under_way = None
        self._wait(self._backoff.next())
        self._moved_at = self._with.seconds()  # an outage doesn't count against the patience

    def _wait(self, seconds: float) -> None:
        """Wait so long, or until the stop, and keep the links alive."""
        left = seconds
        while left > 0 and not self._controls.stop.requested:
            self._controls.stop.wait(min(left, _KEPT_ALIVE_EVERY_S))
            left -= _KEPT_ALIVE_EVERY_S
            try:
                for link in (self._link, None if self._draining is None else self._draining.link):
                    if link is not None:
                        link.keep_alive()
            except BrokerUnavailableError:
                self.close()

    def _note_success(self) -> None:
        if self._failing_since is not None:
            self._controls.on_trouble("it is back: going on")
        self._failing_since = None
        self._backoff.reset()


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


def _no_route(message: Outgoing) -> str:
    exchange = message.exchange or "the default exchange"
    return f"reached no queue: {exchange} has no route for {message.routing_key!r}"
