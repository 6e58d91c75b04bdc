"""What the fault tests share."""

import logging
from collections.abc import Iterator

import pytest

from tests.support.saboteur import Saboteurs
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _quiet_pika() -> Iterator[None]:
    """pika tells a page about every refused connection; here they are refused on purpose."""
    logger = logging.getLogger("pika")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in this process hears of its stop the sooner."""
    monkeypatch.setattr("worker.consumer.IDLE_S", 0.05)


@pytest.fixture
def saboteurs(worker_settings: Settings) -> Iterator[Saboteurs]:
    """Starts workers that end themselves and sees to it that none is left."""
    with Saboteurs(worker_settings) as processes:
        yield processes
