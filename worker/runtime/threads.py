"""Loops in threads beside a main loop: all of them end together."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from worker.runtime.stop import SignalStop


@contextmanager
def beside(stop: SignalStop, **loops: Callable[[SignalStop], None]) -> Iterator[None]:
    """Run loops in threads of their names, which end with the block; the error of one ends the block."""
    with ExitStack() as threads:
        running = []
        for name, loop in loops.items():
            thread = threads.enter_context(ThreadPoolExecutor(1, name))
            running.append(thread.submit(loop, stop))
            running[-1].add_done_callback(lambda _: stop.end())
        try:
            yield
        finally:
            if running:
                stop.end()
    for ended in running:
        ended.result()
