"""Queries of many threads asked together: no answer is lost, mixed up or waited for in vain."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from schemas import OperationAnswer, Query, QueryAnswer, QueryOperation
from worker.bootstrap import utc_now
from worker.http.together import NoTurnError, Together

_THREADS, _EACH = 16, 150


class _FaultError(Exception):
    pass


def _answers(queries: Sequence[Query]) -> list[QueryAnswer]:
    """Answer each with its reference, after some work; one in twenty calls fails."""
    sum(range(random.randrange(40_000)))
    if random.random() < 0.05:
        raise _FaultError
    return [
        OperationAnswer(as_of=utc_now(), reference_id=query.reference_id, is_known=False)
        for query in queries
        if isinstance(query, QueryOperation)
    ]


@pytest.mark.parametrize("wait_s", [30.0, 0.001], ids=["patient", "impatient"])
def test_every_thread_gets_its_own_answer_or_an_error(wait_s: float) -> None:
    together = Together(_answers, wait_s)

    def ask(number: int) -> list[str]:
        kinds = []
        for turn in range(_EACH):
            query = QueryOperation(reference_id=f"{number}-{turn}")
            try:
                answer = together.ask(query)
            except (_FaultError, NoTurnError) as error:
                kinds.append(type(error).__name__)
            else:
                assert isinstance(answer, OperationAnswer)
                assert answer.reference_id == query.reference_id
                kinds.append("answered")
        return kinds

    with ThreadPoolExecutor(_THREADS) as threads:
        kinds = [kind for got in threads.map(ask, range(_THREADS)) for kind in got]
    assert len(kinds) == _THREADS * _EACH
    assert "answered" in kinds
    assert "NoTurnError" not in kinds or wait_s < 1  # how often depends on the machine
    assert not together._has_leader
    assert together._waiting == []


def test_single_thread_asks_at_once() -> None:
    sizes: list[int] = []

    def answers(queries: Sequence[Query]) -> list[QueryAnswer]:
        sizes.append(len(queries))
        return [OperationAnswer(as_of=utc_now(), reference_id="a", is_known=False) for _ in queries]

    together = Together(answers, 0)
    for _ in range(3):
        together.ask(QueryOperation(reference_id="a"))
    assert sizes == [1, 1, 1]


def test_thread_whose_turn_does_not_come_gives_up_and_the_next_is_answered() -> None:
    is_asking, may_answer = Event(), Event()

    def answers(queries: Sequence[Query]) -> list[QueryAnswer]:
        is_asking.set()
        assert may_answer.wait(30)
        return [OperationAnswer(as_of=utc_now(), reference_id="a", is_known=False) for _ in queries]

    together = Together(answers, 0.001)
    query = QueryOperation(reference_id="a")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(together.ask, query)
        assert is_asking.wait(30)
        for _ in range(2):
            with pytest.raises(NoTurnError):
                together.ask(query)
        may_answer.set()
        assert isinstance(first.result(), OperationAnswer)
    assert isinstance(together.ask(query), OperationAnswer)
