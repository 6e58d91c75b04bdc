"""Limits of sign-ins: waits that grow, for whom they count, and the memory that they take."""

import pytest

from worker.console.sign_in_limit import (
    OF_NAME,
    OF_NETWORK,
    OF_PAIR,
    BackOff,
    BackOffRule,
    SignInAttempt,
    SignInLimits,
)


class ClockOfLimits:
    """ClockOfLimits that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ClockOfLimits:
    return ClockOfLimits()


@pytest.fixture
def limits(clock: ClockOfLimits) -> SignInLimits:
    return SignInLimits(clock=clock)


def guess(limits: SignInLimits, clock: ClockOfLimits, attempt: SignInAttempt, count: int) -> float:
    """Guess ``count`` times, as soon as one may each time; return the seconds that it took."""
    began = clock.now
    for _ in range(count):
        while wait_s := limits.begin(attempt):
            clock.now += wait_s
    return clock.now - began


ANN_AT_HOME = SignInAttempt("ann", "203.0.113.9")
ANN_KNOWN = SignInAttempt("ann", "203.0.113.9", device="d1")
ATTACKER = SignInAttempt("ann", "198.51.100.1")


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (2, 0), (3, 1), (4, 2), (5, 4), (6, 5), (7, 5), (100_000, 5)]
)
def test_wait_doubles_up_to_its_most(failures: int, wait_s: float) -> None:
    assert BackOffRule(free=2, first_s=1, most_s=5, forgiven_s=60).wait_s(failures) == wait_s


def test_failures_are_forgiven_with_time(clock: ClockOfLimits) -> None:
    limit = BackOff(BackOffRule(free=2, first_s=8, most_s=60, forgiven_s=60), clock)
    for _ in range(3):
        limit.add("ann")
    assert limit.wait_s("ann") == 8
    clock.now += 120
    limit.add("ann")
    assert limit.wait_s("ann") == 0


def test_failed_sign_ins_wait_longer_each_time(limits: SignInLimits, clock: ClockOfLimits) -> None:
    assert guess(limits, clock, ATTACKER, OF_PAIR.free + 1) == 0
    assert [guess(limits, clock, ATTACKER, 1) for _ in range(4)] == [2, 4, 8, 16]
    assert guess(limits, clock, ATTACKER, 200) > 180 * 800


def test_attempt_that_must_wait_is_not_counted(limits: SignInLimits, clock: ClockOfLimits) -> None:
    guess(limits, clock, ATTACKER, OF_PAIR.free + 1)
    assert {limits.begin(ATTACKER) for _ in range(50)} == {2}
    clock.now += 2
    assert limits.begin(ATTACKER) == 0


def test_attempts_at_the_same_time_are_no_way_around(limits: SignInLimits) -> None:
    assert [limits.begin(ATTACKER) for _ in range(20)].count(0) == OF_PAIR.free + 1


def test_attacker_who_knows_the_name_locks_nobody_out(limits: SignInLimits, clock: ClockOfLimits) -> None:
    guess(limits, clock, ATTACKER, 60)
    assert limits.begin(ANN_AT_HOME) == 0
    limits.succeeded(ANN_AT_HOME)


def test_network_that_tries_many_names_waits(limits: SignInLimits, clock: ClockOfLimits) -> None:
    names = [SignInAttempt(f"name-{number}", ATTACKER.network) for number in range(OF_NETWORK.free + 1)]
    assert [limits.begin(attempt) for attempt in names] == [0] * len(names)
    assert limits.begin(SignInAttempt("another", ATTACKER.network)) == 2
    assert limits.begin(ANN_AT_HOME) == 0


def test_name_that_is_guessed_from_many_networks_waits_a_little(
    limits: SignInLimits, clock: ClockOfLimits
) -> None:
    for number in range(OF_NAME.free + 40):
        guess(limits, clock, SignInAttempt("ann", f"network-{number}"), 1)
    assert 0 < limits.begin(ANN_AT_HOME) <= OF_NAME.most_s
    assert limits.begin(SignInAttempt("vic", ANN_AT_HOME.network)) == 0


def test_browser_that_has_signed_in_before_waits_for_nobody_else(
    limits: SignInLimits, clock: ClockOfLimits
) -> None:
    for number in range(OF_NAME.free + 40):
        guess(limits, clock, SignInAttempt("ann", f"network-{number}"), 1)
    guess(limits, clock, SignInAttempt("ann", ANN_KNOWN.network), 20)  # her own office
    assert limits.begin(ANN_KNOWN) == 0


def test_browser_that_has_signed_in_before_waits_for_its_own_failures(
    limits: SignInLimits, clock: ClockOfLimits
) -> None:
    guess(limits, clock, ANN_KNOWN, OF_PAIR.free + 1)
    assert limits.begin(ANN_KNOWN) == 2


def test_good_sign_in_ends_the_wait_of_its_pair_alone(limits: SignInLimits, clock: ClockOfLimits) -> None:
    guess(limits, clock, ANN_AT_HOME, OF_PAIR.free)
    assert limits.begin(ANN_AT_HOME) == 0
    limits.succeeded(ANN_AT_HOME)
    assert guess(limits, clock, ANN_AT_HOME, OF_PAIR.free) == 0


def test_own_account_pays_for_no_guesses_at_others(limits: SignInLimits, clock: ClockOfLimits) -> None:
    own = SignInAttempt("mallory", ATTACKER.network)
    waited = 0.0
    for number in range(OF_NETWORK.free + 5):
        waited += guess(limits, clock, SignInAttempt(f"name-{number}", own.network), 1)
        if not limits.begin(own):
            limits.succeeded(own)
    assert waited > 2 + 4 + 8


@pytest.mark.parametrize("spread", ["names", "networks", "devices"])
def test_memory_does_not_grow_with_names_networks_and_devices(spread: str, clock: ClockOfLimits) -> None:
    limits = SignInLimits(clock=clock, keys_max=50)
    for number in range(1_000):
        clock.now += 1_000
        limits.begin(
            SignInAttempt(
                f"n{number}" if spread == "names" else "ann",
                f"w{number}" if spread == "networks" else "w",
                f"d{number}" if spread == "devices" else None,
            )
        )
    assert len(limits) <= 4 * 50
