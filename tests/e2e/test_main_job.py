"""The main job on RabbitMQ and PostgreSQL: pika at one end, real workers at the other."""

import json
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select

from schemas import (
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from tests.support.model import Model, foretold
from tests.support.processes import WorkerProcesses
from tests.support.witness import Witness
from tests.support.worlds import SMALL_CATALOG
from worker.bootstrap import Application
from worker.core import decide, reply_for
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def test_one_deduction_by_hand(witness: Witness, workers: WorkerProcesses, application: Application) -> None:
    workers.start()
    opened = witness.request({"type": "account.open", "referenceId": "o", "userId": "u", "tier": "basic"})
    assert opened["code"] == "account_opened"
    correlation_id = witness.publish(
        {"type": "usage.deduct", "referenceId": "job-1", "userId": "u", "tokens": 1500, "feature": "ocr"}
    )
    (reply,) = witness.replies({correlation_id})[correlation_id]
    assert (reply["status"], reply["balanceBefore"], reply["balanceAfter"]) == ("applied", 100_000, 98_500)
    reader = Reader(application.engine)
    assert reader.balance("u", datetime.now(UTC), application.catalog).balance == 98_500
    assert reader.history("u").transactions[0].reference_id == "job-1"


def test_an_insufficient_balance_is_answered_with_what_is_missing(
    witness: Witness, workers: WorkerProcesses
) -> None:
    workers.start()
    witness.request({"type": "account.open", "referenceId": "o", "userId": "u", "tier": "free"})
    request = {"type": "usage.deduct", "referenceId": "d", "userId": "u", "tokens": 11_500}
    reply = witness.request(request)
    assert reply["message"] == "Insufficient token balance. Required: 11.5K, Available: 10.0K"
    assert (reply["required"], reply["available"], reply["shortfall"]) == (11_500, 10_000, 1_500)
    top_up = {
        "type": "payment.succeeded",
        "referenceId": "pay-1",
        "userId": "u",
        "packageId": "starter",
        "amountMinor": 499,
        "currency": "USD",
    }
    assert witness.request(top_up)["balanceAfter"] == 60_000
    assert witness.request(request) == {**reply, "duplicate": True}
    assert witness.request({**request, "attempt": 2})["balanceAfter"] == 48_500


# -- ten thousand mixed commands --------------------------------------------------------------------------


def mixed_commands(rng: random.Random, count: int, users: int) -> list[Command]:
    """Commands of all types on few users, 5 % sent again, 3 % with a reference that names another one."""
    commands: list[Command] = [
        OpenAccount(reference_id=f"o{n}", user_id=f"u{n}", tier=rng.choice(["free", "pro"]))
        for n in range(users)
    ]
    while len(commands) < count:
        chance = rng.random()
        if chance < 0.05:
            commands.append(rng.choice(commands))
        elif chance < 0.08:
            victim = rng.choice(commands)
            commands.append(one_command(rng, victim.reference_id, victim.user_id))
        elif chance < 0.10:
            victim = rng.choice(commands)
            commands.append(victim.model_copy(update={"attempt": victim.attempt + 1}))
        else:
            commands.append(one_command(rng, f"r{len(commands)}", f"u{rng.randrange(users + 1)}"))
    return commands


def one_command(rng: random.Random, reference_id: str, user_id: str) -> Command:
    who: dict[str, Any] = {"reference_id": reference_id, "user_id": user_id}
    tokens = rng.randint(1, 40)
    match rng.randrange(10):
        case 0:
            return BonusCredit(**who, tokens=tokens)
        case 1:
            return RefundCredit(**who, tokens=tokens)
        case 2:
            return FreeUpload(**who, bytes=tokens)
        case 3:
            return PaymentSucceeded(**who, package_id="plain", amount_minor=499, currency="USD")
        case 4:
            return PaymentSucceeded(**who, package_index=1, amount_minor=499, currency="USD")
        case _:
            return DeductUsage(**who, tokens=tokens * 3)


def batches_of_any_size(rng: random.Random, commands: Sequence[Command]) -> list[list[Command]]:
    batches, rest = [], list(commands)
    while rest:
        size = rng.choice([1, 2, 3, 10, 50, 200])
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


def test_ten_thousand_commands_in_any_batches_by_any_number_of_workers_equal_the_model(
    postgres_engine: Engine,
) -> None:
    """Four workers race for the batches; what each wrote is noted while its locks were held.

    That note is an order in which the batches happened one by one, and in that order the model must come to
    the same replies and the same balances.
    """
    rng = random.Random(20261122)
    commands = mixed_commands(rng, 10_000, 50)
    opening, rest = commands[:50], commands[50:]
    rng.shuffle(rest)
    ledger = Ledger(postgres_engine)
    happened: list[tuple[list[Command], list[dict[str, Any]]]] = []
    note = threading.Lock()

    def work(batch: list[Command]) -> None:
        while True:
            try:
                with ledger.begin() as books:
                    known = books.load(batch, NOW)
                    plan = decide(batch, known, NOW, SMALL_CATALOG)
                    books.write(plan, known, NOW)
                    answered = zip(batch, plan.answers, strict=True)
                    replies = [json.loads(reply_for(c, a).to_json()) for c, a in answered]
                    with note:
                        happened.append((batch, replies))
            except ContentionError:
                continue
            return

    work(opening)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, batches_of_any_size(rng, rest)))
    model = Model(SMALL_CATALOG)
    assert sum(len(batch) for batch, _ in happened) == len(commands)
    for batch, replies in happened:
        assert [foretold(reply) for reply in replies] == [model.apply(command, NOW) for command in batch]
    with postgres_engine.connect() as connection:
        stored = connection.execute(select(accounts.c.user_id, accounts.c.balance))
        assert {row.user_id: row.balance for row in stored} == model.balances()
    report = audit(postgres_engine)
    assert report.is_clean, report.findings
    assert {reply["code"] for _, replies in happened for reply in replies} >= {
        "tokens_deducted",
        "insufficient_balance",
        "account_not_found",
        "reference_conflict",
        "amount_mismatch",
        "free_upload_limit_exceeded",
    }


def test_a_shuffled_day_through_the_broker_and_three_workers_ends_where_the_model_does(
    witness: Witness, workers: WorkerProcesses, application: Application
) -> None:
    """Nothing runs dry and nothing conflicts, so that every order comes to the same ledger."""
    rng = random.Random(7)
    users = [f"u{n}" for n in range(20)]
    for _ in range(3):
        workers.start()
    opening: list[Command] = [OpenAccount(reference_id=f"o-{u}", user_id=u, tier="pro") for u in users]
    day: list[Command] = [commutative(rng, n, rng.choice(users)) for n in range(900)]
    day += rng.sample(day, 100)
    rng.shuffle(day)
    model = Model(application.catalog)
    now = datetime.now(UTC)
    for stage in (opening, day):
        for command in stage:
            model.apply(command, now)
        ids = [witness.publish(json.loads(command.to_json())) for command in stage]
        replies = witness.replies(ids)
        assert {reply["status"] for some in replies.values() for reply in some} == {"applied"}
    reader = Reader(application.engine)
    assert {
        user: reader.balance(user, now, application.catalog).balance for user in users
    } == model.balances()
    assert audit(application.engine).is_clean
    assert witness.depth("billing.dead") == 0


def commutative(rng: random.Random, number: int, user_id: str) -> Command:
    who: dict[str, Any] = {"reference_id": f"r{number}", "user_id": user_id}
    tokens = rng.randint(1, 99)
    kinds: list[Callable[[], Command]] = [
        lambda: DeductUsage(**who, tokens=tokens, feature=rng.choice([None, "ocr", "chat"])),
        lambda: BonusCredit(**who, tokens=tokens),
        lambda: RefundCredit(**who, tokens=tokens, occurred_at=datetime.now(UTC) - timedelta(days=1)),
        lambda: FreeUpload(**who, bytes=tokens),
        lambda: PaymentSucceeded(**who, package_index=1, amount_minor=1999, currency="USD"),
    ]
    return rng.choices(kinds, weights=[6, 1, 1, 1, 1])[0]()
