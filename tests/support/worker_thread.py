"""Worker or reader in the process of the test, where a test can inject faults into its parts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.waiting import PATIENCE_S
from worker.bootstrap import Application
from worker.processes import run_worker
from worker.runtime.stop import SignalStop


class FlagStop(SignalStop):
    """Stop by the flag ``requested``, without signals."""


@contextmanager
def running(
    application: Application, run: Callable[[Application, SignalStop], None] = run_worker
) -> Iterator[threading.Thread]:
    """Run the worker of ``application``, or another loop, in a thread; stop it at the end of the block."""
    stop = FlagStop()
    thread = threading.Thread(target=run, args=(application, stop), name=run.__name__)
    thread.start()
    try:
        yield thread
    finally:
        stop.requested = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"{run.__name__} does not stop"
