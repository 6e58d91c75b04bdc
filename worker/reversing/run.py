"""Run: collect results, publish refunds, claim the next charges; at a rate, through outages.

A charge is marked as sent before its refund is published. A killed process leaves a run that the next one
resumes: it publishes again what has no result, and the ledger deduplicates it. Two processes may work on one
run: they send the same operations.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from worker.broker import Outgoing, Publishes
from worker.deadletters.replay.pace import RunPace
from worker.errors import BrokerUnavailableError, ConfigurationError, TransientError
from worker.ledger.queries import snapshot
from worker.ledger.queries.charges import ChargeKey
from worker.reversing import store
from worker.reversing.models import ChargeState, ReverseRun
from worker.reversing.refunds import message_of
from worker.reversing.results import dead_letters_of, results_of
from worker.reversing.store import SentRefund
from worker.runtime.backoff import Backoff
from worker.runtime.stop import Stop

#: Most refunds that are sent and have no result: payments behind them wait no longer than for these.
_UNDER_WAY_MAX = 500
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 5.0
#: Time without any result after which the dead letters are looked at.
_QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class ReverseResources:
    """Resources of runs: the database, links to publish with, and clocks.

    ``seconds`` is a clock that only goes forward. ``sent_as`` is the broker user that publishes,
    ``partitions`` the number of those of the queues.
    """

    engine: Engine
    connect: Callable[[], Publishes]
    clock: Callable[[], datetime]
    seconds: Callable[[], float]
    rng: random.Random
    sent_as: str | None
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class ReverseControls:
    """Stop request of a run, and its callbacks: the charges by state with every look, and trouble."""

    stop: Stop
    on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None
    on_trouble: Callable[[str], None] = lambda _text: None


class Reversing:
    """Execution of a run, to its end or until it rests.

    What it keeps in memory can be read again.
    """

    def __init__(
        self,
        resources: ReverseResources,
        run: ReverseRun,
        controls: ReverseControls,
        patience_s: float = 60.0,
    ) -> None:
        self._with, self._run, self._controls, self._patience_s = resources, run, controls, patience_s
        self._pace = RunPace(resources.seconds, controls.stop)
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, resources.rng)
        self._link: Publishes | None = None
        self._counts: Counter[str] = Counter()
        self._under_way: dict[ChargeKey, SentRefund] | None = None
        self._unpublished: dict[ChargeKey, SentRefund] = {}
        self._is_drained = self._is_fresh = self._is_in_trouble = False

    def to_its_end(self) -> ReverseRun:
        """Run until each charge has a result, nothing moves any more, or the stop; return the run then.

        Raises BrokerUnavailableError or ConfigurationError where the first link can't be opened, or no queue
        takes refunds. A later outage of either server is waited out.
        """
        self._link = self._with.connect()
        try:
            while True:
                try:
                    ended = self._look()
                except TransientError as error:
                    self._wait_after(error)
                    ended = self._stopped()
                else:
                    self._note_success()
                if ended is not None:
                    return ended
        finally:
            self._close()

    def _look(self) -> ReverseRun | None:
        """Collect, publish and claim; return the run where it rests now, else None."""
        if (stopped := self._stopped()) is not None:
            return stopped
        under_way = self._read_again() if self._under_way is None else self._under_way
        moved = self._claim(under_way)
        moved |= self._collect(under_way)  # before they are published: some may have a result already
        moved |= self._publish()
        self._controls.on_progress(self._counts)
        if self._is_drained and not under_way and (ended := self._finished()) is not None:
            return ended
        self._pace.pause(moved=moved)
        return None if moved else self._out_of_patience(under_way)

    def _stopped(self) -> ReverseRun | None:
        if not self._controls.stop.requested:
            return None
        return store.pause(self._with.engine, self._with.clock(), self._run.number, "it was asked to rest")

    def _read_again(self) -> dict[ChargeKey, SentRefund]:
        """Read the state of the run: what was sent and has no result is published again.

        One that has become a dead letter isn't: that waits for an operator.
        """
        engine = self._with.engine
        self._run = store.get(engine, self._run.number)
        self._counts = Counter(self._run.counts)
        self._under_way = {one.key: one for one in store.sent_refunds(engine, self._run)}
        self._unpublished = dict(self._under_way)
        self._is_fresh = True
        return self._under_way

    # -- results ------------------------------------------------------------------------------------------

    def _collect(self, under_way: dict[ChargeKey, SentRefund]) -> bool:
        """End what the ledger shows; True where anything changed."""
        sent = list(under_way.values())
        if not sent:
            return False
        with snapshot(self._with.engine) as connection:
            found = results_of(connection, self._run.number, sent)
            ends = dict(found.ends)
            if self._is_fresh or self._pace.unmoved_s > _QUIET_S:
                rest = [one for one in sent if one.key not in ends and one.key not in found.changed]
                ends |= dead_letters_of(connection, rest)
        self._is_fresh = False
        engine, number = self._with.engine, self._run.number
        store.end(engine, self._with.clock(), number, ends)
        store.wait_again(engine, number, found.changed)
        self._count(ChargeState.SENT, -len(ends) - len(found.changed))
        self._count(ChargeState.WAITING, len(found.changed))
        self._counts.update(one.state.value for one in ends.values())
        for key in (*ends, *found.changed):
            del under_way[key]
            self._unpublished.pop(key, None)
        return bool(ends or found.changed)

    def _count(self, state: ChargeState, change: int) -> None:
        self._counts[state.value] += change

    # -- the next charges ---------------------------------------------------------------------------------

    def _claim(self, under_way: dict[ChargeKey, SentRefund]) -> bool:
        """Claim as many charges as the rate and those under way allow; False where there were none."""
        room = min(self._pace.room(self._run.rate), _UNDER_WAY_MAX - len(under_way))
        if room < 1 or self._unpublished:
            return False
        claimed = store.claim(self._with.engine, self._with.clock(), self._run, room)
        by_key = {one.key: one for one in claimed.sent}
        under_way.update(by_key)
        self._unpublished.update(by_key)
        self._count(ChargeState.WAITING, -len(by_key) - claimed.given_back)
        self._count(ChargeState.SENT, len(by_key))
        self._count(ChargeState.GIVEN_BACK_BEFORE, claimed.given_back)
        self._pace.count_sent(len(by_key), self._run.rate)
        self._is_drained = not (by_key or claimed.given_back)
        return not self._is_drained

    def _publish(self) -> bool:
        """Publish what the broker has not taken yet; True where it has taken any."""
        if self._link is None:
            self._link = self._with.connect()
        if not self._unpublished:
            self._link.keep_alive()
            return False
        now = self._with.clock()
        messages: dict[Outgoing, ChargeKey] = {
            message_of(one.command, self._with.sent_as, now, self._with.partitions): key
            for key, one in self._unpublished.items()
        }
        result = self._link.publish(list(messages))
        if result.returned:
            key = result.returned[0].routing_key
            raise ConfigurationError(f"no queue takes {key}: run `billing-worker topology declare`")
        for message in result.accepted:
            self._unpublished.pop(messages[message], None)
        if result.refused and not self._is_in_trouble:
            self._is_in_trouble = True
            self._controls.on_trouble(f"{result.refusal} What it refused is sent again until it is taken")
        return bool(result.accepted)

    # -- ends and waits -----------------------------------------------------------------------------------

    def _finished(self) -> ReverseRun | None:
        ended = store.finish(self._with.engine, self._with.clock(), self._run.number)
        if ended is None:  # another process has claimed some, or has let some wait again
            self._under_way = None
        return ended

    def _out_of_patience(self, under_way: Mapping[ChargeKey, SentRefund]) -> ReverseRun | None:
        if not under_way or self._pace.unmoved_s < self._patience_s:
            return None
        count = len(under_way)
        text = f"no result of {count:,} refund{'' if count == 1 else 's'} within {self._patience_s:g} s; "
        text += "is a worker running? See `billing-worker check` and `billing-worker dead-letters groups`"
        return store.pause(self._with.engine, self._with.clock(), self._run.number, text)

    def _wait_after(self, error: TransientError) -> None:
        """Note an outage once, and wait: doubling, with jitter."""
        if not self._is_in_trouble:
            self._controls.on_trouble(f"{error}: waiting until it is back")
            self._is_in_trouble = True
        if isinstance(error, BrokerUnavailableError):
            self._close()
        else:
            self._under_way = None  # a change may be stored whose answer was lost
        self._pace.wait_out(self._backoff.next(), self._keep_alive)

    def _keep_alive(self) -> None:
        """Keep an open link alive; it is closed where it is lost."""
        if self._link is not None:
            try:
                self._link.keep_alive()
            except BrokerUnavailableError:
                self._close()

    def _note_success(self) -> None:
        if self._is_in_trouble and not self._unpublished:
            self._controls.on_trouble("it is back: going on")
            self._is_in_trouble = False
        self._backoff.reset()

    def _close(self) -> None:
        if self._link is not None:
            with suppress(BrokerUnavailableError):
                self._link.close()
        self._link = None
