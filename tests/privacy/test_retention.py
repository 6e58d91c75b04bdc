"""Purge of what is old: exported and proven first, only what is done, counts true afterwards."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update

from tests.deadletters.parts import NOW, World, deduct
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store import groups
from worker.deadletters.store.filters import DeadLetterFilter
from worker.deadletters.store.tables import audit_log, dead_letter_events, dead_letter_groups, dead_letters
from worker.errors import ConfigurationError, NotPossibleError
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import snapshot
from worker.privacy import retention
from worker.privacy.export_file import proven_lines, write_new
from worker.privacy.retention import Purge, old_dead_letters

LATER = NOW + timedelta(days=200)
AGE = LATER - timedelta(days=180)


@pytest.fixture
def world(postgres_engine: Engine) -> World:
    """Three old dead letters and a young one: one waits, one is discarded with a history, one is resolved."""
    world = World(postgres_engine)
    world.open("ann")
    _, discarded, resolved = world.park_failed(deduct("r-1"), deduct("r-2"), deduct("r-3"))
    world.service.note(discarded, "look", "ann")
    world.service.discard([discarded], "not ours", "ann")
    world.replay([resolved])
    world.now = LATER
    (young,) = world.park_failed(deduct("r-4"))
    world.service.discard([young], "not ours", "ann")
    with postgres_engine.begin() as connection:
        is_young = dead_letters.c.number == young
        connection.execute(update(dead_letters).where(is_young).values(last_failed_at=LATER))
    return world


def purged(world: World, target: Path, *, with_parked: bool = False) -> Purge:
    filter_ = old_dead_letters(AGE, with_parked=with_parked)
    return retention.purge_dead_letters(world.engine, LATER, filter_, target, "eve", lambda _: None)


def references(world: World) -> set[str | None]:
    every = DeadLetterFilter(status=tuple(DeadLetterStatus))
    return {dead_letter.reference_id for dead_letter in world.service.every_dead_letter(every)}


def test_old_dead_letters_that_are_done_go_after_their_export(world: World, tmp_path: Path) -> None:
    done = purged(world, tmp_path / "old.jsonl")
    assert (done.exported, done.purged) == (2, 2)
    assert references(world) == {"r-1", "r-4"}
    lines = [json.loads(line) for line in (tmp_path / "old.jsonl").read_text().splitlines()]
    assert [line["referenceId"] for line in lines] == ["r-3", "r-2"]
    assert [event["kind"] for event in lines[1]["history"]] == ["failed", "noted", "discarded"]
    assert (tmp_path / "old.jsonl").stat().st_mode & 0o777 == 0o600
    with snapshot(world.engine) as connection:
        assert groups.drifts(connection) == []
        events = connection.execute(select(func.count(dead_letter_events.c.number.distinct()))).scalar_one()
    assert events == 2, "histories go with their dead letters"


def test_purge_is_in_the_activity_log_with_its_digest(world: World, tmp_path: Path) -> None:
    done = purged(world, tmp_path / "old.jsonl")
    newest = world.service.activity_log(limit=1).entries[0]
    assert (newest.actor, newest.action, newest.subject) == ("eve", "purge", "dead letters")
    assert newest.detail == {"count": 2, "file": "old.jsonl", "sha256": done.file.digest}


def test_waiting_dead_letters_go_on_request_alone(world: World, tmp_path: Path) -> None:
    assert purged(world, tmp_path / "all.jsonl", with_parked=True).purged == 3
    assert references(world) == {"r-4"}
    with snapshot(world.engine) as connection:
        assert groups.drifts(connection) == []
        sample = connection.execute(select(dead_letter_groups.c.sample)).scalar_one()
    assert world.service.dead_letter(sample).reference_id == "r-4", "the group shows one that is there"


def test_export_of_a_purge_can_be_imported(world: World, tmp_path: Path) -> None:
    purged(world, tmp_path / "old.jsonl")
    lines = (tmp_path / "old.jsonl").read_text().splitlines()
    assert world.service.import_lines(lines, "ann").added == 2
    assert references(world) == {"r-1", "r-2", "r-3", "r-4"}


def test_file_that_is_there_stops_the_purge(world: World, tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        purged(world, tmp_path / "old.jsonl")
    assert len(references(world)) == 4
    assert (tmp_path / "old.jsonl").read_text() == "mine"


def test_folder_that_is_missing_stops_the_purge(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be written: No such file"):
        purged(world, tmp_path / "nowhere" / "old.jsonl")
    assert len(references(world)) == 4


@pytest.mark.parametrize("content", ["", '{"number": 1}\n', '{"number": 1}\n{"number": 3}\n'])
def test_file_that_is_not_what_was_written_is_no_export(tmp_path: Path, content: str) -> None:
    written = write_new(tmp_path / "file", ['{"number": 1}\n', '{"number": 2}\n'])
    assert [json.loads(line)["number"] for line in proven_lines(written)] == [1, 2]
    written.path.write_text(content)
    with pytest.raises(NotPossibleError, match="nothing is purged"):
        list(proven_lines(written))


def test_old_entries_of_the_activity_log_go_after_their_export(world: World, tmp_path: Path) -> None:
    target = tmp_path / "activity.jsonl"
    with world.engine.connect() as connection:
        entry = audit_log.c
        old = connection.execute(select(entry.entry_id).where(entry.at < AGE).order_by(entry.entry_id))
        expected = list(old.scalars())
    done = retention.purge_activity(world.engine, LATER, AGE, target, "eve", lambda _: None)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["number"] for line in lines] == expected != []
    assert done.purged == len(expected)
    actions = [entry.action for entry in world.service.activity_log().entries]
    assert actions == ["purge", "discard"], "the young one, and the purge itself"


def test_sqlite_has_no_purge(sqlite_url: str, tmp_path: Path) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        with pytest.raises(ConfigurationError, match="only a ledger on PostgreSQL"):
            retention.purge_activity(engine, datetime.now(UTC), AGE, tmp_path / "file", "eve", lambda _: None)
    finally:
        engine.dispose()
    assert not (tmp_path / "file").exists()
