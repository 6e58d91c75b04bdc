"""Answers to queries, from both dialects."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine

from schemas import (
    AffordAnswer,
    BalanceAnswer,
    CatalogAnswer,
    Command,
    DeductUsage,
    OpenAccount,
    OperationAnswer,
    Query,
    QueryAfford,
    QueryBalance,
    QueryCatalog,
    QueryOperation,
    QueryProblem,
    QueryStats,
    RecordUsage,
    ReserveUsage,
    StatsAnswer,
)
from tests.support.apply_commands import applied
from tests.support.in_world import in_world
from tests.support.query_plans import recorded_statements
from tests.support.query_samples import DAY, NOW, Apply, given, on_sqlite, opened, used
from tests.support.strategies import OPENING_CATALOG, SMALL_CATALOG, Day, examples, passing_days
from worker.catalog import Catalog
from worker.core import Decided, reply_for
from worker.ledger.queries import Reader
from worker.queries import QueryService

Asking = Callable[..., QueryService]


def only(service: QueryService, query: Query) -> Any:
    (answer,) = service.answer([query])
    return answer


_worlds = count()


@settings(examples(25), suppress_health_check=list(HealthCheck))
@drawn(
    day=passing_days(max_steps=4),
    later=st.sampled_from([0, 1, 5, 30, 31, 70]).map(lambda days: timedelta(days=days)),
    catalog=st.sampled_from([SMALL_CATALOG, OPENING_CATALOG]),
    name=st.sampled_from(["u0", "u0", "u1", "u3"]),
    tokens=st.integers(0, 400),
    meter=st.sampled_from(["page", "upload", "search", "chat", "nothing"]),
    quantity=st.integers(0, 60),
)
def test_usage_is_affordable_if_and_only_if_it_is_applied(
    engine: Engine,
    asking: Asking,
    day: Day,
    later: timedelta,
    catalog: Catalog,
    name: str,
    tokens: int,
    meter: str,
    quantity: int,
) -> None:
    world = next(_worlds)
    for now, commands in day:
        applied(engine, catalog, *(in_world(world, command) for command in commands), now=now)
    user, moment = f"{world}-{name}", day[-1][0] + later
    usages: list[tuple[QueryAfford, Command]] = [
        (
            QueryAfford(user_id=user, tokens=tokens),
            DeductUsage(reference_id=f"{world}-a", user_id=user, tokens=tokens),
        ),
        (
            QueryAfford(user_id=user, meter=meter, quantity=quantity),
            RecordUsage(reference_id=f"{world}-b", user_id=user, meter=meter, quantity=quantity),
        ),
    ]
    service = asking(moment, catalog)
    for query, command in usages:
        answer = only(service, query)
        (decided,) = applied(engine, catalog, command, now=moment)
        assert isinstance(decided, Decided)
        reply = reply_for(command, decided)
        if isinstance(answer, QueryProblem):
            assert answer.code == reply.code == "account_not_found"
            continue
        assert answer.affordable == decided.outcome.is_applied
        assert (answer.code, answer.shortfall) == (reply.code, reply.shortfall or 0)
        assert answer.required == (reply.required if reply.required is not None else reply.amount)
        assert (answer.free_quantity, answer.charged_quantity) == (
            reply.free_quantity,
            reply.charged_quantity,
        )


@settings(examples(12), suppress_health_check=list(HealthCheck))
@drawn(day=passing_days(max_steps=4), later=st.sampled_from([0, 1, 31, 70]).map(timedelta))
def test_answers_of_many_are_those_of_each(
    engine: Engine, asking: Asking, day: Day, later: timedelta
) -> None:
    world = next(_worlds)
    for now, commands in day:
        applied(engine, SMALL_CATALOG, *(in_world(world, command) for command in commands), now=now)
    service = asking(day[-1][0] + later, SMALL_CATALOG)
    users = [f"{world}-u0", f"{world}-u1", "nobody"]
    queries: list[Query] = [
        *(QueryBalance(user_id=user) for user in users),
        *(QueryAfford(user_id=user, tokens=60) for user in users),
    ]
    assert service.answer(queries) == [only(service, query) for query in queries]


def test_balances_of_two_hundred_users_are_four_statements(
    postgres_engine: Engine, asking: Asking, catalog: Any
) -> None:
    users = [f"user-{number:03}" for number in range(200)]
    commands: list[Command] = [opened(user) for user in users]
    commands += [
        ReserveUsage(reference_id=f"h-{user}", user_id=user, tokens=5, ttl_seconds=60) for user in users
    ]
    applied(postgres_engine, catalog, *commands, now=NOW)
    service = asking(engine=postgres_engine)
    for some in (users[:1], users):
        with recorded_statements(postgres_engine) as statements:
            answers = service.answer([QueryBalance(user_id=user) for user in some])
        assert len(statements) == 4
        assert [answer.user_id for answer in answers if isinstance(answer, BalanceAnswer)] == some


@on_sqlite
def test_unknown_account_and_zero_balance_are_different_answers(service: QueryService, apply: Apply) -> None:
    apply(opened("zoe", "none"), now=NOW)
    zero = only(service, QueryBalance(user_id="zoe"))
    assert (zero.balance, zero.sequence) == (0, 0)
    unknown = only(service, QueryBalance(user_id="nobody"))
    assert (unknown.code, unknown.query, unknown.user_id) == ("account_not_found", "query.balance", "nobody")
    assert unknown.message == "No token account for user 'nobody'."


@on_sqlite
def test_balance_has_account_subscription_quotas_and_next_credit(
    service: QueryService, apply: Apply, engine: Engine, catalog: Any
) -> None:
    apply(opened("eve"), given("eve", 1_500_000), now=NOW - DAY)
    apply(ReserveUsage(reference_id="h", user_id="eve", tokens=10_000, ttl_seconds=9_999), now=NOW)
    answer = only(service, QueryBalance(user_id="eve"))
    assert isinstance(answer, BalanceAnswer)
    assert (answer.balance, answer.held, answer.available) == (1_510_000, 10_000, 1_500_000)
    assert (answer.balance_formatted, answer.available_formatted) == ("1.5M", "1.5M")
    assert answer.lots == {"allocation": 10_000, "bonus": 1_500_000}
    assert (answer.totals.allocated, answer.totals.bonus, answer.totals.used) == (10_000, 1_500_000, 0)
    assert (answer.subscription.tier, answer.subscription.is_active) == ("free", True)
    assert (answer.monthly_allocation, answer.monthly_allocation_formatted) == (10_000, "10.0K")
    assert answer.quotas[0].name == "free_upload"
    assert (answer.next_credit_at, answer.next_credit_tokens) == (answer.subscription.period_end, 10_000)
    view = Reader(engine).balance("eve", NOW, catalog)
    assert (view.balance, view.next_credit_at) == (answer.balance, answer.next_credit_at)


@on_sqlite
def test_past_balance_is_that_of_its_time(service: QueryService, apply: Apply) -> None:
    apply(opened("eve", "none"), given("eve", 100), now=NOW - 2 * DAY)
    apply(given("eve", 50, "more"), now=NOW)
    past = only(service, QueryBalance(user_id="eve", at=NOW - DAY))
    assert (past.balance, past.sequence) == (100, 1)
    before = only(service, QueryBalance(user_id="eve", at=NOW - 9 * DAY))
    assert before.code == "account_not_found"


@on_sqlite
def test_quote_of_metered_usage_has_free_units_and_price(service: QueryService, apply: Apply) -> None:
    apply(opened("eve", "none"), given("eve", 10_000), now=NOW)
    cheap = only(service, QueryAfford(user_id="eve", meter="ocr", quantity=6))
    assert isinstance(cheap, AffordAnswer)
    assert (cheap.affordable, cheap.free_quantity, cheap.charged_quantity) == (True, 5, 1)
    dear = only(service, QueryAfford(user_id="eve", meter="ocr", quantity=10**9))
    assert (dear.affordable, dear.code, dear.free_quantity) == (False, "insufficient_balance", 5)
    assert dear.required == dear.available + dear.shortfall
    unknown = only(service, QueryAfford(user_id="eve", meter="nothing", quantity=1))
    assert (unknown.affordable, unknown.code, unknown.required) == (False, "unknown_meter", None)


@on_sqlite
def test_stored_outcome_is_answered_as_its_reply(service: QueryService, apply: Apply) -> None:
    command = used("use", 30)
    _, _, answer = apply(opened("ada", "none"), given("ada", 100), command, now=NOW)
    found = only(service, QueryOperation(reference_id="use"))
    assert isinstance(found, OperationAnswer)
    assert found.reply == reply_for(command, replace(answer, duplicate=True))
    unknown = only(service, QueryOperation(reference_id="never"))
    assert (unknown.is_known, unknown.reply) == (False, None)


@on_sqlite
def test_sequence_that_is_not_reached_is_a_problem_and_never_an_old_answer(
    service: QueryService, apply: Apply
) -> None:
    apply(opened("eve", "none"), given("eve", 100), now=NOW)
    assert only(service, QueryBalance(user_id="eve", min_sequence=1)).balance == 100
    late = only(service, QueryBalance(user_id="eve", min_sequence=2))
    assert (late.code, late.field) == ("sequence_not_reached", "minSequence")
    nobody = only(service, QueryAfford(user_id="nobody", tokens=1, min_sequence=1))
    assert nobody.code == "sequence_not_reached"


@on_sqlite
def test_statistics_and_catalog_are_answered(service: QueryService, apply: Apply, catalog: Any) -> None:
    apply(opened("ada", "none"), given("ada", 100), used("use", 30), now=NOW)
    stats = only(service, QueryStats())
    assert isinstance(stats, StatsAnswer)
    assert (stats.users, stats.balance, stats.totals.bonus, stats.totals.used) == (1, 70, 100, 30)
    sold = only(service, QueryCatalog())
    assert isinstance(sold, CatalogAnswer)
    assert [package.id for package in sold.packages] == [package.id for package in catalog.packages]
    assert [package.index for package in sold.packages] == list(range(len(catalog.packages)))
    assert {tier.id for tier in sold.tiers} == set(catalog.tiers)


def test_hash_of_the_catalog_changes_with_any_price(asking: Asking, catalog: Any) -> None:
    package = catalog.packages[0]
    dearer = package.model_copy(update={"price_minor": package.price_minor + 1})
    changed = catalog.model_copy(update={"packages": (dearer, *catalog.packages[1:])})
    hashes = {only(asking(catalog=one), QueryCatalog()).hash for one in (catalog, changed, catalog)}
    assert len(hashes) == 2


@on_sqlite
def test_fault_on_one_query_leaves_the_others_their_answers(
    service: QueryService, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(OpenAccount(reference_id="o", user_id="eve", tier="none"), now=NOW)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("worker.queries.service.stats_answer", fail)
    balance, stats, catalog = service.answer([QueryBalance(user_id="eve"), QueryStats(), QueryCatalog()])
    assert isinstance(balance, BalanceAnswer)
    assert isinstance(stats, QueryProblem)
    assert stats.code == "unprocessable"
    assert isinstance(catalog, CatalogAnswer)
