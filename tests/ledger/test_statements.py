"""Statements: opening and entries add up to the closing, and one begins where the last one ended."""

from collections import Counter as Tally
from datetime import datetime, timedelta
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from schemas import DeductUsage
from tests.support.apply_commands import applied
from tests.support.query_samples import (
    DAY,
    NOW,
    TICK,
    Apply,
    adjusted,
    asked_catalog,
    given,
    on_sqlite,
    opened,
    used,
)
from tests.support.strategies import examples
from worker.catalog import Catalog
from worker.errors import QueryError
from worker.ledger.queries import PostedEntry, Reader, StatementSummary

_CATALOG = asked_catalog()


@pytest.fixture
def catalog() -> Catalog:
    return _CATALOG


def stated(
    reader: Reader, user: str, start: datetime, end: datetime
) -> tuple[StatementSummary, list[PostedEntry]]:
    with reader.statement(user, start, end) as statement:
        return statement.summary, list(statement.transactions)


def test_statement_has_the_entries_posted_in_its_time(reader: Reader, ada: str, apply: Apply) -> None:
    end = NOW + 2 * DAY
    brief = given(ada, 50, "brief", expires_at=NOW + DAY, priority=1_000)
    apply(brief, used("early", 1), now=NOW - TICK)
    apply(used("first", 100, "2026-11-01T00:00:00Z"), now=NOW)
    apply(adjusted(ada, 7), now=end - TICK)
    apply(used("late", 1), now=end)
    summary, entries = stated(reader, ada, NOW, end)
    assert summary.to_dict() == {
        "userId": "ada",
        "start": "2026-11-22T10:15:00Z",
        "end": "2026-11-24T10:15:00Z",
        "openingBalance": 10_049,
        "closingBalance": 9_906,
        "entries": 3,
        "totals": {"adjustments": 7, "expiry": -50, "usage": -100},
    }
    assert [(entry.reference_id, entry.counter, entry.amount, entry.source) for entry in entries] == [
        ("first", "usage", -100, "bonus"),
        ("adjust", "expiry", -50, "bonus"),
        ("adjust", "adjustments", 7, "adjustment"),
    ]


_worlds = count()
_moments = st.integers(0, 40).map(lambda hours: NOW + timedelta(hours=hours))


@settings(examples(15), suppress_health_check=list(HealthCheck))
@drawn(
    clocks=st.lists(_moments, min_size=1, max_size=12),
    cuts=st.lists(_moments | st.just(NOW + 99 * DAY), min_size=2, max_size=6, unique=True).map(sorted),
)
def test_opening_and_entries_add_up_and_statements_connect_whatever_the_clocks_say(
    engine: Engine, clocks: list[datetime], cuts: list[datetime]
) -> None:
    """The clocks of two workers may differ: an entry posted later may be stamped earlier."""
    reader, user = Reader(engine), f"user-{next(_worlds)}"
    applied(engine, _CATALOG, opened(user, "none"), given(user, 10_000), now=NOW)
    for number, clock in enumerate(clocks):
        command = DeductUsage(reference_id=f"{user}-{number}", user_id=user, tokens=number + 1)
        applied(engine, _CATALOG, command, now=clock)
    statements = [stated(reader, user, start, end) for start, end in pairwise(cuts)]
    for summary, entries in statements:
        by_counter: Tally[str] = Tally()
        for entry in entries:
            by_counter[entry.counter] += entry.amount
        assert summary.totals == by_counter
        assert summary.opening_balance + by_counter.total() == summary.closing_balance
        assert summary.entries == len(entries)
    for (one, _), (other, _) in pairwise(statements):
        assert one.closing_balance == other.opening_balance
    _, whole = stated(reader, user, cuts[0], cuts[-1])
    assert whole == [entry for _, entries in statements for entry in entries]
    everything, _ = stated(reader, user, NOW, NOW + 100 * DAY)
    assert everything.closing_balance == reader.balance(user, NOW + 100 * DAY, _CATALOG).balance


@on_sqlite
def test_user_has_nothing_before_the_account_was_opened(reader: Reader, ada: str) -> None:
    summary, entries = stated(reader, ada, NOW - 9_000 * DAY, NOW - 365 * DAY)
    assert (summary.opening_balance, summary.closing_balance, summary.entries, entries) == (0, 0, 0, [])


@on_sqlite
@pytest.mark.parametrize("length", [timedelta(0), -TICK])
def test_a_statement_ends_after_it_begins(reader: Reader, ada: str, length: timedelta) -> None:
    with pytest.raises(QueryError, match="ends after it begins"):
        stated(reader, ada, NOW, NOW + length)


def test_statement_reads_entries_by_page_without_later_ones(
    reader: Reader, engine: Engine, ada: str, apply: Apply
) -> None:
    apply(*(used(f"d{number}", 1) for number in range(2_500)), now=NOW)
    with reader.statement(ada, NOW, NOW + DAY) as statement:
        statements: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
        next(statement.transactions)
        assert len(statements) == 1
        apply(used("meanwhile", 1), now=NOW)
        del statements[:]
        assert sum(1 for _ in statement.transactions) == 2_499
        assert len(statements) == 2
