"""Health checks with a deadline each; a result has a name, a state and a text with the way out."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OverdueError
from dataclasses import dataclass
from enum import StrEnum

from worker.errors import BillingError, TransientError


class HealthState(StrEnum):
    """State of one part: with ``NOTE`` it may run as it is, with ``UNKNOWN`` the check could not be made."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """State of one part, with a text that says what is the case and what to do."""

    state: HealthState
    text: str


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Check of one part. ``place`` is the address of a server, without its password.

    ``ask`` returns the result, or raises: a BillingError is a bad state with the error's text.
    """

    name: str
    ask: Callable[[], CheckResult]
    place: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Result of one check by name, for people and machines."""

    name: str
    place: str
    state: HealthState
    text: str


def run_checks(checks: Sequence[HealthCheck], deadline_s: float) -> Iterator[Health]:
    """Yield the health of each part in turn; without an answer within ``deadline_s`` seconds it is bad."""
    for check in checks:
        result = _answered(check, deadline_s)
        yield Health(check.name, check.place, result.state, result.text)


def _answered(check: HealthCheck, deadline_s: float) -> CheckResult:
    answer: Future[CheckResult] = Future()
    # A daemon: an overdue check that waits for a stopped server must not hold the end of the process.
    threading.Thread(target=_ask, args=(check, answer), name=f"check {check.name}", daemon=True).start()
    try:
        return answer.result(deadline_s)
    except OverdueError:
        return CheckResult(HealthState.BAD, f"no answer within {deadline_s:g} s; see whether it hangs")


def _ask(check: HealthCheck, answer: "Future[CheckResult]") -> None:
    try:
        answer.set_result(check.ask())
    except TransientError as error:
        answer.set_result(CheckResult(HealthState.BAD, f"{error}; start it, or set its URL"))
    except BillingError as error:
        answer.set_result(CheckResult(HealthState.BAD, str(error)))
    except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
        answer.set_exception(error)
