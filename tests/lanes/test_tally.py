"""Tally of a worker: counts, rates and the newest message by lane."""

from datetime import UTC, datetime

import pytest

from tests.support.fakes import delivery
from worker.lanes.tally import LaneTally
from worker.pipeline import Item

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
PAYMENTS, USAGE = "billing.payments", "billing.usage"


class TallyWorld:
    """Tally with a clock that its test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tally = LaneTally([PAYMENTS, USAGE], lambda: NOW, lambda: self.now)


@pytest.fixture
def world() -> TallyWorld:
    return TallyWorld()


def items(count: int, queue: str = USAGE, **properties: object) -> list[Item]:
    return [Item(delivery({}, queue=queue, **properties)) for _ in range(count)]  # type: ignore[arg-type]


def test_messages_are_counted_by_lane(world: TallyWorld) -> None:
    kept = items(1)
    kept[0].kept = True
    world.tally.note([*items(3), *items(2, PAYMENTS), *kept])
    progress = world.tally.progress({USAGE: "by ann"})
    assert (progress[USAGE].acknowledged, progress[USAGE].paused) == (3, "by ann")
    assert (progress[PAYMENTS].acknowledged, progress[PAYMENTS].paused) == (2, None)
    assert world.tally.last_batch == (NOW, 6)


def test_rate_is_unknown_until_some_time_has_passed(world: TallyWorld) -> None:
    world.tally.note(items(50))
    assert world.tally.progress({})[USAGE].per_second is None
    world.now = 10.0
    assert world.tally.progress({})[USAGE].per_second == 5.0
    world.tally.note(items(50))
    world.now = 11.0
    assert world.tally.progress({})[USAGE].per_second == 5.0, "too short a time to measure"
    world.now = 20.0
    assert world.tally.progress({})[USAGE].per_second == 5.0
    world.now = 30.0
    assert world.tally.progress({})[USAGE].per_second == 0.0


@pytest.mark.parametrize(
    ("timestamp", "sent_at"),
    [
        (int(NOW.timestamp()), NOW),
        (None, None),
        (0, None),
        (int(NOW.timestamp()) * 1_000, None),
        ("soon", None),
    ],
)
def test_newest_message_says_when_it_was_sent(
    world: TallyWorld, timestamp: object, sent_at: datetime | None
) -> None:
    world.tally.note(items(1, timestamp=timestamp))
    assert world.tally.progress({})[USAGE].sent_at == sent_at
