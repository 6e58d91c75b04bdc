"""The loop of all watches: once a minute each, more rarely where a look takes long; an outage is unknown."""

import pytest

from tests.support.fake_stop import FakeStop
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError, LedgerUnavailableError
from worker.watches import LOOK_EVERY_S, Watches


class SecondsClock:
    """Seconds that pass in looks and in waits."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class CountingWatch:
    """Watch whose looks take ``takes_s``, and fail with ``error``."""

    def __init__(self, clock: SecondsClock, takes_s: float = 0.0) -> None:
        self._clock, self._takes_s = clock, takes_s
        self.looked_at: list[float] = []
        self.error: BillingError | None = None
        self.is_known = False

    def look(self) -> None:
        self.looked_at.append(self._clock.now)
        self._clock.now += self._takes_s
        if self.error is not None:
            raise self.error
        self.is_known = True

    def forget(self) -> None:
        self.is_known = False


@pytest.fixture
def clock() -> SecondsClock:
    return SecondsClock()


def run(watches: Watches, clock: SecondsClock, waits: int) -> None:
    stop = FakeStop(waits_left=waits)
    stop.on_wait = lambda: setattr(clock, "now", clock.now + stop.waited_s[-1])
    watches.run(stop)


def test_watch_looks_once_a_minute(clock: SecondsClock) -> None:
    watch = CountingWatch(clock)
    run(Watches([watch], seconds=clock), clock, 3)
    assert watch.looked_at == [1_000, 1_000 + LOOK_EVERY_S, 1_000 + 2 * LOOK_EVERY_S]


def test_look_that_takes_long_has_a_hundredth_of_the_time(clock: SecondsClock) -> None:
    quick, slow = CountingWatch(clock), CountingWatch(clock, takes_s=3.0)
    run(Watches([quick, slow], seconds=clock), clock, 8)
    assert slow.looked_at[1] - slow.looked_at[0] == 300
    assert len(quick.looked_at) > len(slow.looked_at) + 2


@pytest.mark.parametrize(
    "error", [BrokerUnavailableError("a"), LedgerUnavailableError("b"), ConfigurationError("c")]
)
def test_outage_hides_the_numbers_and_ends_nothing(clock: SecondsClock, error: BillingError) -> None:
    away, well = CountingWatch(clock), CountingWatch(clock)
    watches = Watches([away, well], seconds=clock)
    watches.look()
    assert (away.is_known, well.is_known) == (True, True)
    away.error = error
    clock.now += LOOK_EVERY_S
    watches.look()
    assert (away.is_known, well.is_known) == (False, True)
    away.error = None
    clock.now += LOOK_EVERY_S
    watches.look()
    assert away.is_known
