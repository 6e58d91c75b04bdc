"""The Workers page and the overview during an incident: paused lanes on top, and the way to go on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.console.conftest import app_on
from tests.console.visitor import Visitor, words
from tests.support.waiting import eventually
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.console.tiles import SHOWN, tiles_of
from worker.ledger.operator_pauses import OperatorPauses
from worker.ledger.pauses import Pause
from worker.ledger.queries.pace import Pace
from worker.ledger.workers import KnownWorker, LaneProgress, WorkerKind, Workers, WorkerState
from worker.runtime.cached_value import KnownValue, Unknown
from worker.settings import load_settings
from worker.status import BrokerFacts, LedgerFacts, QueueFacts, status_of

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def with_broker(broker_url: str, sqlite_url: str) -> Iterator[Application]:
    """Application on a SQLite ledger and RabbitMQ."""
    application = Application(load_settings(broker_url=broker_url, database_url=sqlite_url))
    yield application
    application.engine.dispose()


def known_worker(seen_at: datetime) -> KnownWorker:
    return KnownWorker(
        name="host:1:aa",
        kind=WorkerKind.WORKER,
        host="<b>host",
        pid=1,
        version="0.5.0",
        settings_hash="abcdef0123",
        started_at=seen_at,
        seen_at=seen_at,
        state=WorkerState.CONSUMING,
        settings={"BILLING_BATCH_SIZE": 77},
        lanes={queue.name: LaneProgress(5, 1.0) for queue in BILLING.work},
    )


def test_page_shows_lanes_and_processes(application_: Application) -> None:
    Workers(application_.engine).write(known_worker(datetime.now(UTC)))
    visitor = Visitor(app_on(application_).test_client())
    text = visitor.get("/workers")
    page = words(text)
    assert "<b>host" not in text
    assert "BILLING_BATCH_SIZE 77" in page
    for lane in ("payments", "usage", "bulk"):
        assert f"{lane} consuming" in page


def test_operator_pauses_and_resumes_a_lane(application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    pauses = OperatorPauses(application_.engine)
    visitor.post("/workers/pause", lane="usage", kind="pause", reason="a wrong price")
    assert [(one.queue, one.reason) for one in pauses.current()] == [("billing.usage", "a wrong price")]
    for path in ("/workers", "/", "/overview/live"):
        page = words(visitor.get(path))
        assert "usage paused by" in page, path
        assert "a wrong price" in page, path
    visitor.post("/workers/resume", lane="usage")
    assert pauses.current() == []
    assert "a wrong price" not in words(visitor.get("/workers/live"))


def test_type_is_paused_and_its_lane_goes_on(with_broker: Application) -> None:
    app = app_on(with_broker)
    visitor = Visitor(app.test_client())
    visitor.post("/workers/pause", type="usage.deduct", kind="pause", reason="x")
    assert "usage.deduct of usage paused by" in words(visitor.get("/workers"))
    visitor.post("/workers/resume", lane="usage", type="usage.deduct")
    assert "usage.deduct of usage" not in words(visitor.get("/workers/live"))
    app.extensions["billing"].close()


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"lane": "usages", "kind": "pause", "reason": "x"}, 400),
        ({"lane": "usage", "kind": "stop", "reason": "x"}, 400),
        ({"lane": "usage", "type": "usage.deduct", "kind": "quiesce", "reason": "x"}, 400),
        ({"lane": "usage", "kind": "pause"}, 409),
    ],
)
def test_invalid_pause_is_refused(application_: Application, form: dict[str, str], status: int) -> None:
    Visitor(app_on(application_).test_client()).post("/workers/pause", status, **form)
    assert OperatorPauses(application_.engine).current() == []


def test_viewer_sees_the_pauses_and_ends_none(application_: Application) -> None:
    application_.pauses.begin(
        Pause("billing.usage", "w:1", "consecutive_faults", "100 in a row", datetime.now(UTC)), "config"
    )
    visitor = Visitor(app_on(application_, read_only=True).test_client())
    page = visitor.get("/workers")
    assert "paused (consecutive faults) by w:1" in words(page)
    assert 'action="/workers/resume"' not in page
    assert 'action="/workers/pause"' not in page


# -- tiles ------------------------------------------------------------------------------------------------

PACE = Pace(NOW - timedelta(hours=1), NOW, (), NOW)


def test_unknown_numbers_give_their_place_to_known_ones(application_: Application) -> None:
    status = KnownValue(status_of(BrokerFacts(NOW, problem="down"), LedgerFacts()), NOW)
    counts = application_.service().counts()
    totals = KnownValue(app_on(application_).extensions["billing"].reader.stats(), NOW)
    tiles = tiles_of(status, counts, PACE, totals)
    names = [tile.name for tile in tiles.shown]
    assert names == ["Workers", "Dead letters", "Tokens affected", "Last posted", "Users", "Held"]
    assert tiles.unknown == (("Messages waiting, Lag", "the broker does not answer"),)


def test_numbers_of_a_working_installation_come_first(application_: Application) -> None:
    queues = {queue.name: QueueFacts(7, 1) for queue in BILLING.work}
    worker = known_worker(NOW)
    facts = BrokerFacts(NOW, {**queues, "billing.bulk": QueueFacts(0, 1)})
    status = KnownValue(status_of(facts, LedgerFacts([worker])), NOW)
    tiles = tiles_of(status, application_.service().counts(), PACE, Unknown("slow"))
    assert [tile.name for tile in tiles.shown][:2] == ["Messages waiting", "Workers"]
    assert tiles.shown[0].value == "14"
    assert len(tiles.shown) < SHOWN, "nothing is made up"


def test_dead_letters_are_in_the_chart(filled: Application) -> None:
    page = Visitor(app_on(filled).test_client()).get("/?window=month")
    assert "dead letters</span>" in page
    assert "and 0 dead letters" not in page


def test_running_console_is_among_the_processes(
    open_console: Callable[..., str], application: Application
) -> None:
    open_console()
    (known,) = eventually(lambda: application.workers.all(utc_now()), what="its row")
    assert (known.kind, known.state) == ("console", "running")
