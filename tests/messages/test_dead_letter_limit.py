"""The dead-letter limit: faults pause a lane, refusals don't, and a new configuration is watched."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command, DeadLetterReason
from tests.support.fakes import FakeLink, delivery
from worker import pipeline as pipeline_module
from worker.broker import Delivery
from worker.catalog import Catalog
from worker.core import decide
from worker.errors import LedgerUnavailableError
from worker.ledger.store import Ledger
from worker.messages.dead_letter_limit import WATCHED, DeadLetterLimit, PauseCode
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
USAGE, PAYMENTS = "billing.usage", "billing.payments"


# -- counting ---------------------------------------------------------------------------------------------


def test_faults_in_a_row_pass_the_limit_of_their_lane_alone() -> None:
    limit = DeadLetterLimit(3)
    for _ in range(3):
        assert not limit.is_over(USAGE)
        limit.add_fault(USAGE)
    assert limit.is_over(USAGE)
    assert not limit.is_over(PAYMENTS)
    exceeded = limit.exceeded(USAGE)
    assert exceeded is not None
    assert exceeded.code is PauseCode.CONSECUTIVE_FAULTS
    assert "billing-worker resume" in exceeded.text
    assert limit.exceeded(PAYMENTS) is None


def test_applied_message_resets_the_count_of_its_lane() -> None:
    limit = DeadLetterLimit(3)
    for _ in range(50):
        limit.add_fault(USAGE)
        limit.add_fault(USAGE)
        limit.reset(USAGE)
    assert not limit.is_over(USAGE)
    assert limit.most_faults == 0


def test_zero_switches_the_limit_off() -> None:
    limit = DeadLetterLimit(0)
    for _ in range(10_000):
        limit.add_fault(USAGE)
    assert not limit.is_over(USAGE)


def test_known_configuration_is_never_suspected() -> None:
    limit = DeadLetterLimit(3)
    assert not limit.is_watching
    assert all(limit.add_message(USAGE, DeadLetterReason.NOT_JSON) for _ in range(5_000))
    assert limit.exceeded(USAGE) is None


def dead_lettered(limit: DeadLetterLimit, queue: str, refusals: Sequence[DeadLetterReason | None]) -> int:
    """Return the number of refusals that become dead letters."""
    return sum(limit.add_message(queue, refusal) and refusal is not None for refusal in refusals)


def test_new_configuration_that_refuses_more_than_half_is_suspected() -> None:
    limit = DeadLetterLimit(3, is_new_config=True)
    assert (
        dead_lettered(
            limit, USAGE, [DeadLetterReason.UNKNOWN_TYPE, None, DeadLetterReason.UNKNOWN_TYPE] * 1_000
        )
        == WATCHED // 2
    )
    exceeded = limit.exceeded(USAGE)
    assert exceeded is not None
    assert exceeded.code is PauseCode.CONFIG_SUSPECT
    assert "unknown_type" in exceeded.text
    assert limit.exceeded(PAYMENTS) is None


def test_new_configuration_that_refuses_half_is_right() -> None:
    limit = DeadLetterLimit(3, is_new_config=True)
    assert dead_lettered(limit, USAGE, [DeadLetterReason.NOT_JSON, None] * 500) == 500
    assert not limit.is_watching
    assert dead_lettered(limit, USAGE, [DeadLetterReason.NOT_JSON] * 5_000) == 5_000
    assert limit.exceeded(USAGE) is None


def test_quiet_lane_is_judged_when_the_watch_ends() -> None:
    limit = DeadLetterLimit(3, is_new_config=True)
    dead_lettered(limit, PAYMENTS, [DeadLetterReason.WRONG_SENDER] * 20)
    dead_lettered(limit, USAGE, [None] * (WATCHED - 20))
    assert limit.exceeded(PAYMENTS) is not None
    assert limit.exceeded(USAGE) is None


def test_few_refusals_of_a_quiet_lane_say_nothing() -> None:
    limit = DeadLetterLimit(3, is_new_config=True)
    dead_lettered(limit, PAYMENTS, [DeadLetterReason.WRONG_SENDER] * 19)
    dead_lettered(limit, USAGE, [None] * WATCHED)
    assert limit.exceeded(PAYMENTS) is None
    assert not limit.is_watching


def test_operator_who_accepts_the_configuration_ends_the_suspicion() -> None:
    limit = DeadLetterLimit(3, is_new_config=True)
    dead_lettered(limit, USAGE, [DeadLetterReason.UNKNOWN_TYPE] * 600)
    limit.accept_config()
    assert limit.exceeded(USAGE) is None
    assert dead_lettered(limit, USAGE, [DeadLetterReason.UNKNOWN_TYPE] * 5_000) == 5_000


# -- the pipeline -----------------------------------------------------------------------------------------

OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}
Tries = list[int]


def deduct(reference: str, **properties: Any) -> Delivery:
    message = {"type": "usage.deduct", "referenceId": reference, "userId": "u", "tokens": 1}
    return delivery(message, correlation_id=reference, **properties)


def bad(count: int, **properties: Any) -> list[Delivery]:
    return [deduct(f"bad-{number}", **properties) for number in range(count)]


def good(count: int, name: str = "good") -> list[Delivery]:
    return [deduct(f"{name}-{number}") for number in range(count)]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    """Raise a bug on references that begin with ``bad``; record the number of commands of each decision."""
    tries: Tries = []

    def deciding(commands: Sequence[Command], *arguments: Any) -> Any:
        tries.append(len(commands))
        if any(command.reference_id.startswith("bad") for command in commands):
            raise RuntimeError("a bug")
        return decide(commands, *arguments)

    monkeypatch.setattr(pipeline_module, "decide", deciding)
    return tries


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


Make = Callable[..., Pipeline]


@pytest.fixture
def make(engine: Engine, catalog: Catalog, metrics: Metrics) -> Make:
    def made(most: int = 100, **options: Any) -> Pipeline:
        return Pipeline(
            Ledger(engine),
            catalog,
            Policy(),
            clock=lambda: NOW,
            pause=lambda _: None,
            metrics=metrics,
            limit=DeadLetterLimit(most, **options),
        )

    return made


def process(pipeline: Pipeline, deliveries: Sequence[Delivery]) -> FakeLink:
    link = FakeLink()
    items = pipeline.receive(deliveries)
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    return link


def test_faults_up_to_the_limit_are_dead_letters_and_the_rest_of_the_lane_is_kept(
    make: Make, tries: Tries
) -> None:
    pipeline = make(3)
    opening = delivery(OPEN, queue=PAYMENTS)
    faulty = bad(8)
    link = process(pipeline, [opening, *faulty])
    assert len(link.dead_letters) == 3
    assert link.acknowledged == [opening, *faulty[:3]]
    assert pipeline.limit.is_over(USAGE)


def test_other_lanes_of_the_batch_go_on(make: Make, tries: Tries) -> None:
    pipeline = make(3)
    opening, bonus = delivery(OPEN, queue=PAYMENTS), deduct("good-payment", queue=PAYMENTS)
    link = process(pipeline, [opening, *bad(8), bonus])
    assert link.acknowledged[-1] == bonus
    assert not pipeline.limit.is_over(PAYMENTS)


def test_batch_of_faults_is_not_isolated_to_its_end(make: Make, tries: Tries) -> None:
    link = process(make(10), bad(500))
    assert len(link.dead_letters) == len(link.acknowledged) == 10
    assert len(tries) < 60  # ten messages with three tries each, and the halves before them


def test_faults_with_successes_between_them_are_isolated_to_the_end(make: Make, tries: Tries) -> None:
    pipeline = make(3)
    process(pipeline, [delivery(OPEN)])
    deliveries = [one for pair in zip(bad(12), good(12), strict=True) for one in pair]
    link = process(pipeline, deliveries)
    assert link.acknowledged == deliveries
    assert len(link.dead_letters) == 12


def test_lane_over_its_limit_is_not_tried(make: Make, tries: Tries) -> None:
    pipeline = make(2)
    process(pipeline, bad(2))
    tries.clear()
    link = process(pipeline, bad(5))
    assert tries == []
    assert (link.acknowledged, link.published) == ([], [])


def test_outage_in_the_middle_of_isolating_loses_no_count(
    make: Make, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, link = make(3), FakeLink()
    items = pipeline.receive(bad(8))
    real, calls = pipeline.transact, list[int]()

    def transact(batch: Sequence[Any]) -> None:
        calls.append(len(batch))
        if len(calls) == 12:
            raise LedgerUnavailableError("down")
        real(batch)

    monkeypatch.setattr(pipeline, "transact", transact)
    with pytest.raises(LedgerUnavailableError):
        pipeline.apply(items)
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    assert len(link.dead_letters) == 3


def test_message_of_a_paused_lane_gets_its_tries_and_then_a_reason(make: Make, tries: Tries) -> None:
    pipeline = make(1)
    process(pipeline, bad(1))
    (item,) = pipeline.receive([deduct("bad-probe")])
    assert [pipeline.try_alone(item) for _ in range(3)] == [False, False, False]
    assert item.failure is not None
    assert item.failure.code == "unprocessable"


def test_applied_message_of_a_paused_lane_resets_its_count(make: Make, tries: Tries) -> None:
    pipeline = make(1)
    process(pipeline, [delivery(OPEN), *bad(1)])
    (item,) = pipeline.receive(good(1))
    assert pipeline.try_alone(item)
    assert not pipeline.limit.is_over(USAGE)
    assert process(pipeline, good(2, "more")).replies


def test_faults_in_writing_replies_pause_the_lane_too(
    make: Make, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writing(*_: Any) -> Any:
        raise RuntimeError("a bug in the replies")

    pipeline = make(3)
    monkeypatch.setattr(pipeline._replies, "for_answers", writing)
    deliveries = [delivery(OPEN), *good(20)]
    link = process(pipeline, deliveries)
    assert len(link.dead_letters) == len(link.acknowledged) == 3
    assert pipeline.limit.is_over(USAGE)
    process(pipeline, good(5))  # a command applied again proves nothing about the replies
    assert pipeline.limit.is_over(USAGE)
    (item,) = pipeline.receive(good(1))
    assert not pipeline.try_alone(item)
    monkeypatch.undo()
    assert pipeline.try_alone(item)
    assert not pipeline.limit.is_over(USAGE)


@pytest.mark.parametrize("sender", ["app", None])
def test_refusals_pause_nothing_and_are_counted_by_sender(
    make: Make, metrics: Metrics, sender: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = make(3)
    deliveries = [delivery(b"{", user_id=sender) for _ in range(2_000)]
    link = process(pipeline, deliveries)
    assert link.acknowledged == deliveries
    assert len(link.dead_letters) == 2_000
    assert not pipeline.limit.is_over(USAGE)
    labels = {"sender": sender or "anonymous", "code": "not_json"}
    assert metrics.registry.get_sample_value("billing_worker_refusals_total", labels) == 2_000
    (line,) = [
        record.getMessage() for record in caplog.records if "dead-letters groups" in record.getMessage()
    ]
    assert line.startswith("2000 × not_json of unknown type, such as one without a reference, sender ")
    assert f"sender {sender or 'anonymous'}: see" in line


def test_refusals_of_a_new_configuration_are_kept_from_the_limit_on(make: Make) -> None:
    pipeline = make(3, is_new_config=True)
    opening = delivery(OPEN)
    link = process(pipeline, [opening, *(delivery(b"{") for _ in range(800)), *good(5)])
    assert len(link.dead_letters) == WATCHED // 2
    assert len(link.acknowledged) == 1 + WATCHED // 2 + 5
    assert pipeline.limit.exceeded(USAGE) is not None
