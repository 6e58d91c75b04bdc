"""Probes of each kind of process: ready while it works, and not while a lane is paused."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import make_url

from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.ledger.engine import ledger_engine
from worker.ledger.operator_pauses import PauseKind
from worker.processes import run_reader, run_scheduler, run_worker
from worker.runtime.stop import SignalStop
from worker.settings import Settings
from worker.steering import pause_lanes, resume_lanes

Run = Callable[[Application, SignalStop], None]


def obstacles(application: Application) -> Sequence[str]:
    return application.health.obstacles(probed=True)


@pytest.mark.parametrize("run", [run_worker, run_reader, run_scheduler])
def test_process_is_ready_while_it_works(application: Application, run: Run) -> None:
    assert obstacles(application) == ["it is starting"]
    with running(application, run):
        eventually(lambda: not obstacles(application), what="it is ready")
        assert application.health.is_live


def test_worker_with_a_paused_lane_is_not_ready(application: Application) -> None:
    with running(application):
        eventually(lambda: not obstacles(application), what="it is ready")
        pause_lanes(application, "usage", None, PauseKind.PAUSE, reason="a trial", actor="ann")
        eventually(lambda: "paused: billing.usage" in obstacles(application))
        assert application.health.is_live
        resume_lanes(application, "usage", None, actor="ann")
        eventually(lambda: not obstacles(application), what="it is ready again")


def test_worker_on_a_ledger_that_takes_no_writes_is_not_ready(worker_settings: Settings) -> None:
    url = worker_settings.database_url.get_secret_value()
    plain, name = ledger_engine(url), make_url(url).database
    application = Application(worker_settings)
    try:
        with plain.begin() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        assert "read-only" in (application.writable()() or "")
    finally:
        with plain.begin() as connection:
            connection.exec_driver_sql("SET TRANSACTION READ WRITE")
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        plain.dispose()
        application.service_engine.dispose()


def test_process_without_its_servers_is_live_and_not_ready(
    worker_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = "postgresql://billing@127.0.0.1:9/billing"
    application = Application(Settings(broker_url=worker_settings.broker_url, database_url=nowhere))
    with running(application):
        eventually(lambda: "Connection refused: waiting for it" in caplog.text, what="it has tried")
        assert obstacles(application) == ["it is starting"]
        assert application.health.is_live
