"""The flood limit: what is a flood, who can bring it about, and what the pipeline and the loop do at one."""

import logging
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command
from tests.support.fakes import FakeLink, delivery
from worker import pipeline as pipeline_module
from worker.broker import Delivery, Link
from worker.catalog import Catalog
from worker.consumer import Consumer, Pace
from worker.core import decide
from worker.errors import LedgerUnavailableError
from worker.flood import Finding, Flood, FloodError, FloodLimit
from worker.ledger.store import Ledger
from worker.metrics import Metrics
from worker.pipeline import Pipeline, UnansweredError
from worker.policy import Policy

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
FAULT = Finding("unprocessable", "app", is_fault=True)
GOOD = None


def refused(sender: str | None = "app") -> Finding:
    return Finding("invalid_field", sender)


def sent_until_the_flood(flood: Flood, findings: Sequence[Finding | None]) -> int:
    """How many letters go out, where each message is a batch of its own."""
    return sum(finding is not None for finding in findings if flood.admits([finding]))


# -- in a row ---------------------------------------------------------------------------------------------


def test_exactly_as_many_faults_in_a_row_as_the_limit_become_letters() -> None:
    flood = Flood(FloodLimit(in_a_row=7))
    assert sent_until_the_flood(flood, [FAULT] * 50) == 7
    assert flood.verdict is not None


def test_at_the_limit_is_no_flood_yet() -> None:
    flood = Flood(FloodLimit(in_a_row=7))
    assert flood.admits([FAULT] * 7)
    assert flood.admits([GOOD])
    assert flood.admits([FAULT] * 7)
    assert flood.verdict is None


def test_a_batch_that_passes_the_limit_keeps_all_its_letters() -> None:
    flood = Flood(FloodLimit(in_a_row=7))
    assert flood.admits([FAULT] * 5)
    assert not flood.admits([FAULT, FAULT, FAULT, GOOD, GOOD])


def test_a_row_in_the_middle_of_a_batch_is_one_too() -> None:
    assert not Flood(FloodLimit(in_a_row=3)).admits([GOOD, *[FAULT] * 4, GOOD])


def test_a_row_goes_over_from_batch_to_batch() -> None:
    flood = Flood(FloodLimit(in_a_row=3))
    assert flood.admits([GOOD, FAULT, FAULT])
    assert not flood.admits([FAULT, FAULT, GOOD])


def test_refusals_neither_make_a_row_nor_end_one() -> None:
    flood = Flood(FloodLimit(in_a_row=3))
    assert flood.admits([FAULT, refused(), FAULT, *[refused()] * 9, FAULT])
    assert flood.in_a_row == 3
    assert not flood.admits([FAULT])


def test_a_verdict_stands_and_what_is_good_goes_on() -> None:
    flood = Flood(FloodLimit(in_a_row=1))
    assert not flood.admits([FAULT, FAULT])
    first = flood.verdict
    assert flood.admits([GOOD, GOOD])
    assert not flood.admits([refused()])
    assert flood.verdict is first


# -- share ------------------------------------------------------------------------------------------------


def test_more_than_the_share_of_the_last_messages_is_a_flood() -> None:
    flood = Flood()
    assert sent_until_the_flood(flood, [GOOD, FAULT, FAULT] * 200) == flood.limit.least
    assert "BILLING_FLOOD_SHARE" in str(flood.verdict)


def test_exactly_the_share_is_none() -> None:
    flood = Flood()
    assert flood.admits([GOOD, FAULT] * 5_000)


def test_a_few_letters_on_a_quiet_queue_are_no_flood() -> None:
    flood = Flood(FloodLimit(in_a_row=0))
    assert flood.admits([FAULT] * flood.limit.least)


def test_what_was_long_ago_does_not_count() -> None:
    flood = Flood(FloodLimit(in_a_row=0))
    for _ in range(50):
        assert flood.admits([FAULT] * flood.limit.least)
        assert flood.admits([GOOD] * flood.limit.window)


def test_one_in_twenty_goes_on_for_ever() -> None:
    rng = random.Random(5)
    flood = Flood()
    stream = [
        rng.choice([FAULT, refused("a"), refused("b")]) if rng.random() < 0.05 else GOOD
        for _ in range(50_000)
    ]
    assert all(flood.admits(stream[at : at + 500]) for at in range(0, len(stream), 500))


# -- who can bring it about -------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[], [GOOD], [GOOD, GOOD, refused("b")]])
def test_one_bad_producer_stops_nobody_however_much_it_sends(others: list[Finding | None]) -> None:
    flood = Flood()
    assert flood.admits([GOOD])
    for _ in range(30):
        assert flood.admits([*[refused("bad")] * 200, *others])


def test_a_new_worker_that_refuses_a_whole_window_of_the_only_producer_stops() -> None:
    flood = Flood()
    assert sent_until_the_flood(flood, [refused("main-app")] * 5_000) == flood.limit.window - 1
    assert "BILLING_FLOOD_SHARE" in str(flood.verdict)
    assert Flood(FloodLimit(share=0)).admits([refused("main-app")] * 5_000)


def test_what_refuses_everybody_is_a_flood_even_where_nearly_all_comes_from_one() -> None:
    flood = Flood()
    everybody = [*[refused("main-app")] * 95, *[refused("gateway")] * 3, *[refused("uploads")] * 2]
    assert sent_until_the_flood(flood, everybody * 20) <= flood.limit.window


def test_where_the_broker_vouches_for_nobody_nobody_is_left_out() -> None:
    flood = Flood()
    stream = [GOOD, refused(None), refused(None)] * 2_000
    assert sent_until_the_flood(flood, stream) <= flood.limit.window * flood.limit.share


def test_a_bad_producer_does_not_hide_a_bug() -> None:
    flood = Flood()
    stream = [refused("bad"), refused("bad"), GOOD, FAULT, FAULT] * 400
    assert sent_until_the_flood(flood, stream) < flood.limit.window


def test_two_refused_now_and_then_beside_a_bad_producer_are_few() -> None:
    flood = Flood()
    few = [*[refused("b")] * 10, *[refused("c")] * 10]
    assert flood.admits([*[refused("bad")] * 900, *few])


# -- off, and what is said --------------------------------------------------------------------------------


def test_zero_switches_a_limit_off() -> None:
    assert Flood(FloodLimit(in_a_row=0, share=0)).admits([FAULT] * 5_000)
    assert Flood(FloodLimit(share=0)).admits([FAULT, FAULT, GOOD] * 5_000)


def test_the_verdict_names_the_limit_the_share_the_commonest_reason_and_the_way_out() -> None:
    flood = Flood(FloodLimit(in_a_row=3))
    flood.admits([GOOD] * 3 + [refused()] * 2)
    flood.admits([FAULT] * 9)
    said = str(flood.verdict)
    assert "4 faults in a row, and 3 are the limit (BILLING_FLOOD_IN_A_ROW)" in said
    assert "of the last 9 messages 6 (67%)" in said
    assert "reason unprocessable" in said
    assert "`billing-worker dead-letters groups`" in said
    assert "start the worker again" in said


def test_what_is_counted_is_what_a_plain_recount_finds() -> None:
    rng = random.Random(11)
    limit = FloodLimit(in_a_row=6, window=40, least=10, least_beyond=3)
    for _ in range(300):
        flood, seen = Flood(limit), list[Finding | None]()
        kinds = rng.choices([GOOD, FAULT, refused("a"), refused("b"), refused("c"), refused(None)], k=3)
        while len(seen) < 200:
            batch = rng.choices(kinds, k=rng.randint(0, 12))
            expected = any(recounted([*seen, *batch[: n + 1]], limit) for n in range(len(batch)))
            assert flood.admits(batch) is not expected
            if expected:
                break
            seen += batch


def recounted(seen: Sequence[Finding | None], limit: FloodLimit) -> bool:
    """Whether the last of ``seen`` is a letter too many, counted from the beginning."""
    row = 0
    for finding in seen:
        row = 0 if finding is None else row + finding.is_fault
    letters = [finding for finding in seen[-limit.window :] if finding is not None]
    senders = [one.sender for one in letters if one.sender is not None and not one.is_fault]
    loudest = max((senders.count(sender) for sender in set(senders)), default=0)
    rest, messages = len(letters) - loudest, min(len(seen), limit.window) - loudest
    is_share = len(letters) > limit.least and rest > limit.least_beyond and rest > limit.share * messages
    is_share |= len(letters) >= limit.window and None not in seen
    return row > limit.in_a_row or is_share


# -- the pipeline -----------------------------------------------------------------------------------------

OPEN = {"type": "account.open", "referenceId": "open", "userId": "u", "tier": "free"}
Tries = list[int]


def deduct(reference: str, **properties: Any) -> Delivery:
    message = {"type": "usage.deduct", "referenceId": reference, "userId": "u", "tokens": 1}
    return delivery(message, correlation_id=reference, **properties)


def bad(count: int, **properties: Any) -> list[Delivery]:
    return [deduct(f"bad-{number}", **properties) for number in range(count)]


def good(count: int) -> list[Delivery]:
    return [deduct(f"good-{number}") for number in range(count)]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Tries:
    """A bug on every command whose reference begins with ``bad``; the sizes of what was decided at once."""
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
    def made(**limits: Any) -> Pipeline:
        return Pipeline(
            Ledger(engine),
            catalog,
            Policy(),
            clock=lambda: NOW,
            pause=lambda _: None,
            metrics=metrics,
            flood=Flood(FloodLimit(**limits)),
        )

    return made


def settle(pipeline: Pipeline, deliveries: Sequence[Delivery], link: FakeLink | None = None) -> FakeLink:
    link = link or FakeLink()
    items = pipeline.receive(deliveries)
    pipeline.apply(items)
    pipeline.tell(link, items)
    return link


def test_the_batch_that_passes_the_limit_keeps_its_messages_and_answers_what_is_good(
    make: Make, tries: Tries, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    first, faulty, last = [delivery(OPEN), *good(2)], bad(4), [deduct("good-last")]
    link = settle(make(in_a_row=3), [*first, *faulty, *last])
    assert link.letters == []
    assert len(link.replies) == 3
    assert link.acknowledged == first
    assert metrics.registry.get_sample_value("billing_worker_flooded") == 1
    (said,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "flood of dead letters" in said.getMessage()


def test_up_to_the_limit_they_are_letters_like_any_other(make: Make, tries: Tries, metrics: Metrics) -> None:
    pipeline = make(in_a_row=3)
    deliveries = [delivery(OPEN), *bad(3)]
    link = settle(pipeline, deliveries)
    assert len(link.letters) == 3
    assert link.acknowledged == deliveries
    assert metrics.registry.get_sample_value("billing_worker_faults_in_a_row") == 3
    assert metrics.registry.get_sample_value("billing_worker_flooded") == 0
    settle(pipeline, good(1))
    assert metrics.registry.get_sample_value("billing_worker_faults_in_a_row") == 0


def test_a_batch_in_which_every_message_meets_a_bug_is_not_isolated_to_its_end(
    make: Make, tries: Tries
) -> None:
    pipeline = make(in_a_row=10)
    link = settle(pipeline, bad(500))
    assert link.acknowledged == []
    assert len(tries) < 60  # 11 messages of 3 tries, and the halves that lead there
    assert pipeline.flood.verdict is not None


def test_faults_with_successes_between_them_are_isolated_to_the_end(make: Make, tries: Tries) -> None:
    pipeline = make(in_a_row=3)
    settle(pipeline, [delivery(OPEN)])
    deliveries = [one for pair in zip(bad(12), good(12), strict=True) for one in pair]
    link = settle(pipeline, deliveries)
    assert link.acknowledged == deliveries
    assert len(link.letters) == 12
    assert pipeline.flood.verdict is None


def test_after_the_verdict_no_letter_is_sent_and_nothing_more_is_tried(make: Make, tries: Tries) -> None:
    pipeline = make(in_a_row=1)
    settle(pipeline, bad(2))
    tries.clear()
    link = settle(pipeline, [delivery(b"broken"), *bad(3), delivery(OPEN)])
    assert (link.published, link.acknowledged, tries) == ([], [], [])


def test_what_was_decided_before_the_verdict_is_told_after_it(make: Make, tries: Tries) -> None:
    """The ledger has the next batch while the broker is told of the one in which the flood is seen."""
    pipeline, link = make(in_a_row=1), FakeLink()
    before, after = (
        pipeline.receive(bad(2)),
        pipeline.receive([delivery(OPEN), delivery(b"broken"), *good(1)]),
    )
    pipeline.apply(before)
    pipeline.apply(after)
    pipeline.tell(link, before)
    pipeline.tell(link, after)
    assert [reply["status"] for reply in link.replies] == ["applied", "applied"]
    assert link.letters == []
    assert len(link.acknowledged) == 2


def test_a_fault_in_writing_replies_floods_too(
    make: Make, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.correspondence.reply_for", broken)
    link = settle(make(in_a_row=2), [delivery(OPEN), *good(3)])
    assert (link.published, link.acknowledged) == ([], [])


def test_a_batch_that_is_told_again_is_judged_once(make: Make, tries: Tries) -> None:
    pipeline, link = make(in_a_row=3), FakeLink()
    link.refusing = {"billing.dead"}
    items = pipeline.receive(bad(2))
    pipeline.apply(items)
    for _ in range(5):
        with pytest.raises(UnansweredError):
            pipeline.tell(link, items)
    link.refusing = set()
    pipeline.tell(link, items)
    assert pipeline.flood.in_a_row == 2
    assert len(link.acknowledged) == 2


def test_an_outage_in_the_middle_of_isolating_loses_no_count(
    make: Make, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, link = make(in_a_row=4), FakeLink()
    items, transact = pipeline.receive(bad(6)), pipeline.transact

    def away(batch: Any) -> None:
        if len(tries) == 12:
            tries.append(0)
            raise LedgerUnavailableError("down")
        transact(batch)

    monkeypatch.setattr(pipeline, "transact", away)
    with pytest.raises(LedgerUnavailableError):
        pipeline.apply(items)
    pipeline.apply(items)
    pipeline.tell(link, items)
    assert pipeline.flood.verdict is not None
    assert (link.published, link.acknowledged) == ([], [])


def test_malformed_messages_of_one_sender_stop_nobody(make: Make, tries: Tries) -> None:
    pipeline = make()
    settle(pipeline, [delivery(OPEN)])
    for _ in range(4):
        settle(pipeline, [delivery(b"broken", user_id="bad") for _ in range(500)])
    link = settle(pipeline, good(1))
    assert len(link.replies) == 1
    assert pipeline.flood.verdict is None


@pytest.mark.parametrize(
    "senders",
    [
        [{"user_id": "app"}, {"user_id": "gateway"}],
        [{"queue": "billing.usage"}, {"queue": "billing.payments"}],
        [{}],
    ],
)
def test_malformed_messages_of_everybody_stop_the_worker(
    make: Make, senders: Sequence[dict[str, Any]]
) -> None:
    pipeline, sent = make(), 0
    for _ in range(200):
        sent += len(settle(pipeline, [delivery(b"broken", **sender) for sender in senders]).letters)
    assert pipeline.flood.verdict is not None
    assert sent <= pipeline.flood.limit.least


# -- the loop ---------------------------------------------------------------------------------------------


class Never:
    requested = False

    def wait(self, seconds: float) -> None:
        raise AssertionError("nothing is away")


def loop(pipeline: Pipeline, link: FakeLink, held: list[int] | None = None) -> Consumer:
    def connect(prefetch: int) -> Link:
        link.prefetch = prefetch
        if held is not None:
            held.append(prefetch)
        return link

    ledger: Any = pipeline._ledger
    return Consumer(
        connect,
        ledger,
        pipeline,
        pace=Pace(batch_size=5),
        stop=Never(),
        rng=random.Random(1),
        metrics=pipeline._metrics,
    )


def test_the_loop_ends_at_a_flood_with_no_more_letters_than_the_limit(make: Make, tries: Tries) -> None:
    link = FakeLink(delivery(OPEN), *good(20), *bad(100))
    with pytest.raises(FloodError, match="dead-letters groups"):
        loop(make(in_a_row=12), link).run(drain=True)
    assert len(link.letters) <= 12
    assert len(link.acknowledged) == 21 + len(link.letters)
    assert link.closed
    assert len(link.arriving) > 70


def test_a_loop_that_begins_in_the_flood_holds_one_message_at_a_time(make: Make, tries: Tries) -> None:
    link, held = FakeLink(*bad(100)), list[int]()
    with pytest.raises(FloodError):
        loop(make(in_a_row=12), link, held).run(drain=True)
    assert held == [1]
    assert len(link.letters) == 12
    assert len(link.arriving) == 100 - 12 - 1


def test_a_loop_whose_first_messages_are_faulty_takes_full_hands_once_one_is_settled(
    make: Make, tries: Tries
) -> None:
    link, held = FakeLink(*bad(3), delivery(OPEN), *good(9)), list[int]()
    loop(make(in_a_row=12), link, held).run(drain=True)
    assert held == [1, Pace().prefetch]
    assert len(link.acknowledged) == 13


def test_a_queue_that_runs_empty_in_a_row_of_faults_ends_the_care(make: Make, tries: Tries) -> None:
    link, held = FakeLink(*bad(3)), list[int]()
    loop(make(in_a_row=12), link, held).run(drain=True)
    assert held == [1, Pace().prefetch]
    assert len(link.letters) == 3
