"""Reload of the catalog: judged first, taken by all parts or none, between batches."""

import logging
import random
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from schemas import CatalogAnswer, QueryCatalog
from tests.support.fakes import FakeLink, FakePauses, delivery, operator_paused_lanes
from tests.support.private_server import free_port
from worker.bootstrap import Application
from worker.catalog import DEFAULT_CATALOG, Catalog, Tier, load_catalog
from worker.catalog_reload import CatalogReload
from worker.errors import ConfigurationError
from worker.lanes.pausing import Lanes
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.messages.dead_letter_limit import DeadLetterLimit
from worker.messages.policy import Policy
from worker.metrics import Metrics, ProcessRole
from worker.pipeline import Pipeline
from worker.runtime.hang_up import HangUp
from worker.settings import load_settings

NOW = datetime(2026, 11, 27, tzinfo=UTC)
PACKAGED = DEFAULT_CATALOG.read_text()
GOLD = "\n[tiers.gold]\nmonthly_tokens = 7\nfree_upload_bytes = 0\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(PACKAGED)
    return path


@pytest.fixture
def used() -> list[Catalog]:
    return []


@pytest.fixture
def reload(file: Path, used: list[Catalog]) -> CatalogReload:
    before = load_catalog(file)
    reload = CatalogReload(lambda: load_catalog(file), lambda: used[-1] if used else before, HangUp())
    reload.add(used.append)
    return reload


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_good_catalog_is_taken_and_its_hash_is_logged(
    reload: CatalogReload, file: Path, used: list[Catalog], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file.write_text(PACKAGED + GOLD)
    reload.run()
    assert used[0].tiers["gold"].monthly_tokens == 7
    ((level, text),) = lines(caplog)
    assert level == "INFO"
    assert text.startswith("the catalog is reloaded: it is ")
    assert " now, and was " in text
    reload.run()
    assert "the catalog is reloaded: it is the same, " in lines(caplog)[1][1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[tiers", "is not TOML"),
        (PACKAGED.replace("monthly_tokens", "monthly_tokns", 1), r"tiers\.free\.monthly_tok"),
        (None, "cannot be read"),
    ],
)
def test_bad_catalog_leaves_the_old_one_and_its_fault_is_an_error(
    reload: CatalogReload,
    file: Path,
    used: list[Catalog],
    text: str | None,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    reload.run()
    assert used == []
    ((level, line),) = lines(caplog)
    assert level == "ERROR"
    assert line.startswith(f"the catalog stays as it was: catalog {file}: ")
    assert re.search(fault, line)


def test_catalog_that_one_part_refuses_is_taken_by_none(
    reload: CatalogReload, used: list[Catalog], caplog: pytest.LogCaptureFixture
) -> None:
    def judge(_catalog: Catalog) -> None:
        raise ConfigurationError("prices name the package 'gone', which the catalog lacks")

    reload.add(lambda _: None, judge)
    reload.run()
    assert used == []
    assert "the package 'gone'" in lines(caplog)[0][1]
    assert not reload.is_good()


def test_tier_that_is_gone_is_warned_of(
    reload: CatalogReload, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(PACKAGED.replace("tiers.free", "tiers.gratis"))
    reload.run()
    ((level, text),) = lines(caplog)
    assert level == "WARNING"
    assert text.endswith("; it lacks 'free': see `billing-worker check` for accounts on it")


def test_request_is_taken_once() -> None:
    hang_up = HangUp()
    runs: list[Catalog] = []
    reload = CatalogReload(load_catalog, load_catalog, hang_up)
    reload.add(runs.append)
    assert not reload.requested
    hang_up.request()
    assert reload.requested
    reload.run()
    assert not reload.requested
    assert len(runs) == 1


# -- in a worker ------------------------------------------------------------------------------------------


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


def test_pipeline_judges_by_the_new_catalog_from_the_next_batch_on(engine: Engine, catalog: Catalog) -> None:
    pipeline = Pipeline(
        Ledger(engine), catalog, Policy(), clock=lambda: NOW, pause=lambda _: None, metrics=Metrics()
    )

    def replies(*messages: Mapping[str, object]) -> list[str]:
        link = FakeLink()
        items = pipeline.receive([delivery(message) for message in messages])
        pipeline.apply(items)
        pipeline.reply_and_acknowledge(link, items)
        return [reply["code"] for reply in link.replies]

    opening = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "gold"}
    assert replies(opening) == ["unknown_tier"]
    gold = Tier(monthly_tokens=7, free_upload_bytes=0)
    pipeline.use(catalog.model_copy(update={"tiers": {**catalog.tiers, "gold": gold}}), Policy())
    assert replies({**opening, "attempt": 2}) == ["account_opened"]


@pytest.mark.parametrize("is_new", [True, False])
def test_lanes_watch_over_a_configuration_that_is_new(*, is_new: bool) -> None:
    limit, metrics = DeadLetterLimit(), Metrics()
    lanes = Lanes(
        ["billing.usage"],
        limit,
        FakePauses(),
        worker="w",
        config="old",
        clock=lambda: NOW,
        rng=random.Random(1),
        metrics=metrics,
        operator=operator_paused_lanes(["billing.usage"], metrics),
    )
    lanes.use_config("new", is_new=is_new)
    assert limit.is_watching is is_new


def test_application_hands_a_new_catalog_to_all_that_hold_one(sqlite_url: str, file: Path) -> None:
    application = Application(
        load_settings(database_url=sqlite_url, broker_url="amqp://127.0.0.1:1/", catalog=file)
    )
    queries = application.queries()
    service = application.reloading(application.service())
    file.write_text(PACKAGED + GOLD)
    application.hang_up.request()
    application.turned()
    assert "gold" in application.catalog.tiers
    ids = application.policy_of_commands.limits.ids
    assert ids is not None
    assert "gold" in ids.known
    (answer,) = queries.answer([QueryCatalog()])
    assert isinstance(answer, CatalogAnswer)
    assert "gold" in answer.model_dump_json()
    dead_letters = service._known_catalog()
    assert "gold" in dead_letters.tiers
    queries.close()
    application.engine.dispose()


def test_metrics_name_the_catalog_that_is_in_use(sqlite_url: str, file: Path) -> None:
    settings = load_settings(
        database_url=sqlite_url, broker_url="amqp://127.0.0.1:1/", catalog=file, metrics_port=free_port()
    )
    application = Application(settings)
    application.serve_metrics(ProcessRole.WORKER)

    def named() -> list[str]:
        (info,) = application.metrics.catalog.collect()
        return [sample.labels["catalog"] for sample in info.samples]

    assert named() == [application.catalog.short_digest]
    before = application.catalog
    file.write_text(PACKAGED + GOLD)
    application.hang_up.request()
    application.turned()
    assert named() == [application.catalog.short_digest] != [before.short_digest]
