"""Publishing of commands by the bridge: confirmed and mandatory, over one link that is opened on need."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final

from schemas import Command, routing_key_of
from worker.broker import Publishes
from worker.errors import BillingError, BrokerUnavailableError
from worker.messages.outgoing import OutgoingCommand

APP_ID: Final = "billing-bridge"
#: Longest wait for the link while another request publishes.
_TURN_S: Final = 10.0
#: A link that was idle for so long may have missed heartbeats: another one is opened.
_IDLE_S: Final = 10.0


class CommandPublisher:
    """Publisher for several threads, one at a time. ``sent_as`` is the broker user that it publishes as."""

    def __init__(
        self,
        connect: Callable[[], Publishes],
        *,
        sent_as: str | None,
        partitions: int = 0,
        seconds: Callable[[], float] = monotonic,
        turn_s: float = _TURN_S,
    ) -> None:
        self._connect, self._sent_as, self._seconds, self._turn_s = connect, sent_as, seconds, turn_s
        self._partitions = partitions
        self._turn = threading.Lock()
        self._link: Publishes | None = None
        self._used = 0.0

    def publish(self, commands: Sequence[Command]) -> None:
        """Publish ``commands``; return once the broker has confirmed all of them, each in a queue.

        Raises BrokerUnavailableError where it has not, and ConfigurationError where it refuses us: some of
        the commands may be published then, and all must be sent again.
        """
        messages = [self._message(command) for command in commands]
        self._take_turn()
        try:
            self._publish_again(messages)
        finally:
            self._turn.release()

    def probe(self) -> None:
        """Raise BrokerUnavailableError or ConfigurationError unless the broker takes connections."""
        self._take_turn()
        try:
            self._open_link().keep_alive()
        except BillingError:
            self._drop()
            raise
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the link."""
        with self._turn:
            self._drop()

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=self._turn_s):
            raise BrokerUnavailableError("the broker has not confirmed earlier messages yet")

    def _publish_again(self, messages: Sequence[OutgoingCommand]) -> None:
        """Publish, and once more where a link was lost that had stood before: commands may come twice."""
        is_fresh = self._link is None
        try:
            self._publish_once(messages)
        except BrokerUnavailableError:
            if is_fresh or self._link is not None:
                raise
            self._publish_once(messages)

    def _publish_once(self, messages: Sequence[OutgoingCommand]) -> None:
        try:
            result = self._open_link().publish(messages)
        except BillingError:
            self._drop()
            raise
        result.raise_if_refused()
        if result.returned:
            types = ", ".join(sorted({message.routing_key for message in result.returned}))
            raise BrokerUnavailableError(f"no queue takes {types}: run `billing-worker topology declare`")

    def _open_link(self) -> Publishes:
        now = self._seconds()
        if self._link is not None and now - self._used > _IDLE_S:
            self._drop()
        if self._link is None:
            self._link = self._connect()
        self._used = now
        return self._link

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(BillingError):
                link.close()

    def _message(self, command: Command) -> OutgoingCommand:
        return OutgoingCommand.of(
            routing_key_of(command, self._partitions),
            command.to_json(),
            message_id=command.reference_id,
            app_id=APP_ID,
            sent_as=self._sent_as,
        )
