"""Log with a line for each message: for a trace of single references, which costs time and space."""

import logging

from worker.broker import Delivery
from worker.messages.tracing import trace_of
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent


class MessageLog:
    """Writes a line for each message once it is replied to and acknowledged."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger

    def add(
        self,
        delivery: Delivery,
        *,
        status: str,
        code: str,
        sender: str | None,
        type_: str | None,
        reference_id: str | None,
        user_id: str | None,
        attempt: int | None = None,
        duplicate: bool | None = None,
    ) -> None:
        """Log one message with its result."""
        self._log.info(
            "%s %s %r (%s)",
            status,
            type_ or "a message of unknown type",
            reference_id,
            "duplicate" if duplicate else code,
            extra=log_fields.fields(
                LogEvent.MESSAGE,
                type=type_,
                reference_id=reference_id,
                user_id=user_id,
                queue=delivery.queue,
                status=status,
                code=code,
                attempt=attempt,
                duplicate=duplicate,
                sender=sender,
                trace=trace_of(delivery),
            ),
        )
