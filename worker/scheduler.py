"""Publishes ``account.settle`` for what falls due and brings no message of its own.

That is: a hold that runs out, credit that expires or takes effect, a renewal that costs nothing, and an event
that a crash left waiting although its payment is there. The command
goes through the queue, like any other. Its reference is made of the account and the time at which it fell
due, so that it is applied once, whoever publishes it and however often. Several schedulers may run, and one
that crashes needs no memory. While none runs nothing is wrong: what is due is posted with the account's next
command, and reads count it.
"""

import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from schemas import SettleAccount, routing_key, type_of
from worker.broker import BILLING, Link, Outgoing, Publishes, Topology
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
    TransientError,
)
from worker.ledger.due import AwaitedPayment, DueAccount, awaited_payments, due_accounts
from worker.messages.outgoing import OutgoingCommand
from worker.messages.policy import SCHEDULER_APP_ID
from worker.metrics import Metrics
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Time that workers have for a published command before it is published again.
REMEMBERED_FOR = timedelta(minutes=5)
#: Delay before a due account is published, for a worker's clock that is a little behind.
_CLOCKS_APART = timedelta(seconds=1)
#: An account that is still due after so long was posted by a clock far behind: its reference is spent. It
#: gets another one, once in this time.
_ANEW_EVERY = timedelta(hours=1)
#: Time that a payment has to take in what waits for it: where the ledger is distributed, in several steps.
_TAKEN_IN_AFTER = timedelta(minutes=1)
_CHUNK = 1_000
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0
_WHILE_AWAY = "trying again until it is back; what falls due meanwhile is published then"

_TYPE = type_of(SettleAccount)
_Due = DueAccount | AwaitedPayment


class Scheduler:
    """Publishes ``account.settle`` for accounts that are due, at most ``rate`` of them a second.

    ``connect`` opens a link to the broker, which is kept while there is something to publish.
    ``sent_as`` is the broker user that it publishes as.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        engine: Engine,
        *,
        interval_s: float,
        rate: int,
        clock: Callable[[], datetime],
        rng: random.Random,
        metrics: Metrics,
        sent_as: str | None = None,
        topology: Topology = BILLING,
    ) -> None:
        self._connect, self._engine = connect, engine
        self._partitions, self._queues = topology.partitions, topology.queues_of(_TYPE)
        self._interval_s = interval_s
        self._most = max(int(rate * interval_s), 1)
        self._clock, self._metrics = clock, metrics
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, rng)
        self._broker, self._database = self._outage("broker"), self._outage("database")
        self._sent_as = sent_as
        self._recent: dict[_Due, datetime] = {}
        self._after: DueAccount | None = None

    def run(self, stop: Stop) -> None:
        """Run a tick every interval until ``stop``, through outages of either server.

        Raises ConfigurationError where the broker refuses the first connection.
        """
        with suppress(BrokerUnavailableError):
            self._connect().close()  # a wrong password ends it now, and not when something falls due
        while not stop.requested:
            try:
                self.tick_now()
            except (TransientError, ConfigurationError) as error:
                self._outage_of(error).began(error)
                stop.wait(self._backoff.next())
            else:
                self._backoff.reset()
                stop.wait(self._interval_s)

    def tick_now(self) -> int:
        """Run a tick by the clock, less a moment; return the number of commands published."""
        return self.tick(self._clock() - _CLOCKS_APART)

    def tick(self, now: datetime) -> int:
        """Publish what is due at ``now`` and was not published lately; return the number of commands.

        At most as many as the rate allows for an interval, less those that wait for a worker: a queue that
        isn't emptied is not filled. The next tick goes on where this one had to stop, so that accounts that
        can't be posted don't block the others.
        """
        self._recent = {due: at for due, at in self._recent.items() if at > now - REMEMBERED_FOR}
        page = due_accounts(self._engine, now, self._most, after=self._after)
        self._database.ended()
        if self._after is None:
            self._metrics.overdue.set((now - page[0].due_at).total_seconds() if page else 0.0)
        fresh = [due for due in page if due not in self._recent]
        published = self._publish(fresh, now) if fresh else 0
        if published == len(fresh):
            self._after = page[-1] if len(page) == self._most else None
        elif published:
            self._after = fresh[published - 1]
        published += self._publish_awaited(now, self._most - published)
        self._metrics.last_tick.set(now.timestamp())
        return published

    def _publish_awaited(self, now: datetime, most: int) -> int:
        """Publish for payments that are there while events wait for them, at most so many; return how many.

        Nearly always there are none: a payment takes in what waits for it.
        """
        found = awaited_payments(self._engine, now - _TAKEN_IN_AFTER, self._most)
        fresh = [awaited for awaited in found if awaited not in self._recent][: max(most, 0)]
        return self._publish(fresh, now) if fresh else 0

    def _publish(self, fresh: Sequence[_Due], now: datetime) -> int:
        """Publish the first of ``fresh``, as many as there is room for; return their number."""
        with closing(self._connect()) as link:
            room = max(self._most - sum(link.depth(queue.name) for queue in self._queues), 0)
            chosen = fresh[:room]
            for start in range(0, len(chosen), _CHUNK):
                self._publish_chunk(link, chosen[start : start + _CHUNK], now)
        self._broker.ended()
        if chosen:
            log.info("published %d commands for what fell due", len(chosen))
        return len(chosen)

    def _publish_chunk(self, link: Publishes, chunk: Sequence[_Due], now: datetime) -> None:
        """Publish, and remember what the broker has. Raises BrokerUnavailableError unless it has all."""
        published: dict[Outgoing, _Due] = {self._command(due, now): due for due in chunk}
        result = link.publish(list(published))
        self._recent |= {published[command]: now for command in result.accepted}
        self._metrics.scheduled.inc(len(result.accepted))
        result.raise_if_refused()
        if result.returned:
            raise BrokerUnavailableError(f"no queue takes {_TYPE}: run `billing-worker topology declare`")

    def _command(self, due: _Due, now: datetime) -> OutgoingCommand:
        reference = reference_of(due, now)
        body = SettleAccount(reference_id=reference, user_id=due.user_id).to_json()
        return OutgoingCommand.of(
            routing_key(_TYPE, due.user_id, self._partitions),
            body,
            message_id=reference,
            app_id=SCHEDULER_APP_ID,
            sent_as=self._sent_as,
        )

    def _outage(self, server: str) -> Outage:
        return Outage(server, _WHILE_AWAY, on_begin=self._metrics.outages.labels(server).inc, logger=log)

    def _outage_of(self, error: Exception) -> Outage:
        is_database = isinstance(error, LedgerUnavailableError | ContentionError)
        return self._database if is_database else self._broker


def reference_of(due: _Due, now: datetime) -> str:
    """Return the reference of what fell due: the same for every scheduler, another one each hour of delay."""
    moment = due.due_at.astimezone(UTC).isoformat(timespec="microseconds")
    delay = (now - due.due_at) // _ANEW_EVERY
    return f"due:{_subject(due)}:{moment}" + (f":{delay}" if delay else "")


def _subject(due: _Due) -> str:
    """Return the account that is due, or the digest of the event that waits: its reference may be long."""
    if isinstance(due, DueAccount):
        return str(due.account_id)
    return hashlib.blake2b(due.event_reference.encode(), digest_size=16).hexdigest()
