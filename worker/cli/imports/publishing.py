"""Publishing of imports through the queue: a window of them at a time, each with its reply."""

from collections.abc import Callable, Iterable
from itertools import islice
from time import monotonic

from schemas import ImportAccount, Reply, routing_key_of
from worker.broker import Link
from worker.errors import ConfigurationError, NoReplyError
from worker.messages.outgoing import OutgoingCommand

#: Most imports that wait in the queue: payments, which share it, wait behind no more.
WINDOW = 500
_CHUNK = 100
_LOOK_S = 0.5

OnReply = Callable[[ImportAccount, Reply], None]


class ImportPublisher:
    """Sends commands over a link that consumes the queue of their replies."""

    def __init__(
        self,
        link: Link,
        queue: str,
        sent_as: str | None,
        timeout_s: float,
        on_reply: OnReply,
        partitions: int = 0,
    ) -> None:
        self._partitions = partitions
        self._link, self._queue, self._sent_as = link, queue, sent_as
        self._timeout_s, self._on_reply = timeout_s, on_reply
        self._waiting: dict[str, ImportAccount] = {}

    def send(self, commands: Iterable[ImportAccount]) -> None:
        """Publish ``commands`` and return when each has its reply.

        Raises NoReplyError where none comes for so long, and BrokerUnavailableError; run again then: what
        was applied is a duplicate.
        """
        left = iter(commands)
        while chunk := list(islice(left, _CHUNK)):
            self._await(WINDOW - len(chunk))
            self._publish(chunk)
        self._await(0)

    def _publish(self, chunk: list[ImportAccount]) -> None:
        messages = [self._outgoing(command) for command in chunk]
        result = self._link.publish(messages)
        result.raise_if_refused()
        if result.returned:
            raise ConfigurationError("no queue takes account.import: run `billing-worker topology declare`")
        self._waiting.update({command.reference_id: command for command in chunk})

    def _outgoing(self, command: ImportAccount) -> OutgoingCommand:
        return OutgoingCommand.of(
            routing_key_of(command, self._partitions),
            command.to_json(),
            message_id=command.reference_id,
            app_id="billing-worker import",
            sent_as=self._sent_as,
            correlation_id=command.reference_id,
            reply_to=self._queue,
        )

    def _await(self, most: int) -> None:
        """Take replies until at most so many are awaited."""
        seen = monotonic()
        while len(self._waiting) > most:
            deliveries = self._link.receive(WINDOW, _LOOK_S)
            if deliveries:
                seen = monotonic()
            self._link.acknowledge(deliveries)
            for delivery in deliveries:
                command = self._waiting.pop(delivery.text("correlation_id") or "", None)
                if command is not None:
                    self._on_reply(command, Reply.model_validate_json(delivery.body))
            self._link.keep_alive()
            if monotonic() - seen > self._timeout_s:
                raise NoReplyError(
                    f"no reply to {len(self._waiting)} imports for {self._timeout_s:g} s; "
                    "is a worker running? Run the same again: what was applied counts once"
                )
