"""Sixth migration on dead letters that were there before: unknown times are NULL, and groups are anew."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import DBAPIError

from tests.deadletters.parts import DeadQueue, deduct, failed
from tests.support.own_user import OWN_USERS
from tests.support.provision import PostgresServer
from worker.deadletters.fingerprints import fingerprint_of
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store import tables
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision
from worker.messages.dead_letters import EPOCH, Failure

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
ALL = DeadLetterFilter(status=tuple(DeadLetterStatus))
FAULT = """Traceback (most recent call last):
  File "/app/worker/{}.py", line {}, in {}
    return 1
KeyError: 'u-17'
"""


def row(reference: str, **fields: Any) -> dict[str, Any]:
    """Row of a dead letter of the fifth schema; its fingerprint is one that nobody makes any more."""
    return {
        "letter_id": reference,
        "status": "parked",
        "reason": "invalid_field",
        "message": "tokens: at most 1000000000000000 is taken.",
        "field": "tokens",
        "traceback": None,
        "queue": "billing.usage",
        "exchange": "billing",
        "routing_key": "usage.deduct",
        "attempts": 2,
        "first_failed_at": NOW,
        "last_failed_at": NOW + timedelta(hours=1),
        "type": "usage.deduct",
        "reference_id": reference,
        "user_id": "ann",
        "worker_version": "1",
        "schema_version": 2,
        "body": json.dumps(deduct(reference)).encode(),
        "properties": {},
        "fingerprint": "0ld" + reference,
        "tokens_at_stake": 5,
        "replay_id": None,
    } | fields


def fault(reference: str, *place: Any, **fields: Any) -> dict[str, Any]:
    """Row of a dead letter that met a fault at this place of our code."""
    values = {"reason": "unprocessable", "message": "KeyError: 'u-17'", "field": None}
    return row(reference, **(values | {"traceback": FAULT.format(*place)} | fields))


#: Two kinds of failure in five old groups; the newest fault has been resolved.
DEAD_LETTERS = [
    row("large", first_failed_at=EPOCH, last_failed_at=EPOCH),
    row("larger", message="tokens: Input should be less than or equal to 9223372036854775807"),
    row("fraction", message="tokens: must be a whole number, without quotes, fraction or exponent"),
    fault("one", "pipeline", 104, "transact", tokens_at_stake=None),
    fault("two", "core/decide", 84, "decide", first_failed_at=EPOCH, status="replaying", replay_id=1),
    fault("three", "core/decide", 84, "judge", status="resolved", message="KeyError: 'u-18'"),
    fault("away", "core/decide", 84, "judge", status="discarded"),
    row("unknown", reason="expired", message="", first_failed_at=EPOCH, last_failed_at=EPOCH),
]
#: Enough for a second page of rows, each in a group of its own before.
FURTHER = [row(f"further-{n}", reason="not_json", field=None, status="discarded") for n in range(600)]
GROUPS = [
    {
        "fingerprint": dead_letter["fingerprint"],
        "reason": dead_letter["reason"],
        "message": dead_letter["message"],
        "sample": number,
        **dict.fromkeys(("parked", "waiting", "tokens_unknown"), 1),
        **dict.fromkeys(("replaying", "resolved", "discarded", "tokens_at_stake"), 0),
        "first_failed_at": dead_letter["first_failed_at"],
        "last_failed_at": dead_letter["last_failed_at"],
    }
    for number, dead_letter in enumerate(DEAD_LETTERS, 1)
]


MIGRATION = import_module("worker.ledger.migrations.versions.0006_dead_letter_groups")


@pytest.fixture(params=["sqlite", "postgresql"])
def fifth(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A ledger of the fifth schema."""
    if request.param == "sqlite":
        yield from _fifth(ledger_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"))
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"groups_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    yield from _fifth(ledger_engine(server.address.url(name)))
    server.databases.drop_database(name)


def _fifth(engine: Engine) -> Iterator[Engine]:
    migrate(engine, "0005")
    yield engine
    engine.dispose()


@pytest.fixture
def migrated(fifth: Engine) -> Engine:
    """A ledger of the fifth schema with dead letters, brought to the sixth and from there to the newest."""
    with fifth.begin() as connection:
        connection.execute(insert(tables.dead_letters), DEAD_LETTERS + FURTHER)
        connection.execute(insert(tables.dead_letter_groups), GROUPS)
    migrate(fifth, "0006")
    assert current_revision(fifth) == "0006"
    migrate(fifth)  # what reads dead letters now needs the columns that came since
    return fifth


def dead_letters(engine: Engine) -> list[StoredDeadLetter]:
    """All dead letters, oldest first."""
    return list(DeadLetters(engine).every_dead_letter(ALL))[::-1]


def test_dead_letters_keep_all_but_fingerprint_and_unknown_times(migrated: Engine) -> None:
    kept = [name for name in DEAD_LETTERS[0] if name != "fingerprint"]
    for before, after in zip(DEAD_LETTERS + FURTHER, dead_letters(migrated), strict=True):
        expected = {name: None if before[name] == EPOCH else before[name] for name in kept}
        assert {name: getattr(after, name) for name in kept} == expected


def test_like_failures_meet_in_one_group(migrated: Engine) -> None:
    service = DeadLetters(migrated)
    assert service.drifts() == []
    groups = {
        (group.reason, group.waiting, group.resolved, group.discarded): group
        for group in service.groups(waiting_only=False).groups
    }
    assert groups.keys() == {
        ("invalid_field", 2, 0, 0),
        ("invalid_field", 1, 0, 0),
        ("unprocessable", 2, 1, 1),
        ("expired", 1, 0, 0),
        ("not_json", 0, 0, 600),
    }
    faults = groups["unprocessable", 2, 1, 1]
    assert (faults.parked, faults.replaying, faults.tokens_at_stake, faults.tokens_unknown) == (1, 1, 5, 1)
    assert (faults.sample, faults.message) == (5, "KeyError: 'u-17'"), "the newest that waits"
    assert (faults.first_failed_at, faults.last_failed_at) == (NOW, NOW + timedelta(hours=1))
    unknown = groups["expired", 1, 0, 0]
    assert (unknown.first_failed_at, unknown.last_failed_at) == (None, None)


def test_new_dead_letters_join_the_groups_of_old_ones(migrated: Engine) -> None:
    service = DeadLetters(migrated, worker_users=OWN_USERS)
    before = {group.fingerprint for group in service.groups(waiting_only=False).groups}
    queue = DeadQueue(
        *(
            failed(
                json.dumps(deduct(f"new-{one['reference_id']}")).encode(),
                reason=Failure(
                    one["reason"], one["message"], one["field"], one["traceback"], "usage.deduct", "r", "ann"
                ),
            )
            for one in DEAD_LETTERS
        )
    )
    assert service.drain(queue) == len(DEAD_LETTERS)
    assert {group.fingerprint for group in service.groups(waiting_only=False).groups} == before
    assert service.drifts() == []


def test_groups_of_unknown_time_come_last_and_are_reached_page_by_page(migrated: Engine) -> None:
    service, seen, after = DeadLetters(migrated), list[Any](), None
    for _ in range(5):
        page = service.groups(waiting_only=False, limit=1, after=after)
        seen += [(group.fingerprint, group.last_failed_at) for group in page.groups]
        after = page.next
    assert after is None
    assert len({fingerprint for fingerprint, _ in seen}) == 5
    assert [time is None for _, time in seen] == [False, False, False, False, True]


@pytest.mark.parametrize(
    "amounts", [[2**62, 2**62 - 1], [2**63 - 1, 1], [2**63 - 1] * 3, [2**32 - 1] * 5, [2**40 + 7, None, 0]]
)
def test_sum_of_tokens_ends_where_the_numbers_of_a_database_end(
    fifth: Engine, amounts: list[int | None]
) -> None:
    rows = [row(f"r-{place}", tokens_at_stake=amount) for place, amount in enumerate(amounts)]
    with fifth.begin() as connection:
        connection.execute(insert(tables.dead_letters), rows)
    migrate(fifth)
    service, is_bounded = DeadLetters(fifth), fifth.dialect.name == "sqlite"
    for left in (amounts, amounts[1:]):
        whole = sum(amount or 0 for amount in left)
        (group,) = service.groups().groups
        assert group.tokens_at_stake == (min(whole, 2**63 - 1) if is_bounded else whole)
        assert service.drifts() == []
        service.discard([1], "a test", "ann")


def test_originals_are_guarded_afterwards(migrated: Engine) -> None:
    for change in ("DELETE FROM dead_letters", "UPDATE dead_letters SET body = letter_id"):
        with pytest.raises(DBAPIError), migrated.begin() as connection:
            connection.execute(text(change))


words = st.text() | st.sampled_from([str(one["message"]) for one in DEAD_LETTERS])
codes = st.text() | st.sampled_from(["invalid_field", "duplicate_field"])
fields = st.none() | st.text() | st.from_regex(r"(items\.\d\.)?(metadata\.)?[a-z.]*", fullmatch=True)
traces = st.none() | st.text() | st.sampled_from([one["traceback"] for one in DEAD_LETTERS])


@given(codes, st.none() | st.text(), fields, words, traces)
def test_migration_and_code_give_the_same_fingerprint(
    code: str, type_: str | None, field: str | None, message: str, trace: str | None
) -> None:
    kind = (code, type_, field, message, trace)
    assert MIGRATION._fingerprint(*kind) == fingerprint_of(*kind)
