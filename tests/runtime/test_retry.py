"""Retries after contention."""

import pytest

from worker.errors import ContentionError, LedgerUnavailableError
from worker.runtime.retry import ContentionRetry


class Work:
    """Work that is contended ``times`` times, then done."""

    def __init__(self, times: int, error: type[Exception] = ContentionError) -> None:
        self.left, self.error, self.tries = times, error, 0

    def __call__(self) -> str:
        self.tries += 1
        if self.left:
            self.left -= 1
            raise self.error("a deadlock")
        return "done"


@pytest.mark.parametrize("times", [0, 1, 3])
def test_contended_work_is_tried_again_after_growing_pauses(times: int) -> None:
    pauses, contended, work = list[float](), list[int](), Work(times)
    retry = ContentionRetry(4, 0.5, "busy", pause=pauses.append, on_contention=lambda: contended.append(1))
    assert retry.run(work) == "done"
    assert pauses == [0.5, 1.0, 1.5][:times]
    assert len(contended) == times


def test_last_contended_try_is_an_unavailable_ledger() -> None:
    pauses, work = list[float](), Work(99)
    with pytest.raises(LedgerUnavailableError, match="the ledger is busy: a deadlock"):
        ContentionRetry(3, 1.0, "the ledger is busy", pause=pauses.append).run(work)
    assert (work.tries, pauses) == (3, [1.0, 2.0])


def test_other_errors_are_not_retried() -> None:
    work = Work(1, LedgerUnavailableError)
    with pytest.raises(LedgerUnavailableError):
        ContentionRetry(3, 1.0, "busy").run(work)
    assert work.tries == 1
