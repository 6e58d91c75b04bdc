"""A message, or an item of a batch, that is no command."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Malformed:
    """Reason why a message or an item of a ``usage.batch`` is no command.

    ``reason`` is one of ``body_too_large``, ``byte_order_mark``, ``not_utf8``, ``not_json``, ``too_deep``,
    ``duplicate_field``, ``not_an_object``, ``missing_field``, ``unknown_field``, ``unknown_type``,
    ``invalid_field``; the pipeline adds ``wrong_sender`` and ``wrong_routing_key``. The identities are
    given where they could be read. ``field`` of an item begins with its place: ``items.3.tokens``.
    """

    reason: str
    message: str
    field: str | None = None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None


class MalformedError(Exception):
    """Carries ``reason``, ``message`` and ``field`` of a ``Malformed`` to where its identities are known."""

    def __init__(self, reason: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.field = reason, message, field
