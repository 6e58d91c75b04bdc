"""Log of dead letters: one line a second and cause, with the count and one message as an example."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from schemas import DeadLetter, DeadLetterReason
from schemas.dead_letter import SENDER_HEADER
from schemas.trace import TRACEPARENT, TraceContext, trace_in
from worker.messages.outgoing import OutgoingDeadLetter
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent

#: Reasons that are faults of the worker's; the others are refusals.
FAULTS = frozenset({DeadLetterReason.UNPROCESSABLE, DeadLetterReason.DELIVERY_LIMIT})
ANONYMOUS = "anonymous"

_EVERY_S = 1.0
#: Causes that have lines of their own at a time; the name of an unknown field is the sender's to choose.
_CAUSES_MAX = 100
_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class DeadLetterCause:
    """Cause that dead letters share. ``fault`` is the class of the worker's own exception."""

    code: str
    field: str | None
    type: str | None
    sender: str
    fault: str | None = None

    @classmethod
    def of(cls, message: OutgoingDeadLetter) -> "DeadLetterCause":
        """Return the cause of a dead letter."""
        dead_letter = message.dead_letter
        return cls(
            dead_letter.reason,
            dead_letter.field,
            dead_letter.type,
            message.headers.get(SENDER_HEADER) or ANONYMOUS,
            _fault_in(dead_letter),
        )

    @property
    def level(self) -> int:
        """Level of the log: a fault of ours is an error."""
        return logging.ERROR if self.code in FAULTS else logging.WARNING

    @property
    def text(self) -> str:
        """The cause for people."""
        fault = f" ({self.fault})" if self.fault else ""
        field = f" {_shown(self.field)}" if self.field else ""
        return f"{self.code}{fault}{field} of {_shown(self.type) if self.type else 'unknown type'}"


@dataclass(slots=True)
class _Pending:
    """Dead letters of one cause that no line has told of; the latest is the example."""

    count: int = 0
    example: DeadLetter | None = None
    trace: TraceContext | None = None


class DeadLetterLog:
    """Counts dead letters by their cause; ``write`` logs each cause at most once a second."""

    def __init__(
        self, logger: logging.Logger, *, every_s: float = _EVERY_S, seconds: Callable[[], float] = monotonic
    ) -> None:
        self._log, self._every_s, self._seconds = logger, every_s, seconds
        self._pending: dict[DeadLetterCause, _Pending] = {}
        self._written: dict[DeadLetterCause, float] = {}

    def add(self, message: OutgoingDeadLetter) -> None:
        """Count a dead letter that the broker has."""
        cause = DeadLetterCause.of(message)
        if cause not in self._pending and len({*self._pending, *self._written}) >= _CAUSES_MAX:
            cause = DeadLetterCause("others", None, None, "several")
        pending = self._pending.setdefault(cause, _Pending())
        pending.count += 1
        pending.example = message.dead_letter
        pending.trace = trace_in(message.headers.get(TRACEPARENT))

    def write(self, *, all_: bool = False) -> None:
        """Log the causes whose last line is a second old; with ``all_``, all that is counted."""
        if not self._pending and not self._written:
            return
        now = self._seconds()
        self._written = {cause: at for cause, at in self._written.items() if now - at < self._every_s}
        for cause in [cause for cause in self._pending if all_ or cause not in self._written]:
            self._write(cause, self._pending.pop(cause))
            self._written[cause] = now

    def _write(self, cause: DeadLetterCause, pending: _Pending) -> None:
        example = pending.example
        reference = None if example is None else example.reference_id
        self._log.log(
            cause.level,
            "%d × %s, such as %s, sender %s: see `billing-worker dead-letters groups`",
            pending.count,
            cause.text,
            "one without a reference" if reference is None else _shown(reference),
            _shown(cause.sender),
            extra=log_fields.fields(
                LogEvent.DEAD_LETTERS,
                count=pending.count,
                code=cause.code,
                field=cause.field,
                type=cause.type,
                sender=cause.sender,
                reference_id=reference,
                user_id=None if example is None else example.user_id,
                queue=None if example is None else example.queue,
                trace=pending.trace,
            ),
        )


def _fault_in(dead_letter: DeadLetter) -> str | None:
    """Return the class of the exception; what its text says may be the sender's data."""
    if dead_letter.reason != DeadLetterReason.UNPROCESSABLE:
        return None
    name, colon, _ = dead_letter.message.partition(":")
    return name if colon and name.isidentifier() else None


def _shown(text: str) -> str:
    """Return a sender's text for one line: quoted where it is more than a plain word, and not too long."""
    short = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
    return short if short.isprintable() and " " not in short else repr(short)
