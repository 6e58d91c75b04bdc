"""World without servers: a ledger, a worker that can be away, a broker in memory, an adjustable clock.

Time passes only while code waits; meanwhile the worker works, unless it is away.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from schemas import Command, DeadLetterReason, OpenAccount
from tests.support.apply_commands import applied
from tests.support.fakes import FakeLink
from tests.support.own_user import OWN_POLICY, OWN_USER, OWN_USERS
from worker.broker import BILLING, Delivery, Link, Outgoing, PublishResult
from worker.catalog import Catalog, load_catalog
from worker.deadletters.models import DeadLetterStatus, Replay, StoredDeadLetter
from worker.deadletters.replay.run import RunnerResources
from worker.deadletters.replay.runner import ReplayRunner
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import BrokerUnavailableError
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.receiving import message_in
from worker.metrics import Metrics
from worker.pipeline import Pipeline

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
DEAD = BILLING.dead.name
NOT_JSON = Failure(DeadLetterReason.NOT_JSON, "no JSON")


class Killed(BaseException):
    """Stands in for kill -9: no handler of ``Exception`` catches it."""


def delivered(
    body: bytes,
    routing_key: str = "usage.deduct",
    *,
    properties: Mapping[str, Any] | None = None,
    headers: Mapping[Any, Any] | None = None,
    exchange: str = BILLING.exchange,
) -> Delivery:
    """Return a message as a worker receives it."""
    in_turn = "billing.usage" if routing_key.startswith("usage.") else "billing.payments"
    queue = BILLING.bulk.name if exchange == BILLING.bulk_exchange else in_turn
    return Delivery(body, queue, exchange, routing_key, 1, properties=properties or {}, headers=headers or {})


def failed(
    body: bytes = b"oops",
    *,
    routing_key: str = "usage.deduct",
    properties: Mapping[str, Any] | None = None,
    headers: Mapping[Any, Any] | None = None,
    reason: Failure = NOT_JSON,
    at: datetime = NOW,
    tries: int = 1,
    exchange: str = BILLING.exchange,
) -> Delivery:
    """Return a dead letter as it comes out of its queue."""
    original = delivered(body, routing_key, properties=properties, headers=headers, exchange=exchange)
    return from_dead_queue(dead_letter_for(original, reason, OWN_POLICY, tries=tries, now=at))


def from_dead_queue(dead_letter: Outgoing) -> Delivery:
    """Return the dead letter after its way through the queue."""
    return Delivery(
        dead_letter.body, DEAD, "", DEAD, 1, properties=dead_letter.properties, headers=dead_letter.headers
    )


class DeadQueue(FakeLink):
    """Link that consumes dead letters; ``waiting`` holds those that are not received yet."""

    def __init__(self, *waiting: Delivery) -> None:
        super().__init__(*waiting, consume={DEAD: 1_000})

    @property
    def waiting(self) -> deque[Delivery]:
        return self._broker.queue(DEAD)


class _WorldLink(FakeLink):
    """Link that publishes into the world."""

    def __init__(self, world: "World") -> None:
        super().__init__(consume={})
        self._world = world

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        world = self._world
        world.on_publish()
        if world.is_broker_away or any(message.exchange in world.gone for message in messages):
            raise BrokerUnavailableError("the connection is lost")
        if world.is_full:
            return PublishResult(messages, refused=messages)
        world.published += messages
        returned = [message for message in messages if message.routing_key in world.unroutable]
        world.queued += [message for message in messages if message not in returned]
        return PublishResult(messages, returned)

    def depth(self, queue: str) -> int:
        del queue
        if self._world.is_broker_away:
            raise BrokerUnavailableError("the connection is lost")
        return 0


class World:
    """The world that the module describes. ``now`` and ``seconds`` are the same clock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.catalog: Catalog = load_catalog()
        self.policy = OWN_POLICY
        self.now, self.seconds = NOW, 0.0
        self.dead = DeadQueue()
        self.published: list[Outgoing] = []
        self.queued: list[Outgoing] = []
        self.unroutable: set[str] = set()
        self.gone: set[str] = set()  #: exchanges for which the broker closes the connection
        self.has_worker = True
        self.is_broker_away = False
        self.is_full = False  #: the broker refuses what is published
        self.is_stopped = False
        self.on_publish: Callable[[], None] = lambda: None
        self.on_wait: Callable[[], None] = lambda: None
        self.troubles: list[str] = []
        self.service = DeadLetters(
            engine,
            catalog=self.catalog,
            receive=lambda delivery, now: message_in(delivery, self.policy, now),
            clock=lambda: self.now,
            sent_as=OWN_USER,
            worker_users=OWN_USERS,
        )

    # -- the clock, as a Stop -----------------------------------------------------------------------------

    @property
    def requested(self) -> bool:
        return self.is_stopped

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.now += timedelta(seconds=seconds)
        self.on_wait()
        if self.has_worker:
            self.work()

    # -- the worker ---------------------------------------------------------------------------------------

    def work(self) -> None:
        """Process all messages that wait, as a worker does; dead letters go to their queue."""
        if not self.queued:
            return
        pipeline = Pipeline(
            Ledger(self.engine),
            self.catalog,
            self.policy,
            clock=lambda: self.now,
            pause=lambda _: None,
            metrics=Metrics(),
        )
        deliveries = [
            delivered(m.body, m.routing_key, properties=m.properties, headers=m.headers, exchange=m.exchange)
            for m in self.queued
        ]
        self.queued = []
        link = FakeLink()
        items = pipeline.receive(deliveries)
        pipeline.apply(items)
        pipeline.reply_and_acknowledge(link, items)
        self.dead.waiting.extend(map(from_dead_queue, link.dead_letters))

    def apply(self, *commands: Command) -> None:
        applied(self.engine, self.catalog, *commands, now=self.now)

    def open(self, *users: str) -> None:
        """Open accounts of 10,000 tokens."""
        self.apply(*(OpenAccount(reference_id=f"open-{u}", user_id=u, tier="free") for u in users))

    def balance(self, user: str) -> int:
        return Reader(self.engine).balance(user, self.now, self.catalog).balance

    # -- dead letters -------------------------------------------------------------------------------------

    def park(self, *deliveries: Delivery) -> list[StoredDeadLetter]:
        """Drain these deliveries; return all parked dead letters, oldest first."""
        self.dead.waiting.extend(deliveries)
        self.service.drain(self.dead)
        return self.parked()

    def parked(self) -> list[StoredDeadLetter]:
        return list(self.service.every_dead_letter(DeadLetterFilter(status=(DeadLetterStatus.PARKED,))))[::-1]

    def park_failed(self, *messages: Mapping[str, Any], reason: Failure | None = None) -> list[int]:
        """Park dead letters of these messages, whose cause is gone; return their numbers."""
        why = reason or Failure(DeadLetterReason.UNPROCESSABLE, "KeyError: a bug", traceback=TRACEBACK)
        before = {dead_letter.number for dead_letter in self.parked()}
        dead_letters = self.park(
            *(
                failed(
                    json.dumps(m).encode(),
                    routing_key=str(m["type"]),
                    reason=replace(
                        why, type=str(m["type"]), reference_id=m["referenceId"], user_id=m["userId"]
                    ),
                    properties={"message_id": f"m-{m['referenceId']}"},
                )
                for m in messages
            )
        )
        return [dead_letter.number for dead_letter in dead_letters if dead_letter.number not in before]

    def status(self, number: int) -> str:
        return self.service.dead_letter(number).status

    def kinds(self, number: int) -> list[str]:
        """Return the history of a dead letter as the kinds of its events."""
        return [event.kind for event in self.service.details(number).events]

    # -- replays ------------------------------------------------------------------------------------------

    def runner(self, name: str = "runner") -> ReplayRunner:
        def connect() -> Link:
            if self.is_broker_away:
                raise BrokerUnavailableError("the broker is not available")
            return _WorldLink(self)

        return ReplayRunner(
            RunnerResources(
                engine=self.engine,
                connect=connect,
                drain=lambda: self.service.link_drainer(self.dead),
                name=name,
                clock=lambda: self.now,
                seconds=lambda: self.seconds,
                rng=random.Random(1),
                sent_as=OWN_USER,
            )
        )

    def replay(
        self,
        dead_letters: Sequence[int] | DeadLetterFilter,
        *,
        rate: float | None = None,
        steps: Sequence[int] = (),
        patience_s: float = 5.0,
    ) -> Replay:
        """Create a replay and run it as far as it goes."""
        created = self.service.create_replay(dead_letters, "mended", "ann", rate=rate, steps=steps)
        return self.run(created.number, patience_s=patience_s)

    def run(self, replay_id: int, name: str = "runner", patience_s: float = 5.0) -> Replay:
        return self.runner(name).run(
            replay_id, "ann", stop=self, on_trouble=self.troubles.append, patience_s=patience_s
        )


TRACEBACK = """Traceback (most recent call last):
  File "/somewhere/worker/pipeline.py", line 104, in transact
    plan = decide(commands, known, now, self._catalog)
  File "/elsewhere/site-packages/sqlalchemy/engine.py", line 12, in execute
    return 1
  File "/somewhere/worker/core/decide.py", line 84, in decide
    batch.plan.answers.append(batch.answer(command))
KeyError: 'u-17'
"""


def deduct(reference: str, tokens: int = 5, user: str = "ann", **fields: Any) -> dict[str, Any]:
    """Return a deduction as it is on the wire."""
    return {"type": "usage.deduct", "referenceId": reference, "userId": user, "tokens": tokens, **fields}


def came_of(replay: Replay) -> dict[str, int]:
    """Return the counts of a replay that aren't zero."""
    return {state: count for state, count in replay.counts.items() if count}
