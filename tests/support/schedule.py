"""Order of the tests for the processes that share them: each begins with its part of the slow ones."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Folders and files whose tests start processes, servers or a browser, and take seconds each.
SLOW = (
    "benchmarks/test_short.py",
    "cli/test_streams.py",
    "console/test_browser.py",
    "demo/test_command.py",
    "e2e",
    "faults",
    "typescript",
)
_TESTS = Path(__file__).parents[1]
_SLOW = tuple(_TESTS / place for place in SLOW)


def is_slow(path: Path) -> bool:
    """Return True for a test file of which the tests take seconds each."""
    return any(path.is_relative_to(place) for place in _SLOW)


def processes() -> int:
    """Return the number of processes that share the tests of this run."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def scheduled(slow: Sequence[T], rest: Sequence[T], count: int) -> list[T]:
    """Return all tests in ``count`` parts of one length or so, the slow ones of a part first.

    ``--dist worksteal`` gives each process a part, and a process that has finished takes from the end of
    another's: these are the quick tests, so that at the end nobody waits for a slow one.
    """
    parts = zip(_divided(slow, count), _divided(rest, count), strict=True)
    return list(chain.from_iterable(chain(first, others) for first, others in parts))


def _divided(tests: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    bounds = [len(tests) * part // count for part in range(count + 1)]
    return (tests[bounds[part] : bounds[part + 1]] for part in range(count))
