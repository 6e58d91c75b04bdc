"""Entries of `publish` in the activity log: one before the first message, one after the last.

So a crash leaves no publishing unlogged: an entry without its end says that it was interrupted.
"""

from collections.abc import Mapping

from worker.deadletters.service import DeadLetters

BEGUN, ENDED = "publish", "publish.ended"


class PublishLog:
    """Entries of one call of ``publish``, by an actor and for a reason."""

    def __init__(self, service: DeadLetters, actor: str, reason: str | None) -> None:
        self._service, self._actor, self._reason = service, actor, reason

    def begin(self, source: str, detail: Mapping[str, str | int | None]) -> None:
        """Write that ``source`` is about to be published. Raises LedgerUnavailableError."""
        self._record(BEGUN, source, detail)

    def end(self, source: str, detail: Mapping[str, str | int | None]) -> None:
        """Write the result."""
        self._record(ENDED, source, detail)

    def _record(self, action: str, source: str, detail: Mapping[str, str | int | None]) -> None:
        known = {name: value for name, value in detail.items() if value is not None}
        self._service.record(self._actor, action, source, self._reason, known)
