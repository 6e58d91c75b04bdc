"""Run of a recovery: read the journal, judge each message, publish it, and record the place.

The place is recorded after the broker has confirmed: what a killed run sent twice is applied once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from worker.broker import Outgoing, Publishes
from worker.broker.journal import Offsets, ReadsJournal
from worker.deadletters.store.lookup import known_statuses
from worker.errors import ConfigurationError
from worker.ledger.queries import snapshot
from worker.ledger.recoveries import Advance, Recoveries, Recovery
from worker.messages.policy import Policy
from worker.recovery.judging import Handling, Judge, JudgedMessage
from worker.runtime.stop import StopRequest

#: Most messages of one publish, and the time for which they are enough.
_PIECE = 250
_BURST_S = 0.2
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class RecoveryResources:
    """Resources of a recovery: the journal, a link to publish with, the ledger's database, and clocks.

    ``seconds`` is a clock that only goes forward. ``sent_as`` is the broker user that publishes.
    """

    journal: ReadsJournal
    link: Publishes
    engine: Engine
    policy: Policy
    clock: Callable[[], datetime]
    seconds: Callable[[], float]
    sent_as: str | None


@dataclass(frozen=True, slots=True)
class RecoveryControls:
    """Stop request of a recovery, and its callback when trouble begins."""

    stop: StopRequest
    on_trouble: Callable[[str], None]


def judged_messages(
    resources: RecoveryResources, since: datetime, offsets: Offsets, start: int | None = None
) -> Iterator[list[JudgedMessage]]:
    """Yield the messages of a recovery, judged, some hundreds at a time; from ``start`` on where it goes on.

    Those that the database has as dead letters already may be known, see ``JudgedMessage.as_known``.
    """
    judge = Judge(resources.policy, since=since, first=offsets.first, sent_as=resources.sent_as)
    for chunk in resources.journal.read(offsets.first if start is None else start, offsets.last):
        judged = list(judge.judged(chunk, resources.clock()))
        with snapshot(resources.engine) as connection:
            known = known_statuses(connection, {message.dead_letter_id for message in judged})
        yield [message.as_known(known.get(message.dead_letter_id)) for message in judged]


class RecoveryRun:
    """One run of a recovery, from the place that it has reached; at most ``rate`` messages a second."""

    def __init__(
        self, resources: RecoveryResources, recovery: Recovery, controls: RecoveryControls, rate: float | None
    ) -> None:
        self._with, self._controls, self._rate = resources, controls, rate
        self.recovery = recovery  #: as it is recorded
        self._recoveries = Recoveries(resources.engine)
        self._piece = _PIECE if rate is None else min(max(int(rate * _BURST_S), 1), _PIECE)
        self._may_publish_at = resources.seconds()

    def messages(self) -> Iterator[JudgedMessage]:
        """Publish all of it, or until the stop; yield each message once its place is recorded.

        Raises ConfigurationError where no queue takes a message, BrokerUnavailableError, and
        LedgerUnavailableError. The same recovery goes on later in any case.
        """
        recovery = self.recovery
        offsets = Offsets(recovery.first, recovery.last)
        for chunk in judged_messages(self._with, recovery.since, offsets, recovery.next):
            for begin in range(0, len(chunk), self._piece):
                piece = chunk[begin : begin + self._piece]
                outgoing = [message.outgoing for message in piece if message.is_published]
                self._await_turn(len(outgoing))
                if self._controls.stop.requested or not self._publish(outgoing):
                    return
                self._record(piece)
                yield from piece
        if not self.recovery.is_done:  # its last offset has no message
            self.recovery = self._advance(Advance(recovery.last + 1))

    def _record(self, judged: Sequence[JudgedMessage]) -> None:
        used = [message.handling for message in judged]
        by = Advance(
            next=judged[-1].offset + 1,
            published=used.count(Handling.COMMAND),
            dead_letters=used.count(Handling.DEAD_LETTER),
            refused=used.count(Handling.REFUSED),
            skipped=used.count(Handling.COPY) + used.count(Handling.KNOWN),
        )
        self.recovery = self._advance(by)

    def _advance(self, by: Advance) -> Recovery:
        return self._recoveries.advance(self.recovery.number, by, self._with.clock())

    def _publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish until the broker has all of them; False where the stop came first."""
        waiting = list(messages)
        is_noted = False
        while waiting:
            result = self._with.link.publish(waiting)
            if result.returned:
                keys = ", ".join(sorted({message.routing_key for message in result.returned}))
                raise ConfigurationError(f"no queue takes {keys}: run `billing-worker topology declare`")
            waiting = list(result.refused)
            if waiting and not is_noted:
                is_noted = True
                self._controls.on_trouble(f"{result.refusal} What it refused is sent again until it is taken")
            if waiting and self._controls.stop.requested:
                return False
            if waiting:
                self._keep_alive(_LOOK_S)
        return True

    def _await_turn(self, count: int) -> None:
        """Wait until ``count`` messages may be published at this rate."""
        if self._rate is None or not count:
            return
        seconds = self._with.seconds
        while (left := self._may_publish_at - seconds()) > 0 and not self._controls.stop.requested:
            self._keep_alive(min(left, _LOOK_S))
        self._may_publish_at = max(self._may_publish_at, seconds() - _BURST_S) + count / self._rate

    def _keep_alive(self, wait_s: float) -> None:
        self._with.link.keep_alive()
        self._with.journal.keep_alive(wait_s)
