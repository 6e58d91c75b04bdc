"""Mixed day of the demo, prefilled, against plain deductions."""

import random
from collections import Counter
from collections.abc import Iterator

from sqlalchemy import func, select

from schemas import Command, DeductUsage, PaymentSucceeded, ReleaseUsage
from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import SEED, published
from tests.benchmarks.results import (
    Benchmark,
    BenchmarkContext,
    Goal,
    Result,
    alternately,
    costs,
    rates,
    ratio,
)
from tests.benchmarks.sandbox import Measured, Sandbox, new_sandbox, user_id
from worker.bootstrap import utc_now
from worker.broker import Outgoing
from worker.catalog import Catalog, load_catalog
from worker.demo.commands import CommandFactory
from worker.demo.day_traffic import CAPTURED_SHARE, KIND_WEIGHTS, RELEASED_SHARE
from worker.ledger.tables import operations

_GOAL = Goal(0.80)
_DUPLICATES = _REJECTIONS = 0.05
_TOO_MUCH = 10**12
#: A batch is many commands in one message, and has a benchmark of its own.
_SINGLE = {kind: weight for kind, weight in KIND_WEIGHTS.items() if kind != "batch"}


class MixedDay:
    """``count`` messages with the kinds and weights of the demo's day; the seed decides them.

    ``before`` is what must be in the ledger first: payments are served before usage, so that a refund would
    overtake what it refunds. All else that belongs together is in one queue, in order.
    """

    def __init__(self, count: int, users: int, catalog: Catalog, seed: int = SEED) -> None:
        self.before: list[Command] = []
        self.kinds: Counter[str] = Counter()
        self._rng, self._users, self._catalog = random.Random(seed), users, catalog
        self._make = CommandFactory(self._rng, utc_now(), catalog, "")
        self._placed: list[tuple[float, Command]] = []
        self._fill(count)

    def messages(self) -> Iterator[Outgoing]:
        """Messages in the order of publication; one that is delivered again keeps its id."""
        for _, message in self._placed:
            yield published(message.type, message.to_json(), f"{message.reference_id}/{message.attempt}")

    def _fill(self, count: int) -> None:
        rejected, again = int(count * _REJECTIONS), int(count * _DUPLICATES)
        while len(self._placed) < count - rejected - again:
            (kind,) = self._rng.choices(list(_SINGLE), list(_SINGLE.values()))
            self._ordinary(kind)
        del self._placed[count - rejected - again :]
        for _ in range(rejected):
            self._place("rejected", self._refused())
        for place, message in self._rng.choices(self._placed, k=again):
            self._place("delivered again", message, after=place)
        self._placed.sort(key=lambda each: each[0])

    def _ordinary(self, kind: str) -> None:
        make, user = self._make, self._anyone()
        match kind:
            case "deduct":
                self._place(kind, make.deduct(user))
            case "metered":
                self._place(kind, make.record(user))
            case "hold":
                self._hold(user)
            case "free upload":
                self._place(kind, make.free_upload(user))
            case "purchase":
                self._place(kind, make.purchase(user))
            case "bonus":
                self._place(kind, make.bonus(user))
            case "refund":
                original = make.deduct(user)
                self.before.append(original)
                self._place(kind, make.refund(original))
            case "adjustment":
                self._place(kind, make.adjust(user, self._rng.choice((-300, -50, 200, 1_000))))
            case _:
                raise AssertionError(f"the demo's day knows {kind!r}, and this one does not")

    def _hold(self, user: str) -> None:
        hold = self._make.reserve(user)
        place = self._place("hold", hold)
        chance = self._rng.random()
        if chance < CAPTURED_SHARE:
            self._place("capture", self._make.capture(hold), after=place)
        elif chance < CAPTURED_SHARE + RELEASED_SHARE:
            self._place("release", self._make.release(hold), after=place)

    def _refused(self) -> DeductUsage | PaymentSucceeded | ReleaseUsage:
        """Return a command that the rules reject, mostly for insufficient balance."""
        make, user = self._make, self._anyone()
        chance = self._rng.random()
        if chance < 0.7:
            return make.deduct(user, _TOO_MUCH)
        if chance < 0.8:
            return make.deduct("nobody")
        if chance < 0.9:
            return make.payment(user, 0, amount_minor=1)
        return ReleaseUsage(
            reference_id=make.reference("release"), user_id=user, original_reference_id="never"
        )

    def _place(self, kind: str, message: Command, *, after: float = 0.0) -> float:
        """Place the message at a random time after a share of the day."""
        self.kinds[kind] += 1
        place = after + (1 - after) * self._rng.random()
        self._placed.append((place, message))
        return place

    def _anyone(self) -> str:
        return user_id(self._rng.randrange(self._users))


def run(context: BenchmarkContext) -> Result:
    """Measure the mixed day and plain deductions in turn."""
    messages, users = context.sized(30_000, 600), context.accounts()
    day = MixedDay(messages, users, load_catalog())
    refused: list[int] = []
    runs = alternately(
        context,
        {
            "mixed": lambda: processed_day(context, day, messages, users, refused),
            "plain": lambda: processed_deductions(context, messages, users, name="plain deductions"),
        },
    )
    mixed, plain = runs["mixed"], runs["plain"]
    return Result(
        figures=(
            ratio("mixed day : plain deductions", mixed, plain, _GOAL),
            rates("mixed day", mixed),
            rates("plain deductions", plain),
            *costs("mixed day", mixed),
            *costs("plain deductions", plain),
        ),
        sizes={"messages": messages, "users": users},
        notes=(
            "the demo's usage.batch is left out: many commands in one message, with a benchmark of its own",
            "payments are served first, so that a transaction has payments and credits or usage, rarely both",
        ),
        runs=(*mixed, *plain),
        details={"kinds": dict(day.kinds), "refused": refused},
    )


def processed_day(
    context: BenchmarkContext, day: MixedDay, messages: int, users: int, refused: list[int]
) -> Measured:
    """Run once in a sandbox of its own; record the number of ``refused`` commands."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        sandbox.apply(day.before)
        sandbox.tidy()
        sandbox.prefill(day.messages(), context.progress, total=messages)
        measured = sandbox.drain("mixed day", sandbox.worker(), messages, progress=context.progress)
        sandbox.check()
        refused.append(_refused(sandbox))
        return measured


def _refused(sandbox: Sandbox) -> int:
    query = select(func.count()).select_from(operations).where(operations.c.status == "rejected")
    with sandbox.application.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


MIXED = Benchmark(
    "mixed",
    "What does a mixed day cost: purchases, holds, refunds, duplicates 5 %, rejections 5 %?",
    "80 % of the plain deductions, in messages a second",
    run,
)
