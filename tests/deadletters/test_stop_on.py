"""Limits at which a replay stops by itself, and how long it ran and has still to run."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from tests.deadletters.parts import NOW, World, came_of, deduct
from worker.deadletters.models import ItemState, Replay, ReplayState
from worker.deadletters.replay import items
from worker.deadletters.replay.stop_on import ReplayProgress, StopLimit, limits_in, reached
from worker.errors import NotFoundError, QueryError


def progress(ended: int, *, at_end: bool = False, **counts: int) -> ReplayProgress:
    return ReplayProgress(counts, ended, at_end)


@pytest.mark.parametrize(
    ("limit", "seen", "stops"),
    [
        ("rejected=2", progress(50, rejected=1), False),
        ("rejected=2", progress(50, rejected=2), True),
        ("rejected=2%", progress(99, rejected=50), False),
        ("rejected=2%", progress(100, rejected=1), False),
        ("rejected=2%", progress(100, rejected=2), True),
        ("rejected=2%", progress(1, at_end=True, rejected=1), True),
        ("rejected=2%", progress(1, at_end=True, applied=1), False),
        ("rejected=0.5%", progress(200, rejected=1), True),
        ("rejected=100%", progress(0, at_end=True), False),
        ("failed=3", progress(9, conflict=1, failed_again=1, unroutable=1), True),
        ("conflict=1", progress(9, failed_again=5), False),
    ],
)
def test_limit_is_a_number_or_a_share_of_those_that_ended(
    limit: str, seen: ReplayProgress, stops: bool
) -> None:
    assert (reached(limits_in([limit]), seen) is not None) == stops


@pytest.mark.parametrize(
    "text", ["rejected", "rejected=", "rejected=0", "rejected=101%", "applied=5", "x=1.5"]
)
def test_limit_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="limit"):
        StopLimit.read(text)
    with pytest.raises(QueryError, match="give each once"):
        limits_in(["rejected=1", "rejected=2%"])


# -- in a replay ------------------------------------------------------------------------------------------


def rejected_ones(world: World, count: int, of: int) -> Sequence[int]:
    """Park ``of`` deductions, of which every ``of / count``-th is more than the balance."""
    world.open("ann")
    every = of // count
    return world.park_failed(*(deduct(f"r-{n}", 1 if n % every else 999_999) for n in range(of)))


def test_replay_stops_at_a_number_of_rejections_and_goes_on_when_resumed(world: World) -> None:
    numbers = rejected_ones(world, 200, 400)
    created = world.service.create_replay(numbers, "mended", "ann", stop_on=["rejected=20"])
    stopped = world.run(created.number)
    assert (stopped.state, stopped.stop_on) == ("stopped", ("rejected=20",))
    assert stopped.state_reason is not None
    assert "rejected: the limit is rejected=20. See" in stopped.state_reason
    assert stopped.counts["waiting"] > 0
    assert stopped.counts["rejected"] <= 20 + 100, "a hundred may be under way"
    resumed = world.run(created.number)
    assert (resumed.state, resumed.open > 0) == ("stopped", True), "only later ones count"
    assert resumed.counts["rejected"] >= stopped.counts["rejected"] + 20


def test_share_is_judged_at_the_end_of_a_step(world: World) -> None:
    numbers = rejected_ones(world, 3, 3)
    created = world.service.create_replay(numbers, "mended", "ann", steps=[1], stop_on=["rejected=50%"])
    stopped = world.run(created.number)
    assert (stopped.state, came_of(stopped)) == ("stopped", {"rejected": 1, "waiting": 2})
    assert came_of(world.run(created.number)) == {"rejected": 3}


def test_replay_without_a_limit_goes_through_rejections(world: World) -> None:
    ended = world.replay(rejected_ones(world, 3, 3))
    assert (ended.state, came_of(ended)) == ("finished", {"rejected": 3})


def test_look_shows_a_replay_with_its_items_and_the_tokens_rejected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = world.replay(rejected_ones(world, 2, 4))
    look = world.service.look_at_replay(ended.number, states=[ItemState.REJECTED], limit=1)
    (item,) = look.items.items
    assert (item.state, item.detail) == ("rejected", "rejected: insufficient_balance")
    assert (item.reference_id, item.user_id, item.tokens, item.type) == (
        "r-0",
        "ann",
        999_999,
        "usage.deduct",
    )
    assert look.items.next == item.position
    assert look.replay.counts["rejected"] == 2
    assert (look.rejected.tokens, look.rejected.unknown, look.rejected.is_least) == (2 * 999_999, 0, False)
    monkeypatch.setattr(items, "_SUMMED_MAX", 1)
    assert world.service.look_at_replay(ended.number).rejected.is_least
    with pytest.raises(NotFoundError):
        world.service.look_at_replay(9)


def test_time_that_a_replay_ran_is_without_its_pauses(world: World) -> None:
    world.open("ann")
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(4)))
    created = world.service.create_replay(numbers, "mended", "ann", steps=[2])
    assert (created.elapsed(world.now), created.remaining(world.now)) == (timedelta(), None)
    world.has_worker = False
    world.run(created.number, patience_s=2)
    paused = world.service.replay(created.number)
    ran = paused.elapsed(world.now)
    assert ran is not None
    assert timedelta(seconds=2) <= ran < timedelta(seconds=5)
    world.now += timedelta(hours=1)
    assert world.service.replay(created.number).elapsed(world.now) == ran
    world.has_worker = True
    ended = world.run(created.number)
    assert ended.state == "finished"
    total = ended.elapsed(world.now + timedelta(hours=1))
    assert total is not None
    assert ran < total < ran + timedelta(seconds=5)


def running(*, ended: int, ended_before: int = 0, ran_ms: int | None = 0) -> Replay:
    """Return a replay of 100 dead letters that has run for a minute, leased for a minute more."""
    counts = {state.value: 0 for state in ItemState} | {"applied": ended, "waiting": 100 - ended}
    return Replay(
        number=1,
        at=NOW,
        actor="ann",
        reason="mended",
        source="letters 1",
        rate=None,
        steps=(),
        state=ReplayState.RUNNING,
        state_reason=None,
        leased_by="runner",
        leased_until=NOW + timedelta(minutes=2),
        step=1,
        steps_in_all=1,
        total=100,
        counts=counts,
        running_since=NOW,
        ran_ms=ran_ms,
        ended_before=ended_before,
    )


@pytest.mark.parametrize(
    ("ended", "ended_before", "remaining"),
    [(0, 0, None), (20, 0, 240), (50, 0, 60), (50, 40, 300), (40, 40, None), (100, 0, 0)],
)
def test_remaining_time_is_estimated_from_the_pace_of_this_run(
    ended: int, ended_before: int, remaining: int | None
) -> None:
    estimate = running(ended=ended, ended_before=ended_before).remaining(NOW + timedelta(minutes=1))
    assert estimate == (None if remaining is None else timedelta(seconds=remaining))


def test_killed_run_lasted_until_its_lease_ended() -> None:
    later = NOW + timedelta(hours=1)
    assert running(ended=5, ran_ms=30_000).elapsed(later) == timedelta(seconds=150)
    assert running(ended=5, ran_ms=None).elapsed(later) is None, "an earlier version ran it"
