"""Plans of PostgreSQL: no page of dead letters, groups, histories, replays or the log reads a whole table."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from tests.deadletters.parts import NOW, World
from tests.support.provision import PostgresServer
from tests.support.query_plans import recorded_statements, scanned
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.replay import items
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.engine import ledger_engine

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LARGE = {"dead_letters", "dead_letter_events", "dead_letter_edits", "replay_items", "audit_log"}

_FILL = """
INSERT INTO dead_letters (letter_id, status, reason, message, queue, exchange, routing_key, attempts,
    first_failed_at, last_failed_at, type, reference_id, user_id, worker_version, schema_version, body,
    properties, fingerprint, tokens_at_stake)
SELECT 'l' || n, CASE WHEN n % 4 = 0 THEN 'parked' WHEN n % 4 = 1 THEN 'discarded' ELSE 'resolved' END,
    'reason ' || n % 50, 'a message that says why', 'billing.usage', 'billing', 'usage.deduct', 1,
    timestamptz '2026-01-01 Z' + n * interval '1 second',
    timestamptz '2026-01-01 Z' + n * interval '1 second',
    'type ' || n % 5, 'r' || n, 'u' || n % 5000, '1', 1, decode(repeat('7b7d', 100), 'hex'), '{}',
    md5((n % 200)::text), n
FROM generate_series(1, 40000) AS n;
INSERT INTO dead_letter_events (number, at, kind)
SELECT number, last_failed_at, 'failed' FROM dead_letters ORDER BY number;
INSERT INTO dead_letter_edits (number, at, actor, reason, before, after)
SELECT number, last_failed_at, 'ann', 'x', body, body FROM dead_letters;
INSERT INTO dead_letter_groups
SELECT fingerprint, min(reason), min(type), NULL, min(message), max(number),
    count(*) FILTER (WHERE status = 'parked'), 0, count(*) FILTER (WHERE status = 'resolved'),
    count(*) FILTER (WHERE status = 'discarded'), count(*) FILTER (WHERE status = 'parked'),
    coalesce(sum(tokens_at_stake) FILTER (WHERE status = 'parked'), 0), 0,
    min(first_failed_at), max(last_failed_at)
FROM dead_letters GROUP BY fingerprint;
INSERT INTO audit_log (at, actor, action, subject)
SELECT now(), 'a' || n % 30, 'action ' || n % 9, 'letter ' || n FROM generate_series(1, 20000) AS n;
INSERT INTO replays (at, actor, reason, source, steps, state, total, counts)
SELECT now(), 'ann', 'x', 'x', '[]', 'paused', 10000, '{"sent": 10000}' FROM generate_series(1, 3);
INSERT INTO replay_items (replay_id, position, number, state, was_known)
SELECT r, n, n, 'sent', false FROM generate_series(1, 3) AS r, generate_series(1, 10000) AS n;
ANALYZE
"""


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """Engine on a database with enough dead letters for PostgreSQL to prefer an index."""
    name = f"letters_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    with engine.begin() as connection:
        for statement in _FILL.split(";\n"):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


def page(**filters: Any) -> Callable[[DeadLetters], Any]:
    return lambda service: service.page(DeadLetterFilter(**filters), before=30_000)


ALL = tuple(DeadLetterStatus)

QUESTIONS: dict[str, Callable[[DeadLetters], Any]] = {
    "the first page": lambda service: service.page(),
    "what waits": page(),
    "all of them": page(status=ALL),
    "a reason": page(code="reason 8"),
    "a reason of any status": page(code="reason 8", status=ALL),
    "a type": page(type="type 3"),
    "a user": page(user_id="u77"),
    "a user of any status": page(user_id="u77", status=ALL),
    "a reference": page(reference_id="r8", status=ALL),
    "a time": page(since=BEGAN, until=BEGAN + timedelta(hours=2), status=ALL),
    "a short time": page(since=BEGAN + timedelta(hours=5), until=BEGAN + timedelta(hours=5, minutes=1)),
    "a reason and a user": page(code="reason 8", user_id="u8"),
    "a text": page(text="nowhere"),
    "a group's letters": page(fingerprint="cfcd208495d565ef66e7dff9f98764da"),
    "groups": lambda service: service.groups(),
    "groups by tokens": lambda service: service.groups(order="tokens", waiting_only=False),
    "one group": lambda service: service.group("cfcd2084"),
    "a group's parts": lambda service: service.group_parts("cfcd2084"),
    "applied ones": page(status=(DeadLetterStatus.RESOLVED,), applied=True),
    "a look for applied ones": lambda service: service.mark_applied(20_000),
    "all together": lambda service: service.counts(),
    "a letter's story": lambda service: service.details(20_000),
    "the log": lambda service: service.activity_log(),
    "the log of one": lambda service: service.activity_log(actor="a7", before=10_000),
    "the log about one": lambda service: service.activity_log(subject="letter 7"),
    "replays": lambda service: service.replays(),
    "letters of a replay": lambda service: service.replay_items(2, after=5_000),
    "a look at a replay": lambda service: service.look_at_replay(2, after=5_000),
    "those that came back": lambda service: service.replay_items(2, states=["failed_again"]),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_page_reads_no_whole_table(question: Callable[[DeadLetters], Any], filled: Engine) -> None:
    with recorded_statements(filled) as statements:
        question(World(filled).service)
    assert statements
    assert scanned(filled, statements, LARGE) == []


def test_groups_are_read_in_the_order_of_an_index(filled: Engine) -> None:
    with recorded_statements(filled) as statements:
        World(filled).service.groups(limit=10, waiting_only=False)
    ((statement, parameters),) = [one for one in statements if "ORDER BY dead_letter_groups" in one[0]]
    with filled.connect() as connection:
        connection.exec_driver_sql("SET LOCAL enable_sort = off")
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    assert any("ix_dead_letter_groups_last_failed_at_fingerprint" in line for line in plan)
    assert not any("Sort  (" in line for line in plan if "Incremental" not in line)


def test_a_step_of_a_replay_reads_no_whole_table(filled: Engine) -> None:
    with recorded_statements(filled) as statements:
        under_way = items.under_way(filled, NOW, 2, 100)
        items.end_shown(filled, NOW, 2, under_way)
        items.claim(filled, NOW, 2, 10_000, 100)
    assert len(under_way) == 100
    assert scanned(filled, statements, LARGE) == []


def test_parking_reads_no_whole_table(filled: Engine) -> None:
    world = World(filled)
    with recorded_statements(filled) as statements:
        world.park_failed({"type": "usage.deduct", "referenceId": "new", "userId": "u", "tokens": 1})
    assert scanned(filled, [one for one in statements if "INSERT" not in one[0].upper()], LARGE) == []
