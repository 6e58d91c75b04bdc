"""One batch: every delivery ends in an answer or a dead letter, and none disturbs its neighbours."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command, DeadLetter, Reply
from tests.support.fakes import FakeLink, delivery, lost
from worker import correspondence
from worker import pipeline as pipeline_module
from worker.broker import Delivery, Outgoing
from worker.catalog import Catalog
from worker.core import Answer, decide, reply_for
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
)
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Books, Ledger
from worker.metrics import Metrics
from worker.pipeline import Pipeline, UnansweredError
from worker.policy import GIVE_UP_AFTER, Policy

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}


def deduct(reference: str = "d", tokens: int = 10, **more: Any) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "u", "tokens": tokens, **more}


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


Settle = Callable[..., FakeLink]


@pytest.fixture
def pipeline(engine: Engine, catalog: Catalog, metrics: Metrics) -> Pipeline:
    return make_pipeline(engine, catalog, metrics, Policy())


def make_pipeline(engine: Engine, catalog: Catalog, metrics: Metrics, policy: Policy) -> Pipeline:
    return Pipeline(
        Ledger(engine), catalog, policy, clock=lambda: NOW, pause=lambda _seconds: None, metrics=metrics
    )


def settle(pipeline: Pipeline, *deliveries: Delivery, link: FakeLink | None = None) -> FakeLink:
    link = link or FakeLink()
    pipeline.settle(link, pipeline.receive(deliveries))
    return link


def codes(link: FakeLink) -> list[str]:
    return [reply["code"] for reply in link.replies]


def letter(message: Outgoing) -> DeadLetter:
    return DeadLetter.from_headers(message.headers)


# -- answers ----------------------------------------------------------------------------------------------


def test_every_delivery_is_answered_in_order_and_acknowledged_last(pipeline: Pipeline) -> None:
    deliveries = [
        delivery(OPEN),
        delivery(deduct()),
        delivery(deduct(tokens=11)),
        delivery(deduct("x", 10**6)),
    ]
    link = FakeLink()
    link.on_publish = lambda: acknowledged_before.append(len(link.acknowledged))
    acknowledged_before: list[int] = []
    settle(pipeline, *deliveries, link=link)
    assert codes(link) == ["account_opened", "tokens_deducted", "reference_conflict", "insufficient_balance"]
    assert link.acknowledged == deliveries
    assert acknowledged_before == [0]


def test_a_reply_carries_the_correlation_id_or_else_the_message_id(pipeline: Pipeline) -> None:
    link = settle(
        pipeline,
        delivery(OPEN, correlation_id="c", message_id="m"),
        delivery(deduct(), message_id="m2"),
        delivery(deduct("d2")),
    )
    assert [m.properties["correlation_id"] for m in link.published] == ["c", "m2", None]


def test_a_reply_goes_only_where_configuration_allows(pipeline: Pipeline) -> None:
    link = settle(
        pipeline,
        delivery(OPEN, reply_to="billing.replies.app"),
        delivery(deduct(), reply_to="billing.payments"),
        delivery(deduct("d2"), reply_to="amq.rabbitmq.reply-to.abc"),
        delivery(deduct("d3")),
    )
    assert [m.routing_key for m in link.published] == ["billing.replies.app", *["billing.replies"] * 3]
    assert {m.exchange for m in link.published} == {""}


def test_a_redelivered_command_gets_its_first_reply_with_the_same_message_id(pipeline: Pipeline) -> None:
    settle(pipeline, delivery(OPEN))
    message = delivery(deduct(), correlation_id="c")
    first, again = (settle(pipeline, message).published[0] for _ in range(2))
    assert again.properties == first.properties
    assert again.body == first.body.replace(b'"duplicate":false', b'"duplicate":true')


def test_replies_to_two_requests_have_two_message_ids(pipeline: Pipeline) -> None:
    settle(pipeline, delivery(OPEN))
    link = settle(pipeline, delivery(deduct(), correlation_id="a"), delivery(deduct(), correlation_id="b"))
    first, second = (message.properties["message_id"] for message in link.published)
    assert first != second


def test_a_reply_no_queue_takes_is_counted_and_stops_nothing(
    pipeline: Pipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    link = FakeLink()
    link.unroutable = {"billing.replies.gone"}
    deliveries = [delivery(OPEN, reply_to="billing.replies.gone"), delivery(deduct())]
    settle(pipeline, *deliveries, link=link)
    assert link.acknowledged == deliveries
    assert metrics.registry.get_sample_value("billing_worker_unroutable_replies_total") == 1
    assert "billing.replies.gone" in caplog.text


# -- refusals ---------------------------------------------------------------------------------------------

BROKEN: list[tuple[Delivery, str]] = [
    (delivery(b"not json"), "not_json"),
    (delivery(b"\xff\xfe"), "byte_order_mark"),
    (delivery(b""), "not_json"),
    (delivery({"type": "usage.fly"}), "unknown_type"),
    (delivery(deduct(tokens=-1)), "invalid_field"),
    (delivery(b"x" * 300_000), "body_too_large"),
    (delivery(deduct(), routing_key="payment.succeeded"), "wrong_routing_key"),
    (delivery(b"", unreadable=b"\x00"), "unreadable_properties"),
    (delivery(deduct(), delivery_count=GIVE_UP_AFTER), "delivery_limit"),
]


@pytest.mark.parametrize(("broken", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_message_becomes_a_letter_and_disturbs_no_neighbour(
    pipeline: Pipeline, broken: Delivery, reason: str
) -> None:
    link = settle(pipeline, delivery(OPEN), broken, delivery(deduct()))
    (message,) = link.letters
    assert message.body == broken.body
    assert letter(message).reason == reason
    applied = [reply["code"] for reply in link.replies if reply["status"] == "applied"]
    assert applied == ["account_opened", "tokens_deducted"]
    assert len(link.acknowledged) == 3


def test_a_letter_says_all_an_operator_needs(pipeline: Pipeline) -> None:
    link = settle(pipeline, delivery(deduct(tokens=0), correlation_id="c", message_id="m", type="t"))
    told = letter(link.letters[0])
    assert (told.reason, told.field, told.attempts) == ("invalid_field", "tokens", 1)
    assert (told.type, told.reference_id, told.user_id) == ("usage.deduct", "d", "u")
    assert (told.queue, told.exchange, told.routing_key) == ("billing.usage", "billing", "usage.deduct")
    assert (told.first_failed_at, told.last_failed_at) == (NOW, NOW)
    assert told.worker_version
    assert link.letters[0].properties["correlation_id"] == "c"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (delivery(b"{}", reply_to="billing.replies.app"), True),
        (delivery(b"{}", correlation_id="c"), True),
        (delivery({"type": "usage.deduct", "referenceId": "r"}), True),
        (delivery(b"{}"), False),
        (delivery(b"{}", reply_to="elsewhere"), False),
    ],
)
def test_a_failed_reply_is_sent_where_somebody_could_tell_what_it_answers(
    pipeline: Pipeline, broken: Delivery, *, told: bool
) -> None:
    link = settle(pipeline, broken)
    assert [reply["status"] for reply in link.replies] == (["failed"] if told else [])
    assert len(link.letters) == 1


def test_a_conflict_is_answered_and_shown_to_operators(pipeline: Pipeline) -> None:
    settle(pipeline, delivery(OPEN), delivery(deduct()))
    link = settle(pipeline, delivery(deduct(tokens=99)))
    assert (link.replies[0]["status"], link.replies[0]["field"]) == ("rejected", "tokens")
    assert letter(link.letters[0]).reason == "reference_conflict"


def test_only_trusted_senders_may_send_what_is_guarded(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    guarded = make_pipeline(
        engine, catalog, metrics, Policy(senders={"credit.*": ["gateway"], "credit.bonus": ["marketing"]})
    )
    bonus = {"type": "credit.bonus", "referenceId": "b", "userId": "u", "tokens": 5}
    link = settle(
        guarded,
        delivery(OPEN),
        delivery(bonus),
        delivery(bonus, user_id="uploader"),
        delivery(bonus, user_id="marketing"),
        delivery(deduct(), user_id="anyone"),
    )
    assert [letter(message).reason for message in link.letters] == ["wrong_sender"] * 2
    assert [c for c in codes(link) if c != "malformed"] == [
        "account_opened",
        "bonus_granted",
        "tokens_deducted",
    ]


def test_a_full_reply_queue_of_one_caller_holds_nobody_up(pipeline: Pipeline, metrics: Metrics) -> None:
    link = FakeLink()
    link.refusing = {"billing.replies.full"}
    deliveries = [delivery(OPEN, reply_to="billing.replies.full"), delivery(deduct())]
    settle(pipeline, *deliveries, link=link)
    assert link.acknowledged == deliveries
    assert sorted(codes(link)) == ["account_opened", "tokens_deducted"]
    assert {message.routing_key for message in link.published} == {"billing.replies"}


@pytest.mark.parametrize("full", ["billing.replies", "billing.dead"])
def test_what_must_be_told_is_held_until_there_is_room_and_only_that_is_sent_again(
    pipeline: Pipeline, full: str
) -> None:
    link = FakeLink()
    link.refusing = {full}
    deliveries = [
        delivery(OPEN, reply_to="billing.replies.app"),
        delivery(b"broken", reply_to="billing.replies.app"),
        delivery(deduct()),
    ]
    items = pipeline.receive(deliveries)
    for _ in range(3):
        with pytest.raises(BrokerUnavailableError, match=full):
            pipeline.settle(link, items)
    assert link.acknowledged == []
    link.refusing = set()
    pipeline.settle(link, items)
    assert link.acknowledged == deliveries
    assert len(link.published) == 4  # three replies and a letter, each once
    assert not any(reply["duplicate"] for reply in link.replies)


def test_a_publish_that_is_not_permitted_is_held_too(pipeline: Pipeline) -> None:
    def forbidden() -> None:
        raise ConfigurationError("ACCESS_REFUSED")

    link = FakeLink()
    link.on_publish = forbidden
    with pytest.raises(UnansweredError, match="ACCESS_REFUSED"):
        settle(pipeline, delivery(OPEN), link=link)
    assert link.acknowledged == []


def test_half_a_surrogate_pair_in_an_id_is_answered_like_any_other(pipeline: Pipeline) -> None:
    deliveries = [delivery(OPEN, correlation_id="\ud800"), delivery(deduct(), message_id="\udfff")]
    link = settle(pipeline, *deliveries)
    assert [message.properties["correlation_id"] for message in link.published] == ["\ud800", "\udfff"]
    assert link.acknowledged == deliveries


def test_a_fault_in_writing_a_reply_is_one_messages_alone(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotaged(command: Command, answer: Answer) -> Reply:
        if command.reference_id == "d":
            raise ZeroDivisionError
        return reply_for(command, answer)

    monkeypatch.setattr(correspondence, "reply_for", sabotaged)
    deliveries = [delivery(OPEN), delivery(deduct(), correlation_id="c"), delivery(deduct("d2"))]
    link = settle(pipeline, *deliveries)
    assert codes(link) == ["account_opened", "tokens_deducted"]
    assert [letter(message).reference_id for message in link.letters] == ["d"]
    assert link.acknowledged == deliveries


def test_a_message_that_was_given_up_says_whose_it_is(pipeline: Pipeline) -> None:
    link = settle(pipeline, delivery(deduct(), delivery_count=GIVE_UP_AFTER))
    (reply,) = link.replies
    assert (reply["code"], reply["reason"], reply["referenceId"]) == ("unprocessable", "delivery_limit", "d")


def test_the_longest_pattern_says_who_may_send_a_type(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    guarded = make_pipeline(
        engine, catalog, metrics, Policy(senders={"*": ["app"], "payment.*": ["gateway"]})
    )
    payment: dict[str, Any] = {
        "type": "payment.succeeded",
        "referenceId": "p",
        "userId": "u",
        "packageId": "starter",
    }
    payment |= {"amountMinor": 499, "currency": "USD"}
    link = settle(
        guarded,
        delivery(OPEN, user_id="app"),
        delivery(payment, user_id="app"),
        delivery(payment, user_id="gateway"),
    )
    assert [letter(message).reason for message in link.letters] == ["wrong_sender"]
    assert "tokens_purchased" in codes(link)


def test_a_dead_letter_that_has_no_queue_leaves_the_batch_unacknowledged(pipeline: Pipeline) -> None:
    link = FakeLink()
    link.unroutable = {"billing.dead"}
    with pytest.raises(BrokerUnavailableError, match="topology declare"):
        settle(pipeline, delivery(OPEN), delivery(b"broken"), link=link)
    assert link.acknowledged == []


# -- faults -----------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the decision fail wherever the reference ``poison`` is in the batch; counts the decisions."""
    sizes: list[int] = []

    def sabotaged(commands: Sequence[Command], *rest: Any) -> Any:
        sizes.append(len(commands))
        if any(command.reference_id == "poison" for command in commands):
            raise ZeroDivisionError("a bug met by one message")
        return decide(commands, *rest)

    monkeypatch.setattr(pipeline_module, "decide", sabotaged)
    return sizes


@pytest.mark.parametrize("position", range(9))
def test_a_fault_is_isolated_wherever_it_stands(
    pipeline: Pipeline, poisoned: list[int], engine: Engine, position: int
) -> None:
    settle(pipeline, delivery(OPEN))
    references = [f"d{n}" for n in range(8)]
    references.insert(position, "poison")
    link = settle(pipeline, *(delivery(deduct(reference)) for reference in references))
    by_reference = {reply["referenceId"]: reply["code"] for reply in link.replies}
    assert by_reference == dict.fromkeys(references, "tokens_deducted") | {"poison": "unprocessable"}
    (message,) = link.letters
    told = letter(message)
    assert (told.reason, told.attempts) == ("unprocessable", 3)
    assert "ZeroDivisionError: a bug met by one message" in (told.traceback or "")
    assert "ZeroDivisionError" not in str(link.replies)
    assert audit(engine).is_clean


def test_a_fault_gets_a_bounded_number_of_tries(pipeline: Pipeline, poisoned: list[int]) -> None:
    settle(pipeline, delivery(deduct("poison")))
    assert poisoned == [1, 1, 1]


def test_a_balance_past_64_bits_is_one_messages_fault(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    from schemas import Limits

    pipeline = make_pipeline(engine, catalog, metrics, Policy(limits=Limits(max_quantity=2**63 - 1)))
    bonus = {"type": "credit.bonus", "userId": "u", "tokens": 2**63 - 1}
    link = settle(pipeline, delivery(OPEN), delivery({**bonus, "referenceId": "huge"}), delivery(deduct()))
    assert sorted(codes(link)) == ["account_opened", "tokens_deducted", "unprocessable"]
    assert audit(engine).is_clean


@pytest.mark.parametrize("error", [LedgerUnavailableError("down"), BrokerUnavailableError("down")])
def test_an_outage_makes_nobody_a_dead_letter(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def down(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(pipeline_module, "decide", down)
    link = FakeLink()
    with pytest.raises(type(error)):
        settle(pipeline, delivery(OPEN), delivery(deduct()), link=link)
    assert (link.published, link.acknowledged) == ([], [])


def test_contention_is_tried_again_and_then_waited_out(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    failures = iter([ContentionError("deadlock")] * 3)

    def contended(*arguments: Any) -> Any:
        if (failure := next(failures, None)) is not None:
            raise failure
        return decide(*arguments)

    monkeypatch.setattr(pipeline_module, "decide", contended)
    assert codes(settle(pipeline, delivery(OPEN))) == ["account_opened"]
    assert metrics.registry.get_sample_value("billing_worker_contention_retries_total") == 3
    failures = iter([ContentionError("deadlock")] * 100)
    with pytest.raises(LedgerUnavailableError, match="contended"):
        settle(pipeline, delivery(deduct()))


# -- crashes ----------------------------------------------------------------------------------------------


class CrashError(BaseException):
    """The process is gone: nothing catches it."""


@pytest.mark.parametrize("step", ["load", "decide", "write", "commit", "publish", "acknowledge"])
def test_after_a_crash_at_any_step_redelivery_ends_in_the_same_ledger_and_reply(
    pipeline: Pipeline, engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    settle(pipeline, delivery(OPEN))
    messages = [delivery(deduct("a")), delivery(deduct("b", 10**9)), delivery(b"broken")]
    link = FakeLink()

    def crash(*_: Any, **__: Any) -> Any:
        raise CrashError

    with monkeypatch.context() as patched:
        match step:
            case "load" | "write":
                patched.setattr(Books, step, crash)
            case "decide":
                patched.setattr(pipeline_module, "decide", crash)
            case "commit":
                patched.setattr(Pipeline, "answer", crash)
            case "publish":
                link.on_publish = crash
            case "acknowledge":
                patched.setattr(link, "acknowledge", crash)
        with pytest.raises(CrashError):
            settle(pipeline, *messages, link=link)
    assert link.acknowledged == []
    again = settle(pipeline, *messages)
    assert codes(again) == ["tokens_deducted", "insufficient_balance"]
    assert len(again.letters) == 1
    committed = step in {"commit", "publish", "acknowledge"}
    assert [reply["duplicate"] for reply in again.replies] == [committed, committed]
    report = audit(engine)
    assert report.is_clean
    assert report.examined["entries"] == 2


def test_settling_again_after_the_broker_was_lost_applies_nothing_twice(
    pipeline: Pipeline, engine: Engine
) -> None:
    link = FakeLink()
    items = pipeline.receive([delivery(OPEN), delivery(deduct())])
    link.on_publish = lost
    with pytest.raises(BrokerUnavailableError):
        pipeline.settle(link, items)
    link.on_publish = lambda: None
    pipeline.settle(link, items)
    assert [reply["duplicate"] for reply in link.replies] == [False, False]
    assert audit(engine).examined["entries"] == 2
