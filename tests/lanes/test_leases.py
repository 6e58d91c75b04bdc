"""Shares of workers in the partitions: tables, and a simulation of workers that come, die and stall."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from worker.lanes.leases import change_for
from worker.ledger.partition_leases import Lease, LeaseChange, SharingWorker

NOW = datetime(2026, 11, 27, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(seconds=10), NOW - timedelta(seconds=1)


def leases(held: str, *, expired: str = "") -> list[Lease]:
    """Return a lease for each letter: that of its worker, or a dot where nobody has it."""
    return [
        Lease(number) if name == "." else Lease(number, name, BEFORE if name in expired else LATER)
        for number, name in enumerate(held)
    ]


def workers(names: str, partitions: int = 8, *, expired: str = "") -> list[SharingWorker]:
    return [SharingWorker(name, partitions, BEFORE if name in expired else LATER) for name in names]


def change(
    keep: Sequence[int] = (), take: Sequence[int] = (), give_up: Sequence[int] = (), missing: int = 0
) -> LeaseChange:
    return LeaseChange(frozenset(keep), frozenset(take), frozenset(give_up), missing)


@pytest.mark.parametrize(
    ("held", "alive", "expected"),
    [
        # The first of all takes all.
        ("........", "a", change(take=range(8))),
        ("aaaaaaaa", "a", change(keep=range(8))),
        # One that comes is given its half, and waits for it until then.
        ("aaaaaaaa", "ab", change(keep=range(4), give_up=range(4, 8))),
        ("bbbbbbbb", "ab", change(missing=4)),
        ("bbbb....", "ab", change(take=range(4, 8))),
        ("bbbb..b.", "ab", change(take=(4, 5, 7), missing=1)),
        # Shares that differ by one stay as they are, whoever looks.
        ("aaabbbcc", "abc", change(keep=range(3))),
        ("bbbcccaa", "abc", change(keep=(6, 7))),
        ("aaaabbbc", "abc", change(keep=range(3), give_up=(3,))),
        ("aaabbbc.", "abc", change(keep=range(3))),
        ("bbbccca.", "abc", change(keep=(6,), take=(7,))),
        # More workers than partitions: some have none.
        ("bcdefghi", "abcdefghi", change()),
        ("bcdefgh.", "abcdefghi", change(take=(7,))),
        ("aabcdefg", "abcdefghi", change(keep=(0,), give_up=(1,))),
    ],
)
def test_worker_has_an_even_share(held: str, alive: str, expected: LeaseChange) -> None:
    assert change_for("a", leases(held), workers(alive), NOW) == expected


def test_partitions_of_a_dead_worker_are_taken_once_its_lease_ends() -> None:
    both = workers("ab")
    assert change_for("a", leases("aaaabbbb"), both, NOW) == change(keep=range(4))
    ended = workers("ab", expired="b")
    assert change_for("a", leases("aaaabbbb"), ended, NOW) == change(keep=range(4), missing=4)
    assert change_for("a", leases("aaaabbbb", expired="b"), ended, NOW) == change(range(4), range(4, 8))


def test_worker_that_was_silent_keeps_what_nobody_took() -> None:
    silent = leases("aaaabbbb", expired="a")
    assert change_for("a", silent, workers("ab", expired="a"), NOW) == change(keep=range(4))


def test_partition_that_is_being_left_is_given_up_whatever_the_share() -> None:
    own = leases("aaaaaaaa")
    assert change_for("a", own, workers("a"), NOW, [6, 7]) == change(range(6), (), (6, 7), 2)
    assert change_for("a", own, workers("ab"), NOW, [0]) == change(range(1, 5), (), (0, 5, 6, 7))


def test_partitions_that_only_some_know_are_shared_by_these() -> None:
    old, new = workers("a"), [*workers("a", 8), *workers("bc", 16)]
    assert change_for("a", leases("." * 16), old, NOW) == change(take=range(8))
    assert change_for("a", leases("aaaaaaaa" + "." * 8), new, NOW) == change(range(3), (), range(3, 8))
    assert change_for("b", leases("aaa....." + "." * 8), new, NOW) == change(take=(3, 4, 5, *range(8, 12)))
    assert change_for("c", leases("aaabbb.." + "bbbb...."), new, NOW) == change(take=(6, 7, *range(12, 16)))


# -- simulation --------------------------------------------------------------------------------------------


@dataclass
class Simulated:
    """Worker of the simulation: what it takes from the broker, and when it looks next."""

    name: str
    partitions: int
    looks_at: float
    consuming: set[int] = field(default_factory=set)
    leaving: dict[int, float] = field(default_factory=dict)


class Simulation:
    """Leases, workers and a clock of seconds; each worker looks at times of its own."""

    LEASE_S, LOOK_S, HAND_OVER_S = 10.0, 2.0, 1.0

    def __init__(self, partitions: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.partitions, self.seconds, self.moves = partitions, 0.0, 0
        self.rows = {number: Lease(number) for number in range(partitions)}
        self.known: dict[str, SharingWorker] = {}
        self.workers: dict[str, Simulated] = {}
        self.asleep: dict[str, float] = {}
        self._names = iter(range(1_000_000))

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def start(self) -> None:
        name = f"w{next(self._names)}"
        self.workers[name] = Simulated(name, self.partitions, self.seconds + self.rng.random())

    def kill(self) -> None:
        if self.workers:
            name = self.rng.choice(sorted(self.workers))
            del self.workers[name]
            self.asleep.pop(name, None)

    def stop(self) -> None:
        if awake := sorted(self.workers.keys() - self.asleep.keys()):
            name = self.rng.choice(awake)
            del self.workers[name]
            self.known.pop(name, None)
            self._free(name, range(self.partitions))

    def stall(self) -> None:
        if awake := sorted(self.workers.keys() - self.asleep.keys()):
            self.asleep[self.rng.choice(awake)] = self.seconds + self.rng.uniform(1, 40)

    def run_for(self, seconds: float) -> None:
        end = self.seconds + seconds
        while (due := min((self._due(each) for each in self.workers.values()), default=end)) < end:
            self.seconds = max(self.seconds, due)
            for worker in [each for each in self.workers.values() if self._due(each) <= self.seconds]:
                self.asleep.pop(worker.name, None)
                self._look(worker)
        self.seconds = end

    def _due(self, worker: Simulated) -> float:
        return max(worker.looks_at, self.asleep.get(worker.name, 0.0))

    def _look(self, worker: Simulated) -> None:
        done = [one for one, at in worker.leaving.items() if at <= self.seconds]
        self._free(worker.name, done)
        for one in done:
            del worker.leaving[one]
        until = self.now + timedelta(seconds=self.LEASE_S)
        self.known[worker.name] = SharingWorker(worker.name, worker.partitions, until)
        found = change_for(
            worker.name, list(self.rows.values()), list(self.known.values()), self.now, worker.leaving
        )
        for one in found.keep | found.take | found.give_up:
            self.moves += self.rows[one].worker != worker.name
            self.rows[one] = Lease(one, worker.name, until)
        for one in found.give_up - worker.leaving.keys():
            worker.leaving[one] = self.seconds + self.rng.random() * self.HAND_OVER_S
        worker.leaving = {one: at for one, at in worker.leaving.items() if one in found.give_up}
        worker.consuming = set(found.keep | found.take)
        worker.looks_at = self.seconds + self.LOOK_S * (0.25 if found.missing or worker.leaving else 1)

    def _free(self, name: str, partitions: Sequence[int]) -> None:
        for one in partitions:
            if self.rows[one].worker == name:
                self.rows[one] = Lease(one)

    # -- what must be true --------------------------------------------------------------------------------

    def check_shares(self) -> None:
        """Fail unless every partition has one worker that lives, and shares differ by one at most."""
        takers = Counter(one for each in self.workers.values() for one in each.consuming)
        assert takers == dict.fromkeys(range(self.partitions), 1)
        shares = [len(each.consuming) for each in self.workers.values()]
        assert max(shares) - min(shares) <= 1, shares


#: Time after which workers that live have their shares: a lease ends, all look, hand over and look again.
SETTLED_S = Simulation.LEASE_S + 4 * Simulation.LOOK_S + 2 * Simulation.HAND_OVER_S


@pytest.mark.parametrize("seed", range(40))
def test_workers_that_come_die_and_stall_end_in_even_shares(seed: int) -> None:
    chance = random.Random(seed)
    world = Simulation(chance.choice((8, 16, 32, 64)), seed)
    events = (world.start, world.start, world.kill, world.stop, world.stall)
    for _ in range(6):
        for _ in range(chance.randint(1, 8)):
            chance.choice(events)()
            world.run_for(chance.uniform(0, 6))
        world.start()
        world.asleep.clear()
        world.run_for(SETTLED_S)
        world.check_shares()
        before = world.moves
        world.run_for(120)
        world.check_shares()
        assert world.moves == before, "a share that is even moves no more"


@pytest.mark.parametrize("seed", range(20))
def test_all_partitions_of_a_killed_worker_are_taken_within_fifteen_seconds(seed: int) -> None:
    world = Simulation(16, seed)
    for _ in range(1 + seed % 5):
        world.start()
    world.start()
    world.run_for(SETTLED_S)
    before = world.moves
    held = {name: set(each.consuming) for name, each in world.workers.items()}
    world.kill()
    (killed,) = held.keys() - world.workers.keys()
    world.run_for(15)
    world.check_shares()
    assert world.moves - before == len(held[killed]), "nobody else's partition moves"


def test_start_of_a_worker_moves_its_share_and_no_more() -> None:
    world = Simulation(16, 1)
    world.start()
    world.run_for(SETTLED_S)
    for count in range(2, 7):
        before = world.moves
        world.start()
        world.run_for(6)
        world.check_shares()
        assert world.moves - before in {16 // count, -(-16 // count)}, "its share, in seconds"
