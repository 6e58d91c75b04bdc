"""Races between workers: the last tokens are spent once, a reference names one operation."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import func, select

from schemas import (
    ChangeSubscription,
    Command,
    DeductUsage,
    ExtendUsage,
    OpenAccount,
    PaymentRefunded,
    PaymentSucceeded,
    RefundCredit,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
)
from tests.support.apply_commands import applied
from tests.support.expected_state import balances, every_reply
from tests.support.fakes import delivery
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from worker.bootstrap import Application
from worker.catalog import Catalog
from worker.core import Answer, Conflict
from worker.ledger.audit import audit
from worker.ledger.store import Ledger
from worker.ledger.tables import operations
from worker.pipeline import Item, Pipeline
from worker.settings import Settings

TRIES = 150
FREE = 10_000  # tokens that tier free begins with

Race = Callable[[Sequence[Sequence[Command]]], list[list[Answer]]]


@pytest.fixture
def race(worker_settings: Settings) -> Iterator[Race]:
    """Apply batches at the same moment, each on a ledger of its own; return their answers in order."""
    applications = [Application(worker_settings) for _ in range(4)]
    pipelines = [application.pipeline(Ledger(application.engine)) for application in applications]
    with ThreadPoolExecutor(len(pipelines)) as threads:

        def run(batches: Sequence[Sequence[Command]]) -> list[list[Answer]]:
            start = Barrier(len(batches))

            def apply(pipeline: Pipeline, batch: Sequence[Command]) -> list[Answer]:
                items = [Item(delivery(b""), command) for command in batch]
                start.wait(10)
                pipeline.apply(items)
                assert all(item.failure is None for item in items), [item.failure for item in items]
                return [answer for item in items for answer in item.answers or ()]

            running = [threads.submit(apply, *pair) for pair in zip(pipelines, batches, strict=False)]
            return [future.result(60) for future in running]

        yield run
    for application in applications:
        application.engine.dispose()


def test_two_deductions_race_for_the_last_tokens_and_one_wins(
    race: Race, application: Application, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(TRIES)]
    open_free(application, catalog, users)
    for number, user in enumerate(users):
        wanted = FREE if number % 2 else FREE // 2 + 1
        (first,), (second,) = race([[deduct(f"a-{user}", user, wanted)], [deduct(f"b-{user}", user, wanted)]])
        assert sorted([code_of(first), code_of(second)]) == ["insufficient_balance", "tokens_deducted"]
    assert set(balances(application.engine).values()) == {0, FREE - FREE // 2 - 1}
    assert audit(application.engine).findings == ()


def test_two_workers_race_for_the_last_tokens_and_one_wins(
    application: Application, catalog: Catalog, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    users = [f"u{number}" for number in range(TRIES // 3)]
    open_free(application, catalog, users)
    for _ in range(2):  # one message at a time, so that the two of a pair go to different workers
        workers.start("--batch-size", "1", "--prefetch", "1")
    pairs = {user: rabbit.publish_all([wire(f"{n}-{user}", user, FREE) for n in (1, 2)]) for user in users}
    replies = every_reply(rabbit, [correlation for pair in pairs.values() for correlation in pair])
    for pair in pairs.values():
        codes = sorted(replies[correlation][0]["code"] for correlation in pair)
        assert codes == ["insufficient_balance", "tokens_deducted"]
    assert set(balances(application.engine).values()) == {0}
    assert audit(application.engine).findings == ()


Contest = tuple[Command, Command, set[tuple[str, ...]]]


def contests(user: str) -> dict[str, Contest]:
    """Return pairs of competing commands by name, with the sets of codes that may result."""
    who = {"user_id": user}
    hold = {"original_reference_id": f"hold-{user}", **who}
    used = {"original_reference_id": f"used-{user}", **who}
    rest = FREE - 1_500 - 500
    return {
        "two ends of a hold": (
            SettleUsage(reference_id=f"settle-{user}", tokens=1_200, **hold),
            ReleaseUsage(reference_id=f"release-{user}", **hold),
            {("hold_closed", "hold_settled"), ("hold_closed", "hold_released")},
        ),
        "an extension and an end of a hold": (
            ExtendUsage(reference_id=f"extend-{user}", ttl_seconds=7_200, **hold),
            ReleaseUsage(reference_id=f"release-{user}", **hold),
            {("hold_closed", "hold_released"), ("hold_extended", "hold_released")},
        ),
        "the last tokens, held or spent": (
            ReserveUsage(reference_id=f"reserve-{user}", tokens=rest, ttl_seconds=60, **who),
            deduct(f"deduct-{user}", user, rest),
            {("insufficient_balance", "tokens_reserved"), ("insufficient_balance", "tokens_deducted")},
        ),
        "two refunds of one usage": (
            RefundCredit(reference_id=f"back-1-{user}", tokens=300, **used),
            RefundCredit(reference_id=f"back-2-{user}", tokens=300, **used),
            {("refund_exceeds_original", "tokens_refunded")},
        ),
        "two upgrades in one period": (
            ChangeSubscription(reference_id=f"up-1-{user}", tier="pro", **who),
            ChangeSubscription(reference_id=f"up-2-{user}", tier="pro", **who),
            {("subscription_changed", "subscription_changed")},
        ),
        "a payment and its refund": (
            PaymentSucceeded(
                reference_id=f"paid-{user}", package_id="starter", amount_minor=499, currency="USD", **who
            ),
            PaymentRefunded(
                reference_id=f"refunded-{user}",
                original_reference_id=f"paid-{user}",
                amount_minor=499,
                currency="USD",
                **who,
            ),
            {("payment_awaited", "tokens_purchased"), ("payment_refunded", "tokens_purchased")},
        ),
    }


#: Balances that each contest may leave, whichever command wins.
LEFT = {
    "two ends of a hold": {FREE - 500, FREE - 500 - 1_200},
    "an extension and an end of a hold": {FREE - 500},
    "the last tokens, held or spent": {FREE - 500, 1_500},
    "two refunds of one usage": {FREE - 500 + 300},
    "two upgrades in one period": {500_000 - 500},  # the second grants nothing
    "a payment and its refund": {FREE - 500},
}


@pytest.mark.parametrize("contest", LEFT)
def test_one_of_two_competing_commands_is_applied(
    contest: str, race: Race, application: Application, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(25)]
    open_free(application, catalog, users)
    before = [(deduct(f"used-{user}", user, 500), reserve(f"hold-{user}", user, 1_500)) for user in users]
    applied(application.engine, catalog, *(command for pair in before for command in pair))
    for user in users:
        one, other, outcomes = contests(user)[contest]
        (first,), (second,) = race([[one], [other]])
        assert tuple(sorted([code_of(first), code_of(second)])) in outcomes
    assert set(balances(application.engine).values()) <= LEFT[contest]
    assert audit(application.engine).findings == ()


def test_one_of_two_workers_captures_a_hold_that_ran_out(
    race: Race, application: Application, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(25)]
    before = [
        command for user in users for command in (_opening(user, user), reserve(f"hold-{user}", user, 1_500))
    ]
    applied(application.engine, catalog, *before, now=datetime.now(UTC) - timedelta(hours=2))
    for user in users:
        hold = {"user_id": user, "original_reference_id": f"hold-{user}", "tokens": 1_200}
        pair = [[SettleUsage(reference_id=f"{n}-{user}", **hold)] for n in (1, 2)]
        codes = sorted(code_of(answer) for (answer,) in race(pair))
        assert codes == ["hold_closed", "hold_settled_late"]
    assert set(balances(application.engine).values()) == {FREE - 1_200}
    assert audit(application.engine).findings == ()


def test_first_usage_on_four_connections_at_once_opens_one_account(
    race: Race, application: Application
) -> None:
    users = [f"u{number}" for number in range(30)]
    rng = random.Random(7)
    for turn in range(5):
        batches: list[list[Command]] = []
        for worker in range(4):
            own = rng.sample(users, len(users))
            batches.append([first_usage(f"{turn}-{worker}-{user}", f"{turn}-{user}") for user in own])
        answers = [answer for found in race(batches) for answer in found]
        assert {code_of(answer) for answer in answers} == {"tokens_deducted"}
    assert set(balances(application.engine).values()) == {FREE - 4}
    assert audit(application.engine).findings == ()


def test_one_reference_on_two_connections_at_once_has_one_effect(
    race: Race, application: Application, catalog: Catalog
) -> None:
    open_free(application, catalog, ["u"])
    for number in range(100):
        command = deduct(f"r{number}", "u", 7)
        (first,), (second,) = race([[command], [command]])
        assert sorted([is_duplicate(first), is_duplicate(second)]) == [False, True]
    assert balances(application.engine) == {"u": FREE - 700}
    assert audit(application.engine).findings == ()


def test_one_reference_on_two_connections_is_decided_once_without_an_account(
    race: Race, application: Application
) -> None:
    for number in range(50):
        command = deduct(f"r{number}", "nobody", 7)
        answers = [answer for (answer,) in race([[command]] * 4)]
        assert {code_of(answer) for answer in answers} == {"account_not_found"}
        assert sorted(map(is_duplicate, answers)) == [False, True, True, True]
    assert count_operations(application) == 50


def test_one_of_two_operations_under_one_reference_is_a_conflict(
    race: Race, application: Application, catalog: Catalog
) -> None:
    open_free(application, catalog, ["u", "v"])
    others = {
        "v": deduct("other", "v", 7),  # another account, with other locks
        "nobody": deduct("other", "nobody", 7),  # no lock at all
        "u": deduct("other", "u", 8),
    }
    for number in range(30):
        for user, other in others.items():
            name = {"reference_id": f"{user}-{number}"}
            one = deduct(name["reference_id"], "u", 7)
            (first,), (second,) = race([[one], [other.model_copy(update=name)]])
            (conflict,) = [answer for answer in (first, second) if isinstance(answer, Conflict)]
            assert conflict.field == ("tokens" if user == "u" else "userId")
    assert count_operations(application) == 2 + 30 * len(others)
    assert audit(application.engine).findings == ()


def test_account_that_two_workers_open_at_once_is_opened_once(race: Race, application: Application) -> None:
    for number in range(60):
        user = f"u{number}"
        pair = [[OpenAccount(reference_id=f"{n}-{user}", user_id=user, tier="free")] for n in (1, 2)]
        codes = sorted(code_of(answer) for (answer,) in race(pair))
        assert codes == ["account_exists", "account_opened"]
    assert set(balances(application.engine).values()) == {FREE}
    assert audit(application.engine).findings == ()


def test_batches_over_the_same_users_in_any_order_cause_no_deadlock(
    race: Race, application: Application, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(40)]
    open_free(application, catalog, users[::2])  # the other accounts are opened during the race
    rng = random.Random(7)
    for turn in range(15):
        batches = []
        for worker in range(4):
            shuffled = rng.sample(users, len(users))
            batch: list[Command] = [deduct(f"{turn}-{worker}-{user}", user, 1) for user in shuffled]
            opening = users[(2 * turn + 1) % len(users)]
            batch.insert(rng.randrange(len(batch)), _opening(f"{turn}-{worker}", opening))
            batches.append(batch)
        race(batches)
    assert count_operations(application) == 20 + 15 * 4 * 41
    assert audit(application.engine).findings == ()


def _opening(reference_id: str, user: str) -> OpenAccount:
    return OpenAccount(reference_id=f"open-{reference_id}", user_id=user, tier="free")


def open_free(application: Application, catalog: Catalog, users: Sequence[str]) -> None:
    applied(application.engine, catalog, *(_opening(user, user) for user in users))


def deduct(reference_id: str, user_id: str, tokens: int) -> DeductUsage:
    return DeductUsage(reference_id=reference_id, user_id=user_id, tokens=tokens)


def first_usage(reference_id: str, user_id: str) -> DeductUsage:
    return DeductUsage(reference_id=reference_id, user_id=user_id, tokens=1, open_tier="free")


def reserve(reference_id: str, user_id: str, tokens: int) -> ReserveUsage:
    return ReserveUsage(reference_id=reference_id, user_id=user_id, tokens=tokens, ttl_seconds=3_600)


def wire(reference_id: str, user_id: str, tokens: int) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference_id, "userId": user_id, "tokens": tokens}


def code_of(answer: Answer) -> str:
    assert not isinstance(answer, Conflict)
    return answer.outcome.code


def is_duplicate(answer: Answer) -> bool:
    assert not isinstance(answer, Conflict)
    return answer.duplicate


def count_operations(application: Application) -> int:
    with application.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(operations)).scalar_one()
