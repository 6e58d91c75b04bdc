"""Pipeline: every delivery of a batch ends in a reply or a dead letter, and none disturbs its neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import Counter
from sqlalchemy import Engine, select

from schemas import Command, DeadLetter, Notice, Reply
from tests.support.fakes import FakeLink, delivery, lost
from worker import pipeline as pipeline_module
from worker.broker import BILLING, Delivery, Outgoing
from worker.catalog import Catalog
from worker.core import Answer, decide, reply_for
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
    UnansweredError,
    UnsupportedStatementError,
)
from worker.ledger import store
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.store import Ledger, LedgerTransaction
from worker.ledger.tables import operations, senders, superseded_outcomes
from worker.messages import receiving as intake
from worker.messages import replies as replies
from worker.messages.policy import SCHEDULER_APP_ID, Policy
from worker.metrics import Metrics
from worker.pipeline import Item, Pipeline

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


@pytest.fixture
def pipeline(engine: Engine, catalog: Catalog, metrics: Metrics) -> Pipeline:
    return make_pipeline(engine, catalog, metrics, Policy())


def make_pipeline(
    engine: Engine, catalog: Catalog, metrics: Metrics, policy: Policy, *, one_slot: bool = False
) -> Pipeline:
    return Pipeline(
        Ledger(engine, LedgerForm.ONE_SLOT if one_slot else LedgerForm.WHOLE),
        catalog,
        policy,
        clock=lambda: NOW,
        pause=lambda _seconds: None,
        metrics=metrics,
    )


def through(pipeline: Pipeline, link: FakeLink, items: list[Item]) -> None:
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)


def process(pipeline: Pipeline, *deliveries: Delivery, link: FakeLink | None = None) -> FakeLink:
    link = link or FakeLink()
    through(pipeline, link, pipeline.receive(deliveries))
    return link


def codes(link: FakeLink) -> list[str]:
    return [reply["code"] for reply in link.replies]


def dead_letter(message: Outgoing) -> DeadLetter:
    return DeadLetter.from_headers(message.headers)


# -- replies ----------------------------------------------------------------------------------------------


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
    process(pipeline, *deliveries, link=link)
    assert codes(link) == ["account_opened", "tokens_deducted", "reference_conflict", "insufficient_balance"]
    assert link.acknowledged == deliveries
    assert acknowledged_before == [0]


def test_a_reply_carries_the_correlation_id_or_else_the_message_id(pipeline: Pipeline) -> None:
    link = process(
        pipeline,
        delivery(OPEN, correlation_id="c", message_id="m"),
        delivery(deduct(), message_id="m2"),
        delivery(deduct("d2")),
    )
    assert [m.properties["correlation_id"] for m in link.published] == ["c", "m2", None]


def test_reply_goes_only_where_its_sender_may_send_it(pipeline: Pipeline) -> None:
    link = process(
        pipeline,
        delivery(OPEN, reply_to="billing.replies.app", user_id="app"),
        delivery(deduct(), reply_to="billing.payments", user_id="app"),
        delivery(deduct("d2"), reply_to="billing.replies.app", user_id="mallory"),
        delivery(deduct("d3"), reply_to="billing.replies.app"),
        delivery(deduct("d4")),
    )
    assert [m.routing_key for m in link.published] == ["billing.replies.app", *["billing.replies"] * 4]
    assert {m.exchange for m in link.published} == {""}
    assert all(m.mandatory for m in link.published)


DIRECT = "amq.rabbitmq.reply-to.abc"


def test_direct_reply_is_not_mandatory_and_its_loss_is_not_counted(
    pipeline: Pipeline, metrics: Metrics
) -> None:
    link = FakeLink()
    link.unroutable = {DIRECT}
    process(pipeline, delivery(OPEN, reply_to=DIRECT), delivery(deduct()), link=link)
    assert {m.routing_key: m.mandatory for m in link.published} == {DIRECT: False, "billing.replies": True}
    assert metrics.registry.get_sample_value("billing_worker_unroutable_replies_total") == 0


def test_address_that_closes_the_connection_costs_nobody_else_a_reply(pipeline: Pipeline) -> None:
    link = FakeLink()
    link.closing = {"amq.rabbitmq.reply-to.forged"}
    deliveries = [
        delivery(OPEN, reply_to=DIRECT),
        *(delivery(deduct(f"d{n}"), reply_to="amq.rabbitmq.reply-to.forged") for n in range(2)),
        delivery(deduct(), reply_to=DIRECT),
        delivery(deduct("last")),
    ]
    process(pipeline, *deliveries, link=link)
    assert link.acknowledged == deliveries
    assert [m.routing_key for m in link.published] == ["billing.replies", DIRECT, DIRECT]


def test_many_addresses_that_close_the_connection_cost_few_connections(pipeline: Pipeline) -> None:
    link = FakeLink()
    link.closing = {"amq.rabbitmq.reply-to.forged"}
    closed = []
    link.on_close = lambda: closed.append(1)
    forged = [delivery(deduct(f"d{n}"), reply_to="amq.rabbitmq.reply-to.forged") for n in range(50)]
    process(pipeline, delivery(OPEN), *forged, link=link)
    assert len(closed) == 4
    assert len(link.acknowledged) == 51


def test_a_redelivered_command_gets_its_first_reply_with_the_same_message_id(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    message = delivery(deduct(), correlation_id="c")
    first, again = (process(pipeline, message).published[0] for _ in range(2))
    assert again.properties == first.properties
    assert again.body == first.body.replace(b'"duplicate":false', b'"duplicate":true')


def test_replies_to_two_requests_have_two_message_ids(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    link = process(pipeline, delivery(deduct(), correlation_id="a"), delivery(deduct(), correlation_id="b"))
    first, second = (message.properties["message_id"] for message in link.published)
    assert first != second


def test_a_reply_no_queue_takes_is_counted_and_stops_nothing(
    pipeline: Pipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    link = FakeLink()
    link.unroutable = {"billing.replies.gone"}
    deliveries = [delivery(OPEN, reply_to="billing.replies.gone", user_id="gone"), delivery(deduct())]
    process(pipeline, *deliveries, link=link)
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
]


@pytest.mark.parametrize(("broken", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_message_becomes_a_dead_letter_and_disturbs_no_neighbour(
    pipeline: Pipeline, broken: Delivery, reason: str
) -> None:
    link = process(pipeline, delivery(OPEN), broken, delivery(deduct()))
    (message,) = link.dead_letters
    assert message.body == broken.body
    assert dead_letter(message).reason == reason
    applied = [reply["code"] for reply in link.replies if reply["status"] == "applied"]
    assert applied == ["account_opened", "tokens_deducted"]
    assert len(link.acknowledged) == 3


def test_dead_letter_has_all_an_operator_needs(pipeline: Pipeline) -> None:
    link = process(pipeline, delivery(deduct(tokens=-1), correlation_id="c", message_id="m", type="t"))
    found = dead_letter(link.dead_letters[0])
    assert (found.reason, found.field, found.attempts) == ("invalid_field", "tokens", 1)
    assert (found.type, found.reference_id, found.user_id) == ("usage.deduct", "d", "u")
    assert (found.queue, found.exchange, found.routing_key) == ("billing.usage", "billing", "usage.deduct")
    assert (found.first_failed_at, found.last_failed_at) == (NOW, NOW)
    assert found.worker_version
    assert link.dead_letters[0].properties["correlation_id"] == "c"


@pytest.mark.parametrize(
    ("broken", "is_replied"),
    [
        (delivery(b"{}", reply_to="billing.replies.app", user_id="app"), True),
        (delivery(b"{}", reply_to="billing.replies.app"), False),
        (delivery(b"{}", correlation_id="c"), True),
        (delivery({"type": "usage.deduct", "referenceId": "r"}), True),
        (delivery(b"{}"), False),
        (delivery(b"{}", reply_to="elsewhere"), False),
    ],
)
def test_failed_reply_needs_an_address_or_an_identity(
    pipeline: Pipeline, broken: Delivery, *, is_replied: bool
) -> None:
    link = process(pipeline, broken)
    assert [reply["status"] for reply in link.replies] == (["failed"] if is_replied else [])
    assert len(link.dead_letters) == 1


def test_conflict_gets_a_reply_and_a_dead_letter(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN), delivery(deduct()))
    link = process(pipeline, delivery(deduct(tokens=99)))
    assert (link.replies[0]["status"], link.replies[0]["field"]) == ("rejected", "tokens")
    assert dead_letter(link.dead_letters[0]).reason == "reference_conflict"


def test_only_trusted_senders_may_send_what_is_guarded(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    guarded = make_pipeline(
        engine,
        catalog,
        metrics,
        Policy(senders={"credit.*": ["gateway"], "credit.bonus": ["marketing"], "account.*": ["app"]}),
    )
    bonus = {"type": "credit.bonus", "referenceId": "b", "userId": "u", "tokens": 5}
    link = process(
        guarded,
        delivery(OPEN, user_id="app"),
        delivery(bonus),
        delivery(bonus, user_id="uploader"),
        delivery(bonus, user_id="marketing"),
        delivery(deduct(), user_id="anyone"),
    )
    assert [dead_letter(message).reason for message in link.dead_letters] == ["wrong_sender"] * 2
    assert [c for c in codes(link) if c != "malformed"] == [
        "account_opened",
        "bonus_granted",
        "tokens_deducted",
    ]


def test_full_reply_queue_of_one_caller_stops_nobody(pipeline: Pipeline, metrics: Metrics) -> None:
    link = FakeLink()
    link.refusing = {"billing.replies.full"}
    deliveries = [delivery(OPEN, reply_to="billing.replies.full", user_id="full"), delivery(deduct())]
    process(pipeline, *deliveries, link=link)
    assert link.acknowledged == deliveries
    assert sorted(codes(link)) == ["account_opened", "tokens_deducted"]
    assert {message.routing_key for message in link.published} == {"billing.replies"}


@pytest.mark.parametrize("full", ["billing.replies", "billing.dead"])
def test_refused_reply_or_dead_letter_alone_is_sent_again(pipeline: Pipeline, full: str) -> None:
    link = FakeLink()
    link.refusing = {full}
    deliveries = [
        delivery(OPEN, reply_to="billing.replies.app", user_id="app"),
        delivery(b"broken", reply_to="billing.replies.app", user_id="app"),
        delivery(deduct()),
    ]
    items = pipeline.receive(deliveries)
    for _ in range(3):
        with pytest.raises(BrokerUnavailableError, match=full):
            through(pipeline, link, items)
    assert link.acknowledged == []
    link.refusing = set()
    through(pipeline, link, items)
    assert link.acknowledged == deliveries
    assert len(link.published) == 4  # three replies and a dead letter, each once
    assert not any(reply["duplicate"] for reply in link.replies)


def test_forbidden_publish_keeps_its_messages(pipeline: Pipeline) -> None:
    def forbidden() -> None:
        raise ConfigurationError("ACCESS_REFUSED")

    link = FakeLink()
    link.on_publish = forbidden
    with pytest.raises(UnansweredError, match="ACCESS_REFUSED"):
        process(pipeline, delivery(OPEN), link=link)
    assert link.acknowledged == []


def test_half_a_surrogate_pair_in_an_id_is_answered_like_any_other(pipeline: Pipeline) -> None:
    deliveries = [delivery(OPEN, correlation_id="\ud800"), delivery(deduct(), message_id="\udfff")]
    link = process(pipeline, *deliveries)
    assert [message.properties["correlation_id"] for message in link.published] == ["\ud800", "\udfff"]
    assert link.acknowledged == deliveries


def test_a_fault_in_writing_a_reply_is_one_messages_alone(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotaged(command: Command, answer: Answer) -> Reply:
        if command.reference_id == "d":
            raise ZeroDivisionError
        return reply_for(command, answer)

    monkeypatch.setattr(replies, "reply_for", sabotaged)
    deliveries = [delivery(OPEN), delivery(deduct(), correlation_id="c"), delivery(deduct("d2"))]
    link = process(pipeline, *deliveries)
    assert codes(link) == ["account_opened", "tokens_deducted"]
    assert [dead_letter(message).reference_id for message in link.dead_letters] == ["d"]
    assert link.acknowledged == deliveries


def given_up(pipeline: Pipeline, *, decoded: bool) -> FakeLink:
    link = FakeLink()
    pipeline.reply_and_acknowledge(
        link, [pipeline.give_up(delivery(deduct(), correlation_id="c"), 3, decoded=decoded)]
    )
    return link


def test_message_deadly_to_decode_is_given_up_unread(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "decode", None)
    (reply,) = given_up(pipeline, decoded=False).replies
    assert (reply["reason"], reply.get("referenceId")) == ("delivery_limit", None)


def test_given_up_message_keeps_its_identities(pipeline: Pipeline) -> None:
    (reply,) = given_up(pipeline, decoded=True).replies
    assert (reply["code"], reply["reason"], reply["referenceId"]) == ("unprocessable", "delivery_limit", "d")


def test_a_dead_letter_that_has_no_queue_leaves_the_batch_unacknowledged(pipeline: Pipeline) -> None:
    link = FakeLink()
    link.unroutable = {"billing.dead"}
    with pytest.raises(BrokerUnavailableError, match="topology declare"):
        process(pipeline, delivery(OPEN), delivery(b"broken"), link=link)
    assert link.acknowledged == []


# -- batches ----------------------------------------------------------------------------------------------


def batch(*items: dict[str, Any], reference: str = "batch", **more: Any) -> dict[str, Any]:
    without_user = [{name: value for name, value in item.items() if name != "userId"} for item in items]
    return {
        "type": "usage.batch",
        "referenceId": reference,
        "userId": "u",
        "items": without_user,
        **more,
    }


def test_batch_gets_one_reply_with_counts_and_the_replies_to_its_items(
    pipeline: Pipeline, metrics: Metrics
) -> None:
    items = [deduct("a", 1), deduct("b", 10**6), deduct("c", 2), deduct("a", 1), deduct("a", 3)]
    link = process(pipeline, delivery(OPEN), delivery(batch(*items), correlation_id="c"), delivery(deduct()))
    _, reply, _ = link.replies
    assert reply["message"] == "Processed 5 items: 3 applied, 2 rejected"
    assert (reply["status"], reply["code"], reply["type"]) == ("applied", "batch_processed", "usage.batch")
    assert (reply["referenceId"], reply["userId"], reply["duplicate"]) == ("batch", "u", False)
    assert (reply["applied"], reply["rejected"]) == (3, 2)
    assert [(item["referenceId"], item["code"], item["duplicate"]) for item in reply["items"]] == [
        ("a", "tokens_deducted", False),
        ("b", "insufficient_balance", False),
        ("c", "tokens_deducted", False),
        ("a", "tokens_deducted", True),
        ("a", "reference_conflict", False),
    ]
    assert [item.get("balanceAfter") for item in reply["items"]] == [9_999, 9_999, 9_997, 9_999, None]
    assert link.published[1].properties["correlation_id"] == "c"
    assert link.acknowledged[1].routing_key == "usage.batch"
    assert counts(metrics.messages) == {("account.open",): 1, ("usage.batch",): 1, ("usage.deduct",): 1}
    assert counts(metrics.outcomes) == {
        ("applied", "account_opened"): 1,
        ("applied", "tokens_deducted"): 3,
        ("rejected", "insufficient_balance"): 1,
        ("rejected", "reference_conflict"): 1,
    }
    assert counts(metrics.duplicates) == {(): 1}


def test_age_counts_from_publishing_and_from_the_work_by_lane(pipeline: Pipeline, metrics: Metrics) -> None:
    early = replace(delivery(OPEN), queue="billing.payments", headers={"timestamp_in_ms": milliseconds(2.5)})
    late = replace(delivery(deduct()), queue="billing.usage", headers={"timestamp_in_ms": milliseconds(40)})
    ahead = replace(
        delivery(deduct("d2")), queue="billing.usage", headers={"timestamp_in_ms": milliseconds(-9)}
    )
    occurred = deduct("d3") | {"occurredAt": (NOW - timedelta(hours=2)).isoformat()}
    process(pipeline, early, late, ahead, replace(delivery(occurred), queue="billing.usage"), delivery(b"{"))

    def ages(lane: str, since: str) -> tuple[float | None, float | None]:
        labels = {"lane": lane, "since": since}
        name, value = "billing_worker_message_age_seconds", metrics.registry.get_sample_value
        return value(f"{name}_count", labels), value(f"{name}_sum", labels)

    assert ages("billing.payments", "published") == (1, 2.5)
    assert ages("billing.usage", "published") == (2, 40), "a clock that is ahead makes no negative age"
    assert ages("billing.usage", "occurred") == (1, 7200)
    assert ages("billing.payments", "occurred") == (None, None)
    assert metrics.registry.get_sample_value("billing_worker_confirm_seconds_count") == 1


def milliseconds(ago_s: float) -> int:
    return round((NOW.timestamp() - ago_s) * 1000)


def test_refused_batch_has_no_time_to_confirm(pipeline: Pipeline, metrics: Metrics) -> None:
    process(pipeline, delivery(b"{"))
    assert metrics.registry.get_sample_value("billing_worker_confirm_seconds_count") == 0


def counts(metric: Counter) -> dict[tuple[str, ...], float]:
    """Return the samples of a counter that are not zero, by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


def test_the_commands_of_all_messages_are_decided_in_their_order(pipeline: Pipeline) -> None:
    link = process(
        pipeline,
        delivery(OPEN),
        delivery(deduct("a", 1)),
        delivery(batch(deduct("b", 2), deduct("c", 3))),
        delivery(deduct("d", 4)),
        delivery(batch(deduct("e", 5), reference="other")),
    )
    _, first, second, third, fourth = link.replies
    balances = [one["balanceAfter"] for one in (first, *second["items"], third, *fourth["items"])]
    assert balances == [9_999, 9_997, 9_994, 9_990, 9_985]


def test_operation_keeps_the_sender_of_the_message_that_was_judged(
    pipeline: Pipeline, engine: Engine
) -> None:
    process(pipeline, delivery(OPEN))
    process(
        pipeline,
        delivery(deduct("a"), user_id="ocr", app_id="scan"),
        delivery(batch(deduct("b"), deduct("c")), user_id="ocr", app_id="night"),
        delivery(deduct("d"), app_id="s\0an"),
        delivery(deduct("a"), user_id="other"),
    )
    process(pipeline, delivery(deduct("b"), user_id="other"))
    assert senders_of_operations(engine) == [
        ("a", "ocr", "scan"),
        ("b", "ocr", "night"),
        ("c", "ocr", "night"),
        ("d", "", "s\N{REPLACEMENT CHARACTER}an"),
        ("open", None, None),
    ]


def test_senders_are_kept_where_each_transaction_is_of_one_slot(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    slot_by_slot = make_pipeline(engine, catalog, metrics, Policy(), one_slot=True)
    items = (deduct("a"), deduct("b", userId="v"), deduct("c"))
    process(slot_by_slot, delivery(batch(*items), user_id="ocr"), delivery(deduct("d", userId="v")))
    assert senders_of_operations(engine) == [
        *((reference, "ocr", "") for reference in "abc"),
        ("d", None, None),
    ]


def test_each_attempt_keeps_its_own_sender(pipeline: Pipeline, engine: Engine) -> None:
    process(pipeline, delivery(deduct(), user_id="first"))
    process(pipeline, delivery(OPEN))
    process(pipeline, delivery(deduct(attempt=2), user_id="second"), delivery(deduct(), user_id="late"))
    assert senders_of_operations(engine) == [("d", "second", ""), ("open", None, None)]
    replaced = select(senders.c.broker_user).join(
        superseded_outcomes, superseded_outcomes.c.sender_id == senders.c.sender_id
    )
    with engine.connect() as connection:
        assert connection.execute(replaced).scalars().all() == ["first"]


def senders_of_operations(engine: Engine) -> list[tuple[str, str | None, str | None]]:
    """Return each reference with its sender, in the order of the references."""
    of_sender = operations.c.sender_id == senders.c.sender_id
    statement = select(operations.c.reference_id, senders.c.broker_user, senders.c.application)
    joined = statement.select_from(operations).outerjoin(senders, of_sender)
    with engine.connect() as connection:
        rows = connection.execute(joined.order_by(operations.c.reference_id))
        return [(reference, user, application) for reference, user, application in rows]


def test_a_redelivered_batch_is_a_duplicate_with_the_same_message_id(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    message = delivery(batch(deduct("a"), deduct("b", 10**6)))
    first, again = (process(pipeline, message).published[0] for _ in range(2))
    assert again.properties == first.properties
    assert again.body == first.body.replace(b'"duplicate":false', b'"duplicate":true')


def test_a_batch_is_a_duplicate_only_when_all_its_items_are(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN), delivery(deduct("a")))
    (reply,) = process(pipeline, delivery(batch(deduct("a"), deduct("b")))).replies
    assert reply["duplicate"] is False
    assert [item["duplicate"] for item in reply["items"]] == [True, False]


def test_one_item_is_counted_in_the_singular(pipeline: Pipeline) -> None:
    (reply,) = process(pipeline, delivery(batch(deduct()))).replies
    assert reply["message"] == "Processed 1 item: 0 applied, 1 rejected"


@pytest.mark.parametrize(("conflicts", "ending"), [(1, ""), (2, "It is one of 2 such items.")])
def test_conflict_in_a_batch_makes_one_dead_letter_that_names_the_item(
    pipeline: Pipeline, conflicts: int, ending: str
) -> None:
    process(pipeline, delivery(OPEN), delivery(deduct("a")), delivery(deduct("b")))
    message = delivery(batch(deduct("x"), deduct("a", 99), deduct("b", 99 if conflicts > 1 else 10)))
    link = process(pipeline, message)
    (dead,) = link.dead_letters
    about = dead_letter(dead)
    assert (about.reason, about.field) == ("reference_conflict", "items.1.tokens")
    assert (about.type, about.reference_id, about.user_id) == ("usage.batch", "batch", "u")
    assert "'a' names another operation" in about.message
    assert about.message.endswith(ending)
    assert dead.body == message.body
    assert link.replies[0]["rejected"] == conflicts


PREFIXED: Mapping[str, Sequence[str] | Mapping[str, str]] = {
    "usage.*": {"ocr": "ocr-", "app": ""},
    "account.*": ["app"],
}


def test_refusal_of_a_reference_names_the_prefix(engine: Engine, catalog: Catalog, metrics: Metrics) -> None:
    guarded = make_pipeline(engine, catalog, metrics, Policy(senders=PREFIXED))
    link = process(guarded, delivery(deduct("job-1"), user_id="ocr"))
    text = "'ocr' may send usage.deduct only with references that begin with 'ocr-'."
    (reply,) = link.replies
    assert (reply["status"], reply["reason"], reply["field"]) == ("failed", "wrong_sender", "referenceId")
    assert reply["message"] == dead_letter(link.dead_letters[0]).message == text


def test_malformed_item_is_answered_by_itself_and_makes_a_dead_letter_of_the_batch(
    pipeline: Pipeline, metrics: Metrics
) -> None:
    process(pipeline, delivery(OPEN), delivery(deduct("x", 1)))
    items = [deduct("a"), deduct("b", -1), deduct("c"), deduct("x", 2), {}]
    message = delivery(batch(*items), correlation_id="c")
    link = process(pipeline, message)
    (reply,) = link.replies
    assert reply["message"] == "Processed 5 items: 2 applied, 1 rejected, 2 malformed"
    assert (reply["applied"], reply["rejected"], reply["failed"]) == (2, 1, 2)
    assert [(one["status"], one["code"]) for one in reply["items"]] == [
        ("applied", "tokens_deducted"),
        ("failed", "malformed"),
        ("applied", "tokens_deducted"),
        ("rejected", "reference_conflict"),
        ("failed", "malformed"),
    ]
    bad = reply["items"][1]
    assert (bad["reason"], bad["field"], bad["referenceId"], bad["userId"], bad["type"]) == (
        *("invalid_field", "items.1.tokens", "b", "u", "usage.deduct"),
    )
    (dead,) = link.dead_letters
    about = dead_letter(dead)
    assert (about.reason, about.field, about.reference_id) == ("invalid_field", "items.1.tokens", "batch")
    assert about.message.endswith("It is one of 2 such items. 1 more are in conflict with their references.")
    assert dead.body == message.body
    assert counts(metrics.outcomes)["failed", "malformed"] == 2
    assert pipeline.limit.most_faults == 0


def test_redelivered_batch_with_a_malformed_item_gets_the_same_reply(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    message = delivery(batch(deduct("a"), deduct("b", -1)))
    first, again = (process(pipeline, message).replies[0] for _ in range(2))
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["items"][1] == again["items"][1]
    assert first["items"][0] | {"duplicate": True} == again["items"][0]


def test_batch_of_malformed_items_alone_moves_nothing(pipeline: Pipeline) -> None:
    message = delivery(batch(deduct("a", -1), {}))
    for link in (process(pipeline, message), process(pipeline, message, delivery(OPEN))):
        reply = link.replies[0]
        assert (reply["status"], reply["code"], reply["duplicate"]) == ("applied", "batch_processed", False)
        assert (reply["applied"], reply["rejected"], reply["failed"]) == (0, 0, 2)
        assert len(link.dead_letters) == 1
        assert link.acknowledged[0] == message


# -- notices ----------------------------------------------------------------------------------------------

NEARLY_ALL = deduct("much", 9_500)
THE_REST = deduct("rest", 500)


def counted_notices(metrics: Metrics, type_: str, outcome: str) -> float | None:
    labels = {"type": type_, "outcome": outcome}
    return metrics.registry.get_sample_value("billing_worker_notices_total", labels)


def test_notice_is_published_after_the_reply_and_before_the_acknowledgement(
    pipeline: Pipeline, metrics: Metrics
) -> None:
    process(pipeline, delivery(OPEN))
    link = FakeLink()
    order: list[tuple[int, int, int]] = []
    link.on_publish = lambda: order.append((len(link.published), len(link.notices), len(link.acknowledged)))
    process(pipeline, delivery(NEARLY_ALL), delivery(THE_REST), link=link)
    assert order == [(0, 0, 0), (2, 0, 0)]
    low, depleted = link.notices
    assert (low.routing_key, depleted.routing_key) == ("balance.low", "balance.depleted")
    notice = Notice.model_validate_json(low.body)
    assert (notice.type, notice.user_id, notice.reference_id) == ("balance.low", "u", "much")
    assert (notice.available, notice.mark, notice.recorded_at) == (500, 1_000, NOW)
    assert low.properties == {
        "content_type": "application/json",
        "type": "balance.low",
        "app_id": "billing-worker",
        "message_id": notice.id,
    }
    assert notice.id != Notice.model_validate_json(depleted.body).id
    assert counted_notices(metrics, "balance.low", "published") == 1


def test_a_redelivery_brings_the_same_notice_again(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    first, again = (process(pipeline, delivery(NEARLY_ALL)).notices[0] for _ in range(2))
    assert (again.body, again.properties) == (first.body, first.properties)


def test_notices_of_a_batch_are_those_of_its_items(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    link = process(pipeline, delivery(batch(NEARLY_ALL, deduct(), THE_REST)))
    sent = [Notice.model_validate_json(message.body) for message in link.notices]
    assert [(notice.type, notice.reference_id) for notice in sent] == [("balance.low", "much")]


def test_notice_without_listener_is_counted_and_dropped(
    pipeline: Pipeline, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    process(pipeline, delivery(OPEN))
    link = FakeLink()
    link.unroutable = {"balance.low"}
    process(pipeline, delivery(NEARLY_ALL), link=link)
    assert len(link.acknowledged) == 1
    assert link.dead_letters == []
    assert counted_notices(metrics, "balance.low", "returned") == 1
    assert metrics.registry.get_sample_value("billing_worker_unroutable_replies_total") == 0
    assert caplog.text == ""


def test_refused_notice_becomes_a_dead_letter(pipeline: Pipeline, metrics: Metrics) -> None:
    process(pipeline, delivery(OPEN))
    link = FakeLink()
    link.refusing = {"balance.low"}
    process(pipeline, delivery(NEARLY_ALL), delivery(THE_REST), link=link)
    assert len(link.acknowledged) == 2
    (dead,) = link.dead_letters
    about = dead_letter(dead)
    assert (about.reason, about.type) == ("notice_refused", "balance.low")
    assert (about.reference_id, about.user_id) == ("much", "u")
    assert (about.exchange, about.routing_key) == (BILLING.events, "balance.low")
    assert Notice.model_validate_json(dead.body).available == 500
    assert dead.properties["message_id"] == Notice.model_validate_json(dead.body).id
    assert counted_notices(metrics, "balance.low", "refused") == 1
    assert [message.routing_key for message in link.notices] == ["balance.depleted"]
    again = FakeLink()
    again.refusing = {"balance.low"}
    process(pipeline, delivery(NEARLY_ALL), link=again)
    assert dead_letter(again.dead_letters[0]).letter_id == about.letter_id


def test_refused_notice_is_held_while_the_dead_letter_queue_is_full(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    link = FakeLink()
    link.refusing = {"balance.low", "billing.dead"}
    items = pipeline.receive([delivery(NEARLY_ALL)])
    for _ in range(2):
        with pytest.raises(UnansweredError, match=r"billing\.dead"):
            through(pipeline, link, items)
    link.refusing = {"balance.low"}
    through(pipeline, link, items)
    assert len(link.published) == 2  # the reply and the dead letter, each once
    assert len(link.acknowledged) == 1


def test_missing_event_exchange_holds_the_notice_alone(pipeline: Pipeline) -> None:
    process(pipeline, delivery(OPEN))
    link = FakeLink()

    def missing() -> None:
        if link.published:
            raise BrokerUnavailableError("NOT_FOUND - no exchange: run `billing-worker topology declare`")

    link.on_publish = missing
    items = pipeline.receive([delivery(NEARLY_ALL)])
    for _ in range(3):
        with pytest.raises(UnansweredError, match="topology declare"):
            through(pipeline, link, items)
    assert len(link.published) == 1
    assert link.acknowledged == []
    link.on_publish = lambda: None
    through(pipeline, link, items)
    assert [message.exchange for message in link.published] == ["", BILLING.events]
    assert len(link.acknowledged) == 1


# -- the scheduler's messages -----------------------------------------------------------------------------

DUE = {"type": "account.settle", "referenceId": "due:1", "userId": "u"}


def test_scheduler_gets_no_reply(pipeline: Pipeline, engine: Engine) -> None:
    scheduled: dict[str, Any] = {"app_id": SCHEDULER_APP_ID, "message_id": "due:1"}
    deliveries = [delivery(OPEN), delivery(DUE, **scheduled), delivery({**DUE, "x": 1}, **scheduled)]
    link = process(pipeline, *deliveries)
    assert codes(link) == ["account_opened"]
    assert [dead_letter(message).reason for message in link.dead_letters] == ["unknown_field"]
    assert link.acknowledged == deliveries
    assert audit(engine).is_clean


@pytest.mark.parametrize(
    "properties", [{}, {"app_id": SCHEDULER_APP_ID, "reply_to": "billing.replies.me"}, {"app_id": "app"}]
)
def test_other_senders_of_account_settle_get_a_reply(pipeline: Pipeline, properties: dict[str, Any]) -> None:
    link = process(pipeline, delivery(OPEN), delivery(DUE, **properties))
    assert codes(link) == ["account_opened", "account_settled"]


# -- faults -----------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make ``decide`` fail for a batch with the reference ``poison``; record the size of each decision."""
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
    process(pipeline, delivery(OPEN))
    references = [f"d{n}" for n in range(8)]
    references.insert(position, "poison")
    link = process(pipeline, *(delivery(deduct(reference)) for reference in references))
    by_reference = {reply["referenceId"]: reply["code"] for reply in link.replies}
    assert by_reference == dict.fromkeys(references, "tokens_deducted") | {"poison": "unprocessable"}
    (message,) = link.dead_letters
    found = dead_letter(message)
    assert (found.reason, found.attempts) == ("unprocessable", 3)
    assert "ZeroDivisionError: a bug met by one message" in (found.traceback or "")
    assert "ZeroDivisionError" not in str(link.replies)
    assert audit(engine).is_clean


@pytest.mark.parametrize("position", range(5))
def test_fault_in_a_command_batch_fails_that_batch_alone(
    pipeline: Pipeline, poisoned: list[int], engine: Engine, position: int
) -> None:
    process(pipeline, delivery(OPEN))
    messages = [deduct(f"d{n}") for n in range(4)]
    messages.insert(position, batch(*(deduct(f"b{n}") for n in range(5)), deduct("poison")))
    link = process(pipeline, *(delivery(message) for message in messages))
    by_reference = {reply["referenceId"]: reply["code"] for reply in link.replies}
    assert by_reference == {f"d{n}": "tokens_deducted" for n in range(4)} | {"batch": "unprocessable"}
    (dead,) = link.dead_letters
    assert (dead_letter(dead).reference_id, dead_letter(dead).type) == ("batch", "usage.batch")
    assert poisoned.count(6) == 3, "its items share their transaction at each of the tries"
    report = audit(engine)
    assert report.is_clean
    assert report.examined["entries"] == 5, "the batch has moved nothing"


def test_a_fault_gets_a_bounded_number_of_tries(pipeline: Pipeline, poisoned: list[int]) -> None:
    process(pipeline, delivery(deduct("poison")))
    assert poisoned == [1, 1, 1]


def test_a_balance_past_64_bits_is_one_messages_fault(
    engine: Engine, catalog: Catalog, metrics: Metrics
) -> None:
    from schemas import Limits

    pipeline = make_pipeline(engine, catalog, metrics, Policy(limits=Limits(max_quantity=2**63 - 1)))
    bonus = {"type": "credit.bonus", "userId": "u", "tokens": 2**63 - 1}
    link = process(pipeline, delivery(OPEN), delivery({**bonus, "referenceId": "huge"}), delivery(deduct()))
    assert sorted(codes(link)) == ["account_opened", "tokens_deducted", "unprocessable"]
    assert audit(engine).is_clean


@pytest.mark.parametrize(
    "error",
    [
        LedgerUnavailableError("down"),
        BrokerUnavailableError("down"),
        UnsupportedStatementError("lock_accounts"),
    ],
)
def test_fault_of_a_server_makes_no_dead_letter(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def down(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(pipeline_module, "decide", down)
    link = FakeLink()
    with pytest.raises(type(error)):
        process(pipeline, delivery(OPEN), delivery(deduct()), link=link)
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
    assert codes(process(pipeline, delivery(OPEN))) == ["account_opened"]
    assert metrics.registry.get_sample_value("billing_worker_contention_retries_total") == 3
    failures = iter([ContentionError("deadlock")] * 100)
    with pytest.raises(LedgerUnavailableError, match="contended"):
        process(pipeline, delivery(deduct()))


# -- crashes ----------------------------------------------------------------------------------------------


class CrashError(BaseException):
    """End of the process, which nothing catches."""


@pytest.mark.parametrize("step", ["load", "decide", "write", "commit", "publish", "acknowledge"])
def test_after_a_crash_at_any_step_redelivery_ends_in_the_same_ledger_and_reply(
    pipeline: Pipeline, engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    process(pipeline, delivery(OPEN))
    messages = [delivery(deduct("a")), delivery(deduct("b", 10**9)), delivery(b"broken")]
    link = FakeLink()

    def crash(*_: Any, **__: Any) -> Any:
        raise CrashError

    with monkeypatch.context() as patched:
        match step:
            case "load":
                patched.setattr(store, "load", crash)
            case "write":
                patched.setattr(LedgerTransaction, step, crash)
            case "decide":
                patched.setattr(pipeline_module, "decide", crash)
            case "commit":
                patched.setattr(Pipeline, "reply", crash)
            case "publish":
                link.on_publish = crash
            case "acknowledge":
                patched.setattr(link, "acknowledge", crash)
        with pytest.raises(CrashError):
            process(pipeline, *messages, link=link)
    assert link.acknowledged == []
    again = process(pipeline, *messages)
    assert codes(again) == ["tokens_deducted", "insufficient_balance"]
    assert len(again.dead_letters) == 1
    committed = step in {"commit", "publish", "acknowledge"}
    assert [reply["duplicate"] for reply in again.replies] == [committed, committed]
    report = audit(engine)
    assert report.is_clean
    assert report.examined["entries"] == 2


def test_batch_after_a_lost_broker_is_applied_once(pipeline: Pipeline, engine: Engine) -> None:
    link = FakeLink()
    items = pipeline.receive([delivery(OPEN), delivery(deduct())])
    link.on_publish = lost
    with pytest.raises(BrokerUnavailableError):
        through(pipeline, link, items)
    link.on_publish = lambda: None
    through(pipeline, link, items)
    assert [reply["duplicate"] for reply in link.replies] == [False, False]
    assert audit(engine).examined["entries"] == 2
