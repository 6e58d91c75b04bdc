"""A run that reverses charges, killed in the middle on real servers, and gone on with."""

import signal
import subprocess

import pytest

from tests.support.apply_commands import applied
from tests.support.commands import bonus, deduct, opening
from tests.support.forked_python import ForkedPython
from tests.support.processes import WorkerProcesses, run_cli, worker_environment
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.reversing import store
from worker.settings import Settings

CHARGES = 1_500


@pytest.mark.slow
def test_killed_run_is_resumed_and_gives_nothing_back_twice(
    application: Application, workers: WorkerProcesses, worker_settings: Settings
) -> None:
    engine, catalog = application.engine, application.catalog
    applied(engine, catalog, opening("open", "ada"), bonus(1_000_000, "more", "ada"))
    before = Reader(engine).balance("ada", application.clock(), catalog).balance
    applied(engine, catalog, *(deduct(10, f"c-{n}", "ada") for n in range(CHARGES)))
    workers.start()
    killed = ForkedPython(
        "worker",
        *("reverse", "--user", "ada", "--yes", "--reason", "wrong price", "--rate", "1000/s"),
        env=worker_environment(worker_settings),
        stderr=subprocess.PIPE,
    )

    def is_in_the_middle() -> bool:
        runs = store.page(engine, 1, None).runs
        return bool(runs) and runs[0].counts.get("reversed", 0) > 0

    eventually(is_in_the_middle)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert store.get(engine, 1).open > 0
    ended = run_cli(worker_settings, "reverse", "--resume", "1")
    assert (ended.returncode, store.get(engine, 1).counts) == (0, {"reversed": CHARGES})
    assert Reader(engine).balance("ada", application.clock(), catalog).balance == before
    again = run_cli(worker_settings, "reverse", "--user", "ada", "--yes", "--reason", "again")
    assert (again.returncode, again.stdout.decode().split(":")[0]) == (0, "nothing to reverse")
    assert audit(engine).findings == ()
