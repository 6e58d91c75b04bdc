"""Usage by day and type of command: the same tokens as the usage by feature."""

from datetime import date, timedelta

import pytest
from sqlalchemy import Engine

from tests.support.commands import reserve, settle
from tests.support.query_samples import DAY, NOW, Apply, asked_catalog, given, on_sqlite, opened, used
from worker.errors import NotFoundError, QueryError
from worker.ledger.queries import Reader, snapshot
from worker.ledger.queries.kinds import UsageKinds, usage_kinds


def ask(engine: Engine, user: str = "ada", days: int = 3, timezone: str = "UTC") -> UsageKinds:
    with snapshot(engine) as connection:
        return usage_kinds(connection, user, NOW, days, timezone)


def test_each_type_has_its_tokens_on_its_day(engine: Engine, apply: Apply) -> None:
    apply(opened("ada", "none"), given("ada", 1_000), now=NOW - 5 * DAY)
    apply(used("early", 7), now=NOW - 4 * DAY)
    apply(used("a", 10, feature="ocr"), now=NOW - DAY)
    apply(reserve(50, "hold", user_id="ada"), now=NOW - timedelta(hours=2))
    apply(settle(30, user_id="ada"), used("b", 5), now=NOW - timedelta(hours=1))
    view = ask(engine)
    assert [day.day for day in view.by_day] == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
    assert [dict(day.by_type) for day in view.by_day] == [
        {},
        {"usage.deduct": 10},
        {"usage.settle": 30, "usage.deduct": 5},
    ]
    assert view.by_type == {"usage.settle": 30, "usage.deduct": 15}
    by_feature = Reader(engine).usage("ada", NOW, asked_catalog(), 3)
    assert view.total_used == by_feature.total_used == 45
    assert [day.used for day in view.by_day] == [day.used for day in by_feature.by_day]


@on_sqlite
def test_an_unknown_user_is_not_an_empty_chart(engine: Engine) -> None:
    with pytest.raises(NotFoundError):
        ask(engine, "nobody")


@on_sqlite
def test_a_question_that_makes_no_sense_is_refused(engine: Engine) -> None:
    with pytest.raises(QueryError, match="days must be"):
        ask(engine, days=367)
    with pytest.raises(QueryError, match="time zone"):
        ask(engine, timezone="Mars/Olympus")
