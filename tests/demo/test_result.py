"""Result of a demo: collected messages and problems."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from schemas import Code, Notice, Reply, Status
from worker.broker import Delivery
from worker.demo.collector import Collector
from worker.demo.result import DemoResult
from worker.demo.scenario import DemoMessage
from worker.demo.statistics import count_outcomes
from worker.demo.stored_notices import StoredNotice
from worker.ledger.audit import AuditReport

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def _result(
    *replies: tuple[str, Reply],
    codes: dict[str, int | None] | None = None,
    stored: Sequence[StoredNotice] = (),
    received: Sequence[Notice] = (),
) -> DemoResult:
    sent = {f"id-{number}": DemoMessage("deduct", f"m-{number}", "usage.deduct", b"{}") for number in (1, 2)}
    collector = Collector(sent)
    collector.add_replies(_deliveries(replies))
    collector.add_notices(Delivery(notice.to_json(), "n", "", notice.type, 1) for notice in received)
    report = AuditReport((), found={}, drift=0, debtors=0, debt=0, uncollected=0, examined={})
    return DemoResult(collector, report, stored, {"worker": 0} if codes is None else codes, 1.0)


def _deliveries(replies: tuple[tuple[str, Reply], ...]) -> Iterator[Delivery]:
    for correlation_id, reply in replies:
        yield Delivery(reply.to_json(), "q", "", "q", 1, properties={"correlation_id": correlation_id})


def _reply(status: Status, code: Code) -> Reply:
    return Reply(status=status, code=code, message="")


_APPLIED = _reply(Status.APPLIED, Code.TOKENS_DEDUCTED)


def test_demo_has_no_problem_when_each_message_has_its_reply() -> None:
    assert _result(("id-1", _APPLIED), ("id-2", _APPLIED), ("id-2", _APPLIED)).problems() == []


def test_message_without_reply_and_dead_letter_is_a_problem() -> None:
    (problem,) = _result(("id-2", _APPLIED), ("of-another", _APPLIED)).problems()

    assert problem == "deduct (correlation id id-1): neither a reply nor a dead letter"


@pytest.mark.parametrize(
    "reply",
    [_reply(Status.FAILED, Code.MALFORMED), _reply(Status.REJECTED, Code.REFERENCE_CONFLICT)],
)
def test_reply_that_announces_a_missing_dead_letter_is_a_problem(reply: Reply) -> None:
    (problem,) = _result(("id-1", _APPLIED), ("id-2", reply)).problems()

    assert problem == "deduct (correlation id id-2): its dead letter is missing"


def test_worker_exit_code_is_a_problem() -> None:
    (problem,) = _result(("id-1", _APPLIED), ("id-2", _APPLIED), codes={"worker": 1}).problems()

    assert problem == "the worker ended with 1"


def test_stored_notice_that_reached_no_queue_is_a_problem() -> None:
    low = Notice(type="balance.low", id="n-1", user_id="u", reference_id="r-1", recorded_at=NOW)
    stored = [("r-1", "balance.low"), ("r-1", "balance.depleted")]

    (problem,) = _result(
        ("id-1", _APPLIED), ("id-2", _APPLIED), stored=stored, received=[low, low]
    ).problems()

    assert problem == "balance.depleted of r-1: no queue got the notice"


def test_notices_of_other_producers_are_not_counted() -> None:
    own, others = (
        Notice(type="balance.low", id=name, user_id="u", reference_id=name, recorded_at=NOW)
        for name in ("r-1", "not-ours")
    )
    first = _APPLIED.model_copy(update={"reference_id": "r-1"})
    result = _result(("id-1", first), ("id-2", _APPLIED), received=[own, others])

    assert result.collector.own_notices() == [own]
    assert result.problems() == []


def test_items_of_batches_are_counted_apart() -> None:
    items = (_APPLIED, _APPLIED.model_copy(update={"duplicate": True}))
    batch = _reply(Status.APPLIED, Code.BATCH_PROCESSED).model_copy(
        update={"type": "usage.batch", "items": items}
    )
    collector = _result(("id-1", batch), ("id-2", _APPLIED)).collector

    assert [(row.code, row.first, row.again) for row in count_outcomes(collector.replies.values())] == [
        ("batch_processed", 1, 0),
        ("tokens_deducted", 1, 0),
    ]
    assert [(row.code, row.first, row.again) for row in count_outcomes(collector.item_replies())] == [
        ("tokens_deducted", 1, 1)
    ]
