"""Caller at a steady pace, a process of its own: it publishes on time and times the replies.

An open loop: the times of sending are fixed beforehand and a reply's latency counts from the time its request
was due, so that a slow moment shows in all requests that fell into it (no coordinated omission). It speaks
through pika, without waiting for confirms: at this pace a caller would not. Reads its task from standard
input as JSON, writes what it saw to standard output.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from time import monotonic, sleep
from typing import Any, Literal, Self

import pika

from schemas import DeductUsage, QueryBalance, routing_key
from tests.benchmarks.loads import SEED, deductions, in_turns
from tests.benchmarks.sandbox import user_id
from tests.support.rabbit_client import user_of
from worker.broker import BILLING

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """Messages to send: ``warm_up`` deductions, or queries, then ``counted`` ones at ``per_second``.

    One goes alone before these, and its reply is waited for: a worker is there. ``straight`` ones come after
    them, into the queue of the replies itself: they show what broker and caller need without a worker. The
    ``seed`` makes the references. With ``partitions`` each goes to that of its user.
    """

    broker_url: str
    users: int
    per_second: float
    counted: int
    warm_up: int
    straight: int
    type: Literal["usage.deduct", "query.balance"] = "usage.deduct"
    seed: int = SEED
    partitions: int = 0

    @property
    def messages(self) -> int:
        """Number of requests that a worker gets."""
        return 1 + self.warm_up + self.counted

    def for_broker(self, url: str) -> Self:
        """Return the same task at another broker."""
        return replace(self, broker_url=url)

    def to_json(self) -> str:
        """JSON for the probe's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a task from the probe's standard input."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Seen:
    """Times in milliseconds: publish to reply, delay of sending, publish to the queue of the replies."""

    latencies_ms: list[float]
    late_ms: list[float]
    straight_ms: list[float]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the times from the probe's standard output."""
        return cls(**json.loads(text))


class ReplyReader(threading.Thread):
    """Reader of replies on a connection and a queue of its own."""

    def __init__(self, url: str, expected: int) -> None:
        super().__init__(name="replies", daemon=True)
        self.arrived = [0.0] * expected
        self.last = monotonic()
        self.any = threading.Event()
        self.complete = threading.Event()
        self._left = expected
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self.user = user_of(url)
        self.queue: str = f"{BILLING.replies.name}.{self.user}.probe"
        self._channel.queue_declare(self.queue, exclusive=True, auto_delete=True)

    def run(self) -> None:
        """Read until the last reply, or until the process ends."""
        self._channel.basic_consume(self.queue, self._on_reply, auto_ack=True)
        self._channel.start_consuming()

    def all_came(self, while_waiting: Callable[[], None]) -> bool:
        """Wait for the last reply; False where none comes for half a minute before it."""
        while not self.complete.wait(1.0):
            while_waiting()
            if monotonic() - self.last > _PATIENCE_S:
                return False
        return True

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        now = self.last = monotonic()
        place = int(properties.correlation_id)
        if not self.arrived[place]:
            self.arrived[place] = now
            self._left -= 1
        self.any.set()
        if not self._left:
            self.complete.set()
            self._channel.stop_consuming()


def main() -> int:
    """Do the task; 1 where replies are missing, and none has come for half a minute."""
    task = Task.read(sys.stdin.read())
    replies = ReplyReader(task.broker_url, task.messages + task.straight)
    replies.start()
    with pika.BlockingConnection(pika.URLParameters(task.broker_url)) as connection:
        requests = _Requests(task, connection.channel(), replies)
        requests.send(0)
        if not replies.any.wait(_PATIENCE_S):
            sys.stderr.write("no reply came\n")
            return 1
        due, sent = _paced(task, requests)
        # The connection stays until then: a quorum queue may lose what a channel sends right before its end,
        # unless its confirm is waited for.
        if not replies.all_came(while_waiting=lambda: connection.process_data_events(0)):
            missing = [place for place, arrived in enumerate(replies.arrived) if not arrived]
            sys.stderr.write(f"{len(missing):,} requests have no reply, such as {missing[:5]}\n")
            return 1

    def latencies(places: range) -> list[float]:
        return [round((replies.arrived[place] - due[place]) * 1e3, 3) for place in places]

    counted = range(1 + task.warm_up, task.messages)
    seen = Seen(
        latencies_ms=latencies(counted),
        late_ms=[round((sent[place] - due[place]) * 1e3, 3) for place in counted],
        straight_ms=latencies(range(task.messages, task.messages + task.straight)),
    )
    sys.stdout.write(json.dumps(asdict(seen)))
    return 0


class _Requests:
    """Requests that are encoded in advance, so that sending costs little."""

    def __init__(self, task: Task, channel: Any, replies: ReplyReader) -> None:
        self._channel, self._reply_to, self._asked = channel, replies.queue, task.messages
        self._user = replies.user
        count, pick = task.messages + task.straight, in_turns(task.users)
        asked: Iterable[DeductUsage | QueryBalance] = (
            deductions(count, pick, task.seed)
            if task.type == "usage.deduct"
            else (QueryBalance(user_id=user_id(pick())) for _ in range(count))
        )
        self._messages = [
            (routing_key(task.type, message.user_id, task.partitions), message.to_json()) for message in asked
        ]

    def send(self, place: int) -> None:
        properties = pika.BasicProperties(
            delivery_mode=2,
            content_type="application/json",
            correlation_id=str(place),
            message_id=f"message-{place:08}",
            reply_to=self._reply_to,
            user_id=self._user,
        )
        key, body = self._messages[place]
        route = (BILLING.exchange, key) if place < self._asked else ("", self._reply_to)
        self._channel.basic_publish(*route, body, properties)


def _paced(task: Task, requests: _Requests) -> tuple[list[float], list[float]]:
    """Send the requests after the first at their times; return the due and the actual times."""
    began = monotonic() + 0.1
    due = [began + place / task.per_second for place in range(task.messages + task.straight)]
    sent = [began]
    for place in range(1, len(due)):
        if (early := due[place] - monotonic()) > 0:
            sleep(early)
        sent.append(monotonic())
        requests.send(place)
    return due, sent


if __name__ == "__main__":
    sys.exit(main())
