"""Pace of a replay: its rate, and the waits between two looks."""

from dataclasses import dataclass, field

import pytest

from worker.deadletters.replay.pace import RunPace


@dataclass
class PaceWorld:
    """Clock and stop of one run; time passes only while it waits."""

    now: float = 0.0
    requested: bool = False
    waited_s: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waited_s.append(seconds)

    def seconds(self) -> float:
        return self.now


@pytest.fixture
def world() -> PaceWorld:
    return PaceWorld()


@pytest.fixture
def pace(world: PaceWorld) -> RunPace:
    return RunPace(world.seconds, world)


def test_wait_for_a_server_keeps_links_alive_and_is_no_time_without_a_move(
    pace: RunPace, world: PaceWorld
) -> None:
    kept_at: list[float] = []
    pace.wait_out(1.2, lambda: kept_at.append(world.now))
    assert kept_at == pytest.approx([0.5, 1.0, 1.2])
    assert pace.unmoved_s == 0


@pytest.mark.parametrize(("rate", "room"), [(None, 250), (1.0, 1), (100.0, 20), (1_000_000.0, 250)])
def test_first_burst_is_a_fifth_of_a_second_at_most(pace: RunPace, rate: float | None, room: int) -> None:
    assert pace.room(rate) == room


@pytest.mark.parametrize("rate", [1.0, 7.0, 200.0])
def test_rate_is_kept_over_a_minute(world: PaceWorld, pace: RunPace, rate: float) -> None:
    sent = 0
    while world.now < 60.0:
        room = pace.room(rate)
        pace.count_sent(room, rate)
        sent += room
        pace.pause(moved=False)
    assert 59 * rate <= sent <= 61 * rate + 1


def test_unlimited_replay_sends_at_once_again(pace: RunPace) -> None:
    pace.count_sent(250, None)
    assert pace.room(None) == 250


def test_looks_become_rare_while_nothing_moves(world: PaceWorld, pace: RunPace) -> None:
    for _ in range(10):
        pace.pause(moved=False)
    assert (world.waited_s[0], world.waited_s[-1]) == (0.02, 0.25)
    assert pace.unmoved_s == pytest.approx(sum(world.waited_s))
    pace.pause(moved=True)
    pace.pause(moved=False)
    assert world.waited_s[-1] == 0.02
    assert pace.unmoved_s == pytest.approx(0.02)
