"""The main job on RabbitMQ and PostgreSQL: pika at one end, real workers at the other."""

import json
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal

import pytest
from sqlalchemy import Engine, select

from schemas import (
    AdjustCredit,
    BonusCredit,
    CancelSubscription,
    ChangeSubscription,
    Code,
    Command,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    FreezeAccount,
    OpenAccount,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    RefundFailed,
    ReleaseUsage,
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
    UnfreezeAccount,
)
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left
from tests.support.mixed_messages import mixed
from tests.support.model import Model, predicted
from tests.support.notice_listener import NoticeListener
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.strategies import SMALL_CATALOG
from worker.bootstrap import Application
from worker.core import decide, reply_for
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, lots

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def test_single_deduction_gets_its_reply(
    rabbit: RabbitClient, workers: WorkerProcesses, application: Application
) -> None:
    workers.start()
    opened = rabbit.request({"type": "account.open", "referenceId": "o", "userId": "u", "tier": "basic"})
    assert opened["code"] == "account_opened"
    correlation_id = rabbit.publish(
        {"type": "usage.deduct", "referenceId": "job-1", "userId": "u", "tokens": 1500, "feature": "ocr"}
    )
    (reply,) = rabbit.replies({correlation_id})[correlation_id]
    assert (reply["status"], reply["balanceBefore"], reply["balanceAfter"]) == ("applied", 100_000, 98_500)
    reader = Reader(application.engine)
    assert reader.balance("u", datetime.now(UTC), application.catalog).balance == 98_500
    assert reader.history("u").transactions[0].reference_id == "job-1"


def test_insufficient_balance_reply_names_the_missing_tokens(
    rabbit: RabbitClient, workers: WorkerProcesses
) -> None:
    workers.start()
    rabbit.request({"type": "account.open", "referenceId": "o", "userId": "u", "tier": "free"})
    request = {"type": "usage.deduct", "referenceId": "d", "userId": "u", "tokens": 11_500}
    reply = rabbit.request(request)
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
    assert rabbit.request(top_up)["balanceAfter"] == 60_000
    assert rabbit.request(request) == {**reply, "duplicate": True}
    assert rabbit.request({**request, "attempt": 2})["balanceAfter"] == 48_500


# -- thousands of mixed commands --------------------------------------------------------------------------

DAY = 24 * 3600
RESULTS: tuple[Literal["won", "lost", "prevented", "withdrawn"], ...] = (
    "won",
    "lost",
    "prevented",
    "withdrawn",
)


class RandomCommands:
    """Source of random commands of all types on few users; most of their originals exist."""

    def __init__(self, rng: random.Random, users: int) -> None:
        self._rng, self._users = rng, users
        self._made: dict[tuple[str, str], list[str]] = {}

    def mixed(self, count: int) -> list[Command]:
        """Return ``count`` commands: 5 % copies, 3 % with another's reference, 2 % with a higher attempt."""
        rng = self._rng
        commands: list[Command] = [
            OpenAccount(reference_id=f"o{n}", user_id=f"u{n}", tier=rng.choice(["free", "pro", "keeper"]))
            for n in range(self._users)
        ]
        while len(commands) < count:
            chance = rng.random()
            if chance < 0.05:
                commands.append(rng.choice(commands))
            elif chance < 0.08:
                other = rng.choice(commands)
                commands.append(self._one(other.reference_id, other.user_id))
            elif chance < 0.10:
                other = rng.choice(commands)
                commands.append(other.model_copy(update={"attempt": other.attempt + 1}))
            else:
                commands.append(self._one(f"r{len(commands)}", f"u{rng.randrange(self._users + 1)}"))
        return commands

    def _one(self, reference_id: str, user_id: str) -> Command:
        who: dict[str, Any] = {"reference_id": reference_id, "user_id": user_id}
        kinds = self._rng.choices((self._usage, self._payment, self._credit, self._rest), (57, 20, 15, 8))
        return kinds[0](who, self._rng.randint(1, 40))

    def _usage(self, who: dict[str, Any], tokens: int) -> Command:
        rng = self._rng
        match rng.randrange(13):
            case 0 | 1:
                meter = rng.choice(["page", "upload", "search", "fax"])
                return self._kept("usage", RecordUsage(**who, meter=meter, quantity=tokens))
            case 2:
                return FreeUpload(**who, bytes=tokens)
            case 3 | 4:
                seconds = rng.choice([60, 20 * DAY, 31 * DAY])
                return self._kept("hold", ReserveUsage(**who, tokens=tokens, ttl_seconds=seconds))
            case 5 | 6:
                excess = rng.choice(EXCESS)
                settled = SettleUsage(**who, **self._about("hold", who), tokens=tokens, on_excess=excess)
                return self._kept("usage", settled)
            case 7:
                return ReleaseUsage(**who, **self._about("hold", who))
            case 8:
                seconds = rng.choice([60, 31 * DAY])
                return ExtendUsage(**who, **self._about("hold", who), ttl_seconds=seconds)
            case _:
                feature = rng.choice([None, "chat"])
                until = NOW + timedelta(days=tokens) if tokens % 5 == 0 else None  # some of it is past then
                deduct = DeductUsage(**who, tokens=tokens * 2, feature=feature, valid_until=until)
                return self._kept("usage", deduct)

    def _payment(self, who: dict[str, Any], _tokens: int) -> Command:
        rng = self._rng
        back = {**who, **self._about("payment", who)}
        money = {"amount_minor": rng.choice([100, 250, 999]), "currency": "EUR"}
        match rng.randrange(16):
            case 15:
                return PaymentNamed(**back, also_known_as=(f"{back['original_reference_id']}-charge",))
            case 0 | 1:
                return self._kept("refund", PaymentRefunded(**back, **money))
            case 12:
                refunds = self._made.get(("refund", who["user_id"]), ["never"])
                refund = rng.choice([*refunds[-6:], "none"])
                if refund == who["reference_id"]:
                    return PaymentFailed(**back)
                return RefundFailed(**back, refund_reference_id=refund)
            case 13:
                at, total = NOW + timedelta(hours=rng.randint(1, 20)), money["amount_minor"]
                return PaymentRefunded(**back, refunded_total_minor=total, currency="EUR", occurred_at=at)
            case 14:
                return PaymentDisputed(**back, dispute_id="d", stage="inquiry", **money)
            case 2:
                return PaymentDisputed(**back, dispute_id="d", **money)
            case 3:
                return DisputeClosed(**back, dispute_id="d", result=rng.choice(RESULTS), **money)
            case 4:
                return PaymentFailed(**back)
            case 5:
                index = rng.choice([1, 9])
                return PaymentSucceeded(**who, package_index=index, amount_minor=499, currency="USD")
            case 6 | 7:
                bought = PaymentSucceeded(**who, package_id="plain", amount_minor=499, currency="USD")
                return self._kept("payment", bought)
            case _:
                bought = PaymentSucceeded(**who, package_index=1, amount_minor=999, currency="EUR")
                return self._kept("payment", bought)

    def _credit(self, who: dict[str, Any], tokens: int) -> Command:
        days = timedelta(days=self._rng.randint(1, 60))
        by_hand: dict[str, Any] = {"reason": "a slip", "actor": "ann"}
        match self._rng.randrange(8):
            case 0 | 1 | 2:
                return RefundCredit(**who, **self._about("usage", who), tokens=tokens)
            case 3:
                return RefundCredit(**who, tokens=tokens)
            case 4:
                return BonusCredit(**who, tokens=tokens, expires_at=NOW + days)
            case 5:
                return BonusCredit(**who, tokens=tokens, effective_at=NOW + days)
            case 6:
                return AdjustCredit(**who, tokens=tokens, **by_hand)
            case _:
                return AdjustCredit(**who, tokens=-tokens * 2, allow_negative=True, **by_hand)

    def _rest(self, who: dict[str, Any], tokens: int) -> Command:
        tier = self._rng.choice(["free", "pro", "saver", "keeper", "gold"])
        match tokens % 8:
            case 0 | 1:
                when = self._rng.choice([None, "period_end"])
                said = self._rng.choice([None, NOW])
                return ChangeSubscription(**who, tier=tier, effective_at=when, occurred_at=said)
            case 2:
                start = NOW + timedelta(days=self._rng.choice([-1, 0, 30]))
                return RenewSubscription(**who, period_start=start)
            case 3:
                said = self._rng.choice([None, None, NOW - timedelta(hours=1)])
                return CancelSubscription(**who, at=self._rng.choice(ENDS), occurred_at=said)
            case 4:
                return SettleAccount(**who)
            case 5:
                return FreezeAccount(**who, reason="a fraud warning")
            case 6:
                return UnfreezeAccount(**who, reason="was checked")
            case _:
                # Open no further account: a command that finds no account locks none, so it has no place in
                # the order in which batches are noted.
                return OpenAccount(**{**who, "user_id": "u0"}, tier=tier)

    def _kept(self, role: str, command: Command) -> Command:
        self._made.setdefault((role, command.user_id), []).append(command.reference_id)
        return command

    def _about(self, role: str, who: dict[str, Any]) -> dict[str, str]:
        """Return an operation of this user to name; in shuffled commands it may come later."""
        names = [name for name in self._made.get((role, who["user_id"]), ()) if name != who["reference_id"]]
        return {"original_reference_id": self._rng.choice([*names[-6:], "never"])}


EXCESS: tuple[Literal["refuse", "take"], ...] = ("refuse", "take")
ENDS: tuple[Literal["period_end", "now"], ...] = ("period_end", "now")


def renewals(users: range) -> list[Command]:
    """Return a renewal for each user: any other command would renew the subscription before one came."""
    start = NOW + timedelta(days=30)
    return [RenewSubscription(reference_id=f"renew-{n}", user_id=f"u{n}", period_start=start) for n in users]


def batches_of_any_size(rng: random.Random, commands: Sequence[Command]) -> list[list[Command]]:
    batches, rest = [], list(commands)
    while rest:
        size = rng.choice([1, 2, 3, 10, 50, 200])
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


@pytest.mark.parametrize(
    ("count", "users", "seed"), [(7_000, 35, 2), pytest.param(10_000, 50, 2, marks=pytest.mark.slow)]
)
def test_thousands_of_commands_equal_the_model_for_any_batches_and_workers(
    postgres_engine: Engine, count: int, users: int, seed: int
) -> None:
    """Four workers compete for the batches, before, at and after the end of a period.

    Their clocks are minutes apart, and each batch has a time of its own. Each is noted with its replies.

    The note is taken while the locks of the batch are held, so that the notes are a serial order of the
    batches. In that order the model must come to the same replies, the same balances and the same lots.
    """
    rng = random.Random(seed)
    commands = RandomCommands(rng, users).mixed(count)
    opening, rest = commands[:users], commands[users:]
    rng.shuffle(rest)
    ledger = Ledger(postgres_engine)
    happened: list[tuple[datetime, list[Command], list[dict[str, Any]]]] = []
    note = threading.Lock()

    def work(now: datetime, batch: list[Command]) -> None:
        while True:
            try:
                with ledger.begin(batch, now) as transaction:
                    known = transaction.known
                    plan = decide(batch, known, now, SMALL_CATALOG)
                    transaction.write(plan)
                    answered = zip(batch, plan.answers, strict=True)
                    replies = [json.loads(reply_for(c, a).to_json()) for c, a in answered]
                    with note:
                        happened.append((now, batch, replies))
            except ContentionError:
                continue
            return

    work(NOW, opening)
    with ThreadPoolExecutor(4) as pool:
        for part, days in enumerate((0.0, 29.5, 45.0)):
            batches = batches_of_any_size(rng, rest[part::3])
            if part:  # half of the users renew ahead, half of them afterwards
                batches.insert(0, renewals(range(part - 1, users, 2)))
            moments = (NOW + timedelta(days=days, seconds=number) for number in range(len(batches)))
            list(pool.map(work, moments, batches))
    assert sum(len(batch) for _, batch, _ in happened) == len(commands) + users
    model = Model(SMALL_CATALOG)
    for now, batch, replies in happened:
        assert [predicted(reply) for reply in replies] == [model.apply(command, now) for command in batch]
    assert lots_in(postgres_engine) == {user: lots_of(model, user) for user in model.balances()}
    with postgres_engine.connect() as connection:
        stored = connection.execute(select(accounts.c.user_id, accounts.c.balance))
        assert {row.user_id: row.balance for row in stored} == model.balances()
    report = audit(postgres_engine)
    assert report.is_clean, report.findings
    no_outcome = {Code.UNPROCESSABLE, Code.MALFORMED, Code.BATCH_PROCESSED}
    # This catalog takes refunds that name nothing, and rejects what was not the price.
    elsewhere = {Code.ORIGINAL_REQUIRED, Code.PURCHASE_FLAGGED}
    of_imports = {  # which the model doesn't know: see tests/core/test_imports.py
        Code.ACCOUNT_IMPORTED,
        Code.PAYMENT_IMPORTED,
        Code.REFERENCE_TAKEN,
        Code.ALLOCATION_OUTLASTS_PERIOD,
    }
    codes = {reply["code"] for _, _, replies in happened for reply in replies}
    assert codes == set(Code) - no_outcome - elsewhere - of_imports


def lots_in(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Return all lots of every user, spent ones too: number, source, and the tokens by state."""
    columns = [lots.c[name] for name in ("number", "source", "granted", "remaining", "held", "pending")]
    found: dict[str, list[tuple[Any, ...]]] = {}
    with engine.connect() as connection:
        rows = connection.execute(
            select(accounts.c.user_id, *columns)
            .join(lots, lots.c.account_id == accounts.c.account_id)
            .order_by(lots.c.number)
        )
        for user_id, *lot in rows:
            found.setdefault(user_id, []).append(tuple(lot))
    return found


def lots_of(model: Model, user: str) -> list[tuple[Any, ...]]:
    """Return the lots of one user of the model, in the same form."""
    names = ("number", "source", "granted", "remaining", "held", "pending")
    return [tuple(lot[name] for name in names) for lot in model.lots(user)]


def test_shuffled_day_through_three_workers_equals_the_model(
    rabbit: RabbitClient, workers: WorkerProcesses, application: Application
) -> None:
    """No balance runs out and nothing conflicts, so that every order ends in the same ledger."""
    rng = random.Random(7)
    state, listener = ExpectedState(application.engine), NoticeListener(rabbit)
    for _ in range(3):
        workers.start()
    day = list(islice(mixed(), 900))
    again = rng.sample(day, 100)
    sent = rng.sample([*day, *again], 1_000)
    ids = []
    for message in sent:
        ids.append(rabbit.publish(message))
        state.sent(ids[-1], message)
    replies = every_reply(rabbit, ids)
    state.check(replies)
    duplicates = [reply["duplicate"] for copies in replies.values() for reply in copies].count(True)
    assert duplicates == len(again)
    listener.expect(state.noticed)
    nothing_is_left(rabbit)
    assert rabbit.depth("billing.dead") == 0
