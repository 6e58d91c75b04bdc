"""Queries of a replica: read while it is fresh, and never for what it doesn't know yet."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from schemas import Query, QueryAnswer, QueryBalance
from tests.support.apply_commands import applied
from tests.support.limited_postgres import Standby
from tests.support.query_samples import NOW, asked_catalog, given, opened
from tests.support.replication import ReplicatedLedger
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.queries import QueryService
from worker.queries.sources import Database, Sources

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
CATALOG: Catalog = asked_catalog()


@dataclass
class Pair:
    """A primary and its standby, an engine on each, and a clock that a test moves."""

    standby: Standby
    primary: Engine
    replica: Engine
    now: datetime = NOW
    waits: list[float] = field(default_factory=list)

    def service(self, replica: Engine | None = None) -> QueryService:
        sources = Sources(
            Database(self.primary, self.primary),
            Database(*[replica or self.replica] * 2),
            max_lag=10 * SECOND,
            clock=lambda: self.now,
        )
        return QueryService(sources, CATALOG, clock=lambda: self.now, sleep=self.waits.append)

    def give(self, tokens: int, reference: str) -> None:
        applied(self.primary, CATALOG, given("ann", tokens, reference), now=NOW)


def balance_in(answer: QueryAnswer) -> int:
    balance: int = getattr(answer, "balance")  # noqa: B009 - any other answer fails the test
    return balance


def ask(service: QueryService, query: Query = QueryBalance(user_id="ann")) -> QueryAnswer:  # noqa: B008 - frozen
    (answer,) = service.answer([query])
    return answer


@pytest.fixture
def pair(replicated_ledger: ReplicatedLedger) -> Pair:
    """Ledger with the account of ann, on both servers."""
    ledger = replicated_ledger
    applied(ledger.primary, CATALOG, opened("ann", "none"), given("ann", 100), now=NOW)
    ledger.standby.catch_up()
    return Pair(ledger.standby, ledger.primary, ledger.replica)


def test_fresh_replica_is_read_and_says_what_time_it_knows(pair: Pair) -> None:
    service = pair.service()
    before = balance_in(ask(service))
    pair.standby.pause_replay()
    pair.give(5, "unseen")
    pair.now = NOW + 3 * SECOND
    answer = ask(service)
    assert (balance_in(answer), answer.as_of) == (before, NOW)
    pair.standby.resume_replay()
    pair.standby.catch_up()
    answer = ask(service)
    assert (balance_in(answer), answer.as_of) == (before + 5, NOW + 3 * SECOND)


def test_query_that_names_a_sequence_reads_its_own_writes(pair: Pair) -> None:
    service = pair.service()
    first = ask(service)
    pair.standby.pause_replay()
    pair.give(7, "own")
    sequence = getattr(first, "sequence") + 1  # noqa: B009
    answer = ask(service, QueryBalance(user_id="ann", min_sequence=sequence))
    assert balance_in(answer) == balance_in(first) + 7
    assert pair.waits, "the replica had a moment to catch up"
    assert balance_in(ask(service)) == balance_in(first), "others still read the replica"


def test_replica_that_is_too_far_behind_is_not_read(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "worker.queries")
    service = pair.service()
    before = balance_in(ask(service))
    pair.standby.pause_replay()
    pair.give(9, "late")
    pair.now = NOW + HOUR
    for _ in range(3):
        answer = ask(service)
        assert (balance_in(answer), answer.as_of) == (before + 9, NOW + HOUR)
    pair.standby.resume_replay()
    pair.standby.catch_up()
    assert ask(service).as_of == NOW + HOUR
    assert [record.getMessage() for record in caplog.records] == [
        "queries read the primary: the replica is more than 10 s behind",
        "queries read the replica again",
    ]


def test_idle_primary_makes_no_replica_look_old(pair: Pair) -> None:
    service = pair.service()
    ask(service)
    pair.now = NOW + HOUR
    assert ask(service).as_of == NOW + HOUR


def test_replica_that_does_not_answer_is_not_read(pair: Pair) -> None:
    away = ledger_engine("postgresql://billing:x@127.0.0.1:1/ledger")
    assert ask(pair.service(away)).type == "answer.balance"


def test_url_of_a_primary_is_no_replica(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(pair.service(pair.primary)).type == "answer.balance"
    assert "names a primary" in caplog.text


def test_replica_answers_while_the_primary_is_away(pair: Pair) -> None:
    service = pair.service()
    before = ask(service)
    service._sources._primary = Database(*[ledger_engine("postgresql://billing:x@127.0.0.1:1/ledger")] * 2)
    pair.now = NOW + HOUR
    answer = ask(service)
    assert (balance_in(answer), answer.as_of) == (balance_in(before), NOW)
