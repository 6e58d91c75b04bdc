"""Usage in every view: the command line's, the console's and the app's show the same tokens."""

from datetime import date, timedelta

from sqlalchemy import Engine

from schemas import QueryUsage, UsageAnswer
from tests.support.commands import reserve, settle
from tests.support.query_samples import DAY, NOW, Apply, asked_catalog, given, opened, used
from worker.ledger.queries import Reader, UsageReport
from worker.queries import QueryService
from worker.queries.sources import Database, Sources


def report(engine: Engine) -> UsageReport:
    return Reader(engine).usage("ada", NOW, asked_catalog(), 3, "Europe/Berlin")


def answer(engine: Engine, group_by: str | None = None) -> UsageAnswer:
    sources = Sources(Database(engine, engine), clock=lambda: NOW)
    service = QueryService(sources, asked_catalog(), clock=lambda: NOW)
    query = QueryUsage(user_id="ada", days=3, timezone="Europe/Berlin", group_by=group_by)
    (found,) = service.answer([query])
    assert isinstance(found, UsageAnswer)
    return found


def use(apply: Apply) -> None:
    """Use tokens in three ways, and once before the three days."""
    apply(opened("ada", "none"), given("ada", 1_000), now=NOW - 5 * DAY)
    apply(used("early", 7), now=NOW - 4 * DAY)
    apply(used("a", 10, feature="ocr"), now=NOW - DAY)
    apply(reserve(50, "hold", user_id="ada"), now=NOW - timedelta(hours=2))
    apply(settle(30, user_id="ada"), used("b", 5), now=NOW - timedelta(hours=1))


def test_each_type_has_its_tokens_on_its_day(engine: Engine, apply: Apply) -> None:
    use(apply)
    view = report(engine)
    assert [day.day for day in view.by_day] == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
    assert [dict(day.by_type) for day in view.by_day] == [
        {},
        {"usage.deduct": 10},
        {"usage.settle": 30, "usage.deduct": 5},
    ]
    assert view.by_type == {"usage.settle": 30, "usage.deduct": 15}
    assert [sum(day.by_type.values()) for day in view.by_day] == [day.used for day in view.by_day]


def test_report_and_answer_have_the_same_numbers(engine: Engine, apply: Apply) -> None:
    use(apply)
    view, asked = report(engine), answer(engine, "feature")
    assert (asked.total, asked.average_daily) == (view.total_used, view.average_per_day) == (45, 15)
    assert {day.date: day.tokens for day in asked.daily_usage} == {day.day: day.used for day in view.by_day}
    assert {one.type: one.tokens for one in asked.usage_by_type} == view.by_type
    assert {one.key or "unlabelled": one.tokens for one in asked.groups or ()} == view.by_feature
