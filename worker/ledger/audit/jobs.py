"""Jobs that work side by side, each on a connection of its own."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

from sqlalchemy import Connection

Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")

#: Call after each part of a task. It ends the job where the others have failed or somebody has interrupted.
Step = Callable[[], None]


class _Stopped(Exception):  # noqa: N818 - no error: the job ends early
    """The other jobs have ended early."""


def in_parallel(
    connections: Sequence[Connection],
    tasks: Sequence[Task],
    work: Callable[[Connection, Task, Step], Result],
    on_step: Callable[[], None],
    release: Callable[[Connection], None],
) -> list[Result]:
    """Return the results of ``work`` on all tasks, in their order; a job for each connection.

    ``on_step`` is called in this thread. A job that has no task left releases its connection. An error or an
    interruption cancels all statements and is raised when the jobs have ended.
    """
    cancel = [_cancel_of(connection) for connection in connections]
    waiting = deque(enumerate(tasks))
    results: dict[int, Result] = {}
    events: SimpleQueue[Future[None] | None] = SimpleQueue()
    stop = Event()

    def step() -> None:
        if stop.is_set():
            raise _Stopped
        events.put(None)

    def job(connection: Connection) -> None:
        while (task := _next(waiting)) is not None:
            number, what = task
            results[number] = work(connection, what, step)
        release(connection)

    with ThreadPoolExecutor(len(connections), "audit") as pool:
        jobs = [pool.submit(job, connection) for connection in connections]
        for future in jobs:
            future.add_done_callback(events.put)
        try:
            _follow(events, len(jobs), on_step)
        except BaseException:
            stop.set()
            while wait(jobs, timeout=0.1).not_done:  # one may just have begun its next statement
                for cancel_statement in cancel:
                    cancel_statement()
            raise
    return [results[number] for number in range(len(tasks))]


def _next(waiting: deque[Item]) -> Item | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _follow(events: SimpleQueue[Future[None] | None], jobs: int, on_step: Callable[[], None]) -> None:
    """Report steps until all jobs have ended. Raises the error of the first one that fails."""
    while jobs:
        ended = events.get()
        if ended is None:
            on_step()
        else:
            ended.result()
            jobs -= 1


def _cancel_of(connection: Connection) -> Callable[[], None]:
    """Return a function that cancels the statement of a connection, also one that is lost by then."""
    # psycopg2 and sqlite3 both allow it from another thread.
    driver: Any = connection.connection.driver_connection
    method = driver.cancel if connection.dialect.name == "postgresql" else driver.interrupt

    def cancel() -> None:
        with suppress(connection.dialect.loaded_dbapi.Error):
            method()

    return cancel
