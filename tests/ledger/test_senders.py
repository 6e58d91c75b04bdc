"""Senders of commands: one key each, for every worker, and no more applications than a user may have."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier

import pytest
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.exc import DBAPIError

from worker.errors import ContentionError
from worker.ledger import senders
from worker.ledger.engine import ledger_engine
from worker.ledger.senders import UNNAMED, Sender, sender_ids
from worker.ledger.tables import senders as table

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OCR, CHAT, CRON = Sender("ocr", "scan"), Sender("app", "chat"), Sender("app", "")


def ids_of(engine: Engine, *asked: Sender) -> list[int | None]:
    with engine.begin() as connection:
        return sender_ids(connection, asked, NOW)


def stored(engine: Engine) -> set[tuple[str, str]]:
    with engine.begin() as connection:
        rows = connection.execute(select(table.c.broker_user, table.c.application)).all()
    assert len(rows) == len(set(rows))
    return {(user, application) for user, application in rows}


@pytest.fixture
def three_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "APPLICATIONS_MAX", 3)


def test_sender_keeps_its_key(engine: Engine, database_url: str) -> None:
    first = ids_of(engine, OCR, CHAT, OCR, CRON)
    assert first[0] == first[2]
    assert len({key for key in first if key}) == 3
    assert ids_of(engine, CRON, OCR) == [first[3], first[0]]
    another_worker = ledger_engine(database_url)
    assert ids_of(another_worker, CHAT, OCR) == [first[1], first[0]]
    another_worker.dispose()
    assert stored(engine) == {OCR, CHAT, CRON}


def test_message_without_names_has_no_sender(engine: Engine) -> None:
    assert ids_of(engine, UNNAMED) == [None]
    assert stored(engine) == set()


def test_known_senders_are_not_read_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids_of(engine, OCR)
    known = ids_of(engine, OCR)
    monkeypatch.setattr(senders, "_stored", None)
    assert ids_of(engine, OCR) == known


def test_sender_of_a_transaction_that_failed_is_added_by_the_next(engine: Engine) -> None:
    with engine.connect() as connection:
        sender_ids(connection, [OCR], NOW)
        connection.rollback()
    assert stored(engine) == set()
    (key,) = ids_of(engine, OCR)
    assert key is not None
    assert stored(engine) == {OCR}


@pytest.mark.usefixtures("three_applications")
@pytest.mark.parametrize("user", ["ocr", ""])
def test_user_with_too_many_applications_is_kept_without_others(
    engine: Engine, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    many = [Sender(user, f"a{number}") for number in range(5)]
    first = ids_of(engine, *many)
    assert len(set(first[:3])) == 3
    assert first[3] == first[4] == ids_of(engine, Sender(user, ""))[0]
    expected = {*many[:3], *([Sender(user, "")] if user else [])}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ids_of(engine, *reversed(many)) == first[::-1]
    assert stored(engine) == expected
    assert len(caplog.records) == 1
    assert "sent as 3 applications" in caplog.text


@pytest.mark.usefixtures("three_applications")
def test_others_are_not_limited_by_a_user_with_too_many_applications(engine: Engine) -> None:
    many = [Sender("ocr", f"a{number}") for number in range(5)]
    for _ in range(3):
        ids_of(engine, *many)
    assert None not in ids_of(engine, CHAT, CRON)
    assert {CHAT, CRON} < stored(engine)


@pytest.mark.usefixtures("three_applications")
def test_applications_of_a_failed_transaction_do_not_count(engine: Engine) -> None:
    with engine.connect() as connection:
        sender_ids(connection, [Sender("ocr", f"b{number}") for number in range(9)], NOW)
        connection.rollback()
    many = [Sender("ocr", f"a{number}") for number in range(3)]
    assert len(set(ids_of(engine, *many))) == 3
    assert stored(engine) == set(many)


def test_workers_that_meet_a_sender_at_once_agree_on_its_key(postgres_url: str) -> None:
    together = Barrier(4)
    asked = [Sender(f"user{number}", "app") for number in range(20)]

    def worker(number: int) -> list[int | None]:
        engine = ledger_engine(postgres_url)
        together.wait()
        keys = ids_of(engine, *asked, Sender("own", str(number)))
        engine.dispose()
        return keys[:-1]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(worker, range(4)))
    assert found == [found[0]] * 4
    assert len(set(found[0])) == 20


def test_key_that_is_taken_is_drawn_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 7, 8])
    monkeypatch.setattr(senders, "randbelow", lambda _: next(drawn) - 1)
    assert ids_of(engine, OCR) == [7]
    with pytest.raises(ContentionError):
        ids_of(engine, CHAT)
    assert ids_of(engine, CHAT) == [8]


@pytest.mark.parametrize("change", [update(table).values(application="other"), delete(table)])
def test_senders_are_append_only(engine: Engine, change: object) -> None:
    ids_of(engine, OCR)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(change)  # type: ignore[call-overload]
