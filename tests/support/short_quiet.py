"""Shorter waits at the end of a stream: the broker of the tests answers at once."""

import pytest


def short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits that tell the end of a stream, and an empty one."""
    for wait in ("_QUIET_S", "_NOTHING_S"):
        monkeypatch.setattr(f"worker.broker.rabbitmq.streams.{wait}", 0.3)
