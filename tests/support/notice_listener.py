"""Reader of notices for tests."""

import json

from tests.support.mixed_messages import Message
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import BILLING


class NoticeListener:
    """Reader of notices, on the connection of a client."""

    def __init__(self, rabbit: RabbitClient) -> None:
        self._rabbit = rabbit
        self._queue = str(rabbit.channel.queue_declare("", exclusive=True).method.queue)
        rabbit.channel.queue_bind(self._queue, BILLING.events, "#")
        self._notices: list[Message] = []

    def received(self) -> set[tuple[str, str]]:
        """Return reference and type of each received notice; copies of one are equal."""
        waiting = self._rabbit.take(self._queue, self._rabbit.depth(self._queue))
        self._notices += [json.loads(body) for _, body in waiting]
        bodies: dict[str, Message] = {}
        for notice in self._notices:
            assert bodies.setdefault(notice["id"], notice) == notice
        assert len({(notice["referenceId"], notice["type"]) for notice in bodies.values()}) == len(bodies)
        return {(notice["referenceId"], notice["type"]) for notice in bodies.values()}

    def expect(self, noticed: set[tuple[str, str]]) -> None:
        """Wait for all notices of ``noticed``; fail the test if others come."""
        eventually(lambda: self.received() >= noticed, what="every notice")
        assert self.received() == noticed
