"""History and usage under filters, page by page, on both dialects."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import (
    BalanceAnswer,
    Command,
    DeductUsage,
    HistoryAnswer,
    Query,
    QueryBalance,
    QueryHistory,
    QueryProblem,
    QueryUsage,
    RecordUsage,
    UsageAnswer,
)
from schemas.answers import Transaction
from tests.support.query_samples import DAY, NOW, Apply, given, on_sqlite, opened
from worker.ledger.queries import transactions
from worker.queries import QueryService, reports

HOUR = timedelta(hours=1)
START = NOW - 10 * DAY


def only(service: QueryService, query: Query) -> Any:
    (answer,) = service.answer([query])
    return answer


def pages(service: QueryService, limit: int, **filters: Any) -> list[Transaction]:
    """Return the transactions of all pages; each page says whether it is the last."""
    found: list[Transaction] = []
    cursor: str | None = None
    while True:
        query = {"type": "query.history", "userId": "ada", "limit": limit, "cursor": cursor, **filters}
        answer = only(service, QueryHistory.model_validate({k: v for k, v in query.items() if v is not None}))
        assert isinstance(answer, HistoryAnswer), answer
        assert len(answer.transactions) <= limit
        assert answer.has_more == (answer.next_cursor is not None)
        found += answer.transactions
        cursor = answer.next_cursor
        if cursor is None:
            return found


@pytest.fixture
def ada(apply: Apply) -> list[tuple[datetime, str]]:
    """Ada's history: an opening, credit, and forty usages, of which every fourth is refused."""
    apply(opened("ada", "none"), given("ada", 10_000), now=START)
    happened: list[tuple[datetime, str]] = [(START, "give-ada")]
    for number in range(40):
        at = START + (number + 1) * HOUR
        tokens = 10**9 if number % 4 == 3 else 1 + number
        command: Command = DeductUsage(
            reference_id=f"use-{number:02}",
            user_id="ada",
            tokens=tokens,
            feature="chat" if number % 2 else None,
            metadata={"model": f"m{number % 3}"},
        )
        if number % 5 == 4:
            command = RecordUsage(
                reference_id=f"use-{number:02}", user_id="ada", meter="ocr", quantity=10 + number
            )
        apply(command, now=at)
        happened.append((at, command.reference_id))
    return happened


@pytest.mark.parametrize("limit", [1, 3, 7, 1_000])
@pytest.mark.parametrize("scanned", [2, 10_000])
def test_pages_of_any_size_have_every_transaction_once_newest_first(
    service: QueryService,
    ada: list[tuple[datetime, str]],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    scanned: int,
) -> None:
    monkeypatch.setattr(transactions, "SCANNED_MAX", scanned)
    everything = [reference for _, reference in reversed(ada)]
    assert [one.reference_id for one in pages(service, limit, status="all")] == everything
    applied = pages(service, limit)
    refused = pages(service, limit, status="rejected")
    assert {one.status for one in applied} == {"applied"}
    assert {(one.status, one.amount, one.sequence) for one in refused} == {("rejected", 0, None)}
    assert sorted([*applied, *refused], key=lambda one: one.recorded_at, reverse=True) == pages(
        service, limit, status="all"
    )
    chat = pages(service, limit, feature="chat", status="all")
    assert [one.reference_id for one in chat] == [
        reference for number, reference in enumerate(everything[:-1]) if _is_chat(reference)
    ]
    for status in ("applied", "rejected", "all"):
        metered = pages(service, limit, transactionType="usage.record", status=status)
        assert {one.type for one in metered} <= {"usage.record"}
    assert len(pages(service, limit, transactionType="usage.record", status="all")) == 8


def _is_chat(reference: str) -> bool:
    number = int(reference.removeprefix("use-"))
    return number % 2 == 1 and number % 5 != 4


@on_sqlite
def test_range_has_what_was_recorded_from_its_begin_until_before_its_end(
    service: QueryService, ada: list[tuple[datetime, str]]
) -> None:
    first, last = START + 5 * HOUR, START + 12 * HOUR
    wanted = [reference for at, reference in reversed(ada) if first <= at < last]
    times = {"from": first.isoformat(), "to": last.isoformat()}
    assert [one.reference_id for one in pages(service, 2, status="all", **times)] == wanted
    applied = pages(service, 2, **times)
    assert [one.reference_id for one in applied] == [
        one.reference_id for one in pages(service, 1_000, status="all", **times) if one.status == "applied"
    ]
    assert all(newer.recorded_at >= older.recorded_at for newer, older in pairwise(applied))


@on_sqlite
def test_page_without_filter_has_its_total_and_takes_an_offset(
    service: QueryService, ada: list[tuple[datetime, str]]
) -> None:
    first = only(service, QueryHistory(user_id="ada", limit=5))
    second = only(service, QueryHistory(user_id="ada", limit=5, offset=5))
    by_cursor = only(service, QueryHistory(user_id="ada", limit=5, cursor=first.next_cursor))
    assert second.transactions == by_cursor.transactions
    assert (first.total, first.offset, second.offset, first.has_more) == (first.sequence, 0, 5, True)
    behind = only(service, QueryHistory(user_id="ada", limit=5, offset=10**9))
    assert (behind.transactions, behind.has_more, behind.next_cursor) == ((), False, None)


FORGED = ("x", "%%%", "MS4x", "MS4yLjMuNA", "é", "A" * 200)


@on_sqlite
@pytest.mark.parametrize("cursor", FORGED)
@pytest.mark.parametrize("status", ["applied", "all"])
def test_forged_cursor_is_refused(
    service: QueryService, ada: list[tuple[datetime, str]], cursor: str, status: Any
) -> None:
    answer = only(service, QueryHistory(user_id="ada", cursor=cursor, status=status))
    assert isinstance(answer, QueryProblem)
    assert (answer.code, answer.field) == ("malformed", "cursor")
    assert "take the next one from a page of it" in answer.message


@on_sqlite
def test_cursor_of_another_account_or_of_another_list_is_refused(
    service: QueryService, apply: Apply, ada: list[tuple[datetime, str]]
) -> None:
    apply(opened("eve", "none"), given("eve", 5), given("eve", 6, "more"), now=NOW)
    foreign = only(service, QueryHistory(user_id="eve", limit=1, status="all")).next_cursor
    assert only(service, QueryHistory(user_id="ada", cursor=foreign, status="all")).field == "cursor"
    own = only(service, QueryHistory(user_id="ada", limit=1)).next_cursor
    assert only(service, QueryHistory(user_id="ada", cursor=own, status="all")).field == "cursor"


# -- usage ------------------------------------------------------------------------------------------------


def test_usage_adds_up_by_day_by_type_and_by_group(
    service: QueryService, ada: list[tuple[datetime, str]], engine: Engine
) -> None:
    asked: dict[str, UsageAnswer] = {
        group: only(service, QueryUsage(user_id="ada", days=20, group_by=group))
        for group in ("day", "feature", "type", "metadata.model", "metadata.never")
    }
    whole = asked["day"]
    assert whole.groups is None
    assert (whole.period.days, whole.period.end_date) == (20, NOW.date())
    assert len(whole.daily_usage) == 20
    assert sum(day.tokens for day in whole.daily_usage) == whole.total > 0
    assert sum(one.tokens for one in whole.usage_by_type) == whole.total
    assert round(sum(one.percentage for one in whole.usage_by_type)) == 100
    assert (whole.average_daily, whole.projected_monthly) == (whole.total // 20, whole.total * 30 // 20)
    for group in ("feature", "type", "metadata.model", "metadata.never"):
        groups = asked[group].groups
        assert groups is not None
        assert sum(one.tokens for one in groups) == whole.total
        assert [one.tokens for one in groups] == sorted((one.tokens for one in groups), reverse=True)
    assert {one.key for one in asked["feature"].groups or ()} == {None, "chat", "ocr"}
    assert {one.key for one in asked["metadata.model"].groups or ()} == {None, "m0", "m1", "m2"}
    assert [one.key for one in asked["metadata.never"].groups or ()] == [None]


def test_groups_past_the_most_are_one_number(
    service: QueryService, ada: list[tuple[datetime, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = QueryUsage(user_id="ada", days=20, group_by="metadata.model")
    every = only(service, query).groups
    monkeypatch.setattr(reports, "GROUPS_MAX", 2)
    answer = only(service, query)
    assert answer.groups == every[:2]
    assert answer.other_groups == sum(one.tokens for one in every[2:])


@on_sqlite
def test_days_of_a_range_are_local_days(service: QueryService, apply: Apply) -> None:
    apply(opened("ada", "none"), given("ada", 10_000), now=START)
    late = datetime(2026, 11, 14, 23, 30, tzinfo=UTC)  # the 15th in Berlin
    apply(
        DeductUsage(reference_id="late", user_id="ada", tokens=7, occurred_at=late),
        now=late + timedelta(minutes=1),
    )
    answers = {
        zone: only(
            service,
            QueryUsage.model_validate(
                {
                    "type": "query.usage",
                    "userId": "ada",
                    "from": "2026-11-14",
                    "to": "2026-11-15",
                    "timezone": zone,
                }
            ),
        )
        for zone in ("UTC", "Europe/Berlin")
    }
    days = {zone: [day.tokens for day in answer.daily_usage] for zone, answer in answers.items()}
    assert days == {"UTC": [7, 0], "Europe/Berlin": [0, 7]}
    assert [day.date for day in answers["UTC"].daily_usage] == [date(2026, 11, 14), date(2026, 11, 15)]


@on_sqlite
@pytest.mark.parametrize("zone", ["Atlantis/Centre", "../etc/passwd", "/etc/localtime", "UTC\x00", "berlin"])
def test_unknown_time_zone_is_refused(service: QueryService, apply: Apply, zone: str) -> None:
    apply(opened("ada", "none"), now=START)
    answer = only(service, QueryUsage(user_id="ada", timezone=zone))
    assert isinstance(answer, QueryProblem)
    assert (answer.code, answer.field) == ("malformed", "timezone")


@on_sqlite
@pytest.mark.parametrize("year", [1970, 2199])
def test_first_and_last_year_can_be_asked_about(service: QueryService, apply: Apply, year: int) -> None:
    apply(opened("ada"), now=START)
    for zone in ("Asia/Tokyo", "America/Anchorage"):
        fields = {"type": "query.usage", "userId": "ada", "from": f"{year}-01-01", "to": f"{year}-12-31"}
        answer = only(service, QueryUsage.model_validate({**fields, "timezone": zone}))
        assert isinstance(answer, UsageAnswer)
        assert answer.total == 0
    moment = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    balance = only(service, QueryBalance(user_id="ada", at=moment))
    assert isinstance(balance, BalanceAnswer if year > 2000 else QueryProblem)
