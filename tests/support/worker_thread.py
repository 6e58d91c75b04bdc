"""Worker in the process of the test, where a test can inject faults into its parts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.waiting import PATIENCE_S
from worker.bootstrap import Application
from worker.processes import run_worker
from worker.runtime.stop import SignalStop


class FlagStop(SignalStop):
    """Stop by the flag ``requested``, without signals."""


@contextmanager
def running(application: Application) -> Iterator[threading.Thread]:
    """Run the worker of ``application`` in a thread; stop it in order at the end of the block."""
    stop = FlagStop()
    thread = threading.Thread(target=run_worker, args=(application, stop), name="worker")
    thread.start()
    try:
        yield thread
    finally:
        stop.requested = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the worker does not stop"
