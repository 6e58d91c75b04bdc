"""Producer in a thread, which survives outages of the broker."""

import json
from collections.abc import Callable, Iterable
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from tests.support.mixed_messages import Message
from tests.support.rabbit_client import user_of
from tests.support.waiting import PATIENCE_S

#: Pause between two messages of a producer: some hundred a second leave the machine to the servers.
PACE_S = 0.004


class BackgroundProducer:
    """Producer in a thread, with confirms; it publishes again where a confirm is missing.

    A message may reach the broker twice; one that is in ``published`` has reached it. The correlation id
    is the reference, the reply goes to ``reply_to``. ``key_of`` gives each its routing key.
    """

    def __init__(
        self,
        url: str,
        messages: Iterable[Message],
        *,
        reply_to: str,
        key_of: Callable[[Message], str] = lambda message: str(message["type"]),
    ) -> None:
        self._url, self._messages, self._reply_to = url, messages, reply_to
        self._key_of = key_of
        self._enough = Event()
        self._thread = Thread(target=self._run, name="producer")
        self.published: list[Message] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        channel: Any = None
        for message in self._messages:
            deadline = monotonic() + PATIENCE_S
            while not self._enough.is_set():
                try:
                    if channel is None:
                        channel = self._channel()
                    self._publish(channel, message)
                except (AMQPError, OSError):
                    assert monotonic() < deadline, "the producer finds no broker"
                    channel = None
                    self._enough.wait(0.1)
                else:
                    self.published.append(message)
                    self._enough.wait(PACE_S)
                    break
            if self._enough.is_set():
                break
        if channel is not None:
            channel.connection.close()

    def _channel(self) -> Any:
        parameters = pika.URLParameters(self._url)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 5
        channel = pika.BlockingConnection(parameters).channel()
        channel.confirm_delivery()
        return channel

    def _publish(self, channel: Any, message: Message) -> None:
        properties = pika.BasicProperties(
            correlation_id=message["referenceId"],
            reply_to=self._reply_to,
            delivery_mode=2,
            user_id=user_of(self._url),
        )
        channel.basic_publish(
            "billing", self._key_of(message), json.dumps(message).encode(), properties, mandatory=True
        )
