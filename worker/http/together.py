"""Queries of many threads, asked together: whoever has the turn asks for all that wait."""

import threading
from collections.abc import Callable, Sequence

from schemas import Query, QueryAnswer

Ask = Callable[[Sequence[Query]], Sequence[QueryAnswer]]


class NoTurnError(Exception):
    """The thread that has the turn doesn't come back in time."""


class Together:
    """Calls ``ask`` in one thread at a time, for the queries of all that came meanwhile.

    A thread waits up to ``wait_s`` seconds. Once one has waited in vain, the next ones don't wait, until an
    answer comes: a server whose threads all wait can't even say so.
    """

    def __init__(self, ask: Ask, wait_s: float) -> None:
        self._ask, self._wait_s = ask, wait_s
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._has_leader = self._is_stuck = False

    def ask(self, query: Query) -> QueryAnswer:
        """Return the answer. Raises NoTurnError, and what ``ask`` raises."""
        mine = _Waiting(query)
        with self._lock:
            self._waiting.append(mine)
            mine.leads, self._has_leader = not self._has_leader, True
        if not mine.leads and not mine.wait(0 if self._is_stuck else self._wait_s):
            self._give_up(mine)
        if mine.leads:
            self._lead()
        return mine.result()

    def _give_up(self, mine: "_Waiting") -> None:
        """Leave the others, unless the turn came at this very moment."""
        with self._lock:
            if mine.leads:
                return
            self._is_stuck = True
            self._waiting = [one for one in self._waiting if one is not mine]
        raise NoTurnError

    def _lead(self) -> None:
        """Ask for all that wait, and pass the turn on to the first of those that came meanwhile."""
        with self._lock:
            asked, self._waiting = self._waiting, []
        try:
            for one, answer in zip(asked, self._ask([one.query for one in asked]), strict=True):
                one.answer = answer
        except Exception as error:  # noqa: BLE001 - each thread raises it for its own query
            for one in asked:
                one.error = error
        finally:
            with self._lock:
                self._is_stuck = False
                following = self._waiting[:1]
                self._has_leader = bool(following)
                for one in following:
                    one.leads = True
            for one in (*following, *asked):
                one.wake()


class _Waiting:
    """Query that waits for its answer, or for the turn. A bare lock wakes one thread, and costs the least."""

    __slots__ = ("_sleep", "answer", "error", "leads", "query")

    def __init__(self, query: Query) -> None:
        self.query = query
        self.leads = False
        self.answer: QueryAnswer | None = None
        self.error: Exception | None = None
        self._sleep = threading.Lock()
        self._sleep.acquire()

    def wait(self, seconds: float) -> bool:
        """Sleep until ``wake``; return False after so many seconds."""
        return self._sleep.acquire(timeout=seconds)

    def wake(self) -> None:
        """End the sleep, which may not have begun."""
        if self._sleep.locked():
            self._sleep.release()

    def result(self) -> QueryAnswer:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise AssertionError("a query was left without an answer")
        return self.answer
