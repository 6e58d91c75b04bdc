"""Asking the ledger: queries that go together, reports that don't, errors that each caller gets."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from schemas import OperationAnswer, Query, QueryAnswer, QueryBalance, QueryOperation, QueryStats
from tests.support.waiting import eventually
from worker.bootstrap import utc_now
from worker.errors import LedgerUnavailableError
from worker.http.asking import Asker
from worker.http.problems import ProblemError

_PATIENCE_S = 30.0


class Gated:
    """Source of answers that waits in its first call until ``open``."""

    def __init__(self) -> None:
        self.calls: list[list[Query]] = []
        self.inside, self.open = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Answer with the references of the queries."""
        self.calls.append(list(queries))
        if len(self.calls) == 1:
            self.inside.set()
            assert self.open.wait(_PATIENCE_S)
        elif self.error is not None:
            raise self.error
        return [
            OperationAnswer(as_of=utc_now(), reference_id=_reference(query), is_known=False)
            for query in queries
        ]


def _reference(query: Query) -> str:
    return query.reference_id if isinstance(query, QueryOperation) else query.type


@pytest.fixture
def gated() -> Iterator[Gated]:
    gated = Gated()
    yield gated
    gated.open.set()


class Callers:
    """Threads that ask, each for its own; what each got is by its query."""

    def __init__(self, asker: Asker) -> None:
        self._asker, self._threads = asker, list[threading.Thread]()
        self.got: dict[str, object] = {}

    def ask(self, *queries: Query) -> None:
        """Ask in threads."""
        for query in queries:
            thread = threading.Thread(target=self._ask, args=(query,))
            thread.start()
            self._threads.append(thread)

    def _ask(self, query: Query) -> None:
        try:
            self.got[_reference(query)] = self._asker.ask(query)
        except Exception as error:  # noqa: BLE001 - compared by the test
            self.got[_reference(query)] = error

    def wait(self) -> dict[str, object]:
        """Return what all got."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        return self.got


def asker_of(service: Gated, *, wait_s: float = _PATIENCE_S, on_outage: Callable[[], None] = print) -> Asker:
    return Asker(service, 1, on_outage, wait_s=wait_s)


def operations(*numbers: int) -> list[QueryOperation]:
    return [QueryOperation(reference_id=f"job-{number}") for number in numbers]


def test_queries_that_arrive_meanwhile_go_together(gated: Gated) -> None:
    asker = asker_of(gated)
    callers = Callers(asker)
    callers.ask(*operations(1))
    assert gated.inside.wait(_PATIENCE_S)
    callers.ask(*operations(2, 3, 4, 5))
    eventually(lambda: len(asker._together._waiting) == 4)
    gated.open.set()
    for reference, answer in callers.wait().items():
        assert isinstance(answer, OperationAnswer)
        assert answer.reference_id == reference
    assert [len(call) for call in gated.calls] == [1, 4]


@pytest.mark.parametrize("report", [QueryStats(), QueryBalance(user_id="ada", at=utc_now())])
def test_report_goes_alone_and_waits_for_no_other_query(gated: Gated, report: Query) -> None:
    callers = Callers(asker_of(gated))
    callers.ask(*operations(1))
    assert gated.inside.wait(_PATIENCE_S)
    callers.ask(report)
    eventually(lambda: report.type in callers.got)
    assert gated.calls[1] == [report]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(LedgerUnavailableError("away"), ProblemError), (ZeroDivisionError(), ZeroDivisionError)],
)
def test_error_is_that_of_each_caller(gated: Gated, error: Exception, raised: type[Exception]) -> None:
    asker = asker_of(gated)
    callers = Callers(asker)
    callers.ask(*operations(1))
    assert gated.inside.wait(_PATIENCE_S)
    gated.error = error
    callers.ask(*operations(2, 3))
    eventually(lambda: len(asker._together._waiting) == 2)
    gated.open.set()
    got = callers.wait()
    assert isinstance(got["job-1"], OperationAnswer)
    assert [type(got[name]) for name in ("job-2", "job-3")] == [raised, raised]


def test_query_of_a_caller_that_gave_up_is_not_asked(gated: Gated) -> None:
    outages: list[int] = []
    asker = asker_of(gated, wait_s=0.1, on_outage=lambda: outages.append(1))
    callers = Callers(asker)
    callers.ask(*operations(1))
    assert gated.inside.wait(_PATIENCE_S)
    with pytest.raises(ProblemError):
        asker.ask(*operations(2))
    gated.open.set()
    callers.wait()
    asker.ask(*operations(3))
    assert gated.calls == [operations(1), operations(3)]
    assert outages == [1]


def test_outage_is_logged_at_its_begin_and_its_end(gated: Gated, caplog: pytest.LogCaptureFixture) -> None:
    gated.open.set()
    asker = asker_of(gated)
    asker.ask(*operations(1))
    gated.error = LedgerUnavailableError("away")
    for _ in range(3):
        with pytest.raises(ProblemError):
            asker.ask(*operations(2))
    gated.error = None
    with caplog.at_level("INFO"):
        asker.ask(*operations(3))
    begin, end = (record.getMessage() for record in caplog.records)
    assert begin == "away: requests are told so until it is back"
    assert "the database is back" in end
