"""Health checks: states, texts and deadlines."""

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from worker.errors import ConfigurationError, LedgerUnavailableError
from worker.runtime.health import CheckResult, Health, HealthCheck, HealthState, run_checks


def health_of(ask: Callable[[], CheckResult], deadline_s: float = 60.0) -> Health:
    (health,) = run_checks([HealthCheck("part", ask, "host")], deadline_s)
    return health


def fails(error: Exception) -> Callable[[], CheckResult]:
    def ask() -> CheckResult:
        raise error

    return ask


@pytest.fixture
def hanging() -> Iterator[Callable[[], CheckResult]]:
    """A check that doesn't answer before its test ends."""
    ended = Event()

    def ask() -> CheckResult:
        ended.wait()
        return CheckResult(HealthState.OK, "late")

    yield ask
    ended.set()


@pytest.mark.parametrize("state", HealthState)
def test_answer_of_a_check_is_its_health(state: HealthState) -> None:
    assert health_of(lambda: CheckResult(state, "text")) == Health("part", "host", state, "text")


def test_part_that_has_to_be_mended_is_bad_with_the_way_out() -> None:
    health = health_of(fails(ConfigurationError("run `billing-worker migrate`")))
    assert (health.state, health.text) == (HealthState.BAD, "run `billing-worker migrate`")


def test_server_that_is_away_is_bad_and_is_to_be_started() -> None:
    health = health_of(fails(LedgerUnavailableError("refused")))
    assert (health.state, health.text) == (HealthState.BAD, "refused; start it, or set its URL")


def test_check_without_an_answer_is_bad_and_holds_no_other(hanging: Callable[[], CheckResult]) -> None:
    good = HealthCheck("good", lambda: CheckResult(HealthState.OK, "fine"))
    first, second = run_checks([HealthCheck("hangs", hanging), good], 0.05)
    assert (first.state, second.state) == (HealthState.BAD, HealthState.OK)
    assert "no answer within 0.05 s" in first.text


def test_fault_of_a_check_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        health_of(fails(ZeroDivisionError("a bug")))
