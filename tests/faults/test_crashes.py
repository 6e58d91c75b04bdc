"""Kill -9 at every step of the pipeline: nothing is lost or doubled, same reply, every notice."""

import signal

import pytest

from schemas import DeadLetter
from tests.support.expected_state import ExpectedState, content_of, every_reply, nothing_is_left, publish_some
from tests.support.fault_injection import CRASH_POINTS, CrashingWorkers
from tests.support.notice_listener import NoticeListener
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING

BATCH = 20
COUNT = 66
#: The second batch comes from both queues, which are acknowledged one after the other.
NTH = {"acknowledging": 3}

#: Steps by the traces that a crash there leaves; see the table in the design.
NOTHING = ("received", "decoded", "loaded", "decided", "written")
EFFECTS = ("committed",)
SOME_REPLIES = ("replying", "replied")
REPLIES = ("noticing", "confirmed")
SOME_ACKNOWLEDGEMENTS = ("acknowledging", "acknowledged")


def test_every_step_of_the_pipeline_has_a_crash_point() -> None:
    assert (*NOTHING, *EFFECTS, *SOME_REPLIES, *REPLIES, *SOME_ACKNOWLEDGEMENTS) == tuple(CRASH_POINTS)


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
def test_crash_loses_no_message_and_applies_none_twice(
    crash_point: str, application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    missing = crash_and_take_over(crash_point, NTH.get(crash_point, 2), application, crashing_workers, rabbit)
    assert missing or crash_point not in {*NOTHING, *EFFECTS, "noticing"}, "the crash came too late"


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2, 3])  # of four: after the last batch nothing shows that all came twice
@pytest.mark.parametrize("crash_point", CRASH_POINTS)
def test_crash_in_any_batch_loses_no_message_and_applies_none_twice(
    crash_point: str,
    nth: int,
    application: Application,
    crashing_workers: CrashingWorkers,
    rabbit: RabbitClient,
) -> None:
    crash_and_take_over(crash_point, nth, application, crashing_workers, rabbit)


@pytest.mark.slow
def test_crashes_at_every_step_in_turn_lose_no_message_and_apply_none_twice(
    application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    state, listener = ExpectedState(application.engine), NoticeListener(rabbit)
    publish_some(rabbit, state, COUNT * len(CRASH_POINTS))
    for crash_point in CRASH_POINTS:
        crash(crashing_workers, crash_point, 2)
    with running(application):
        replies = every_reply(rabbit, state.correlations)
        listener.expect(state.noticed)
    state.check(replies)
    nothing_is_left(rabbit)


def crash_and_take_over(
    crash_point: str,
    nth: int,
    application: Application,
    crashing_workers: CrashingWorkers,
    rabbit: RabbitClient,
) -> set[tuple[str, str]]:
    """Crash a worker, let another take over; return the notices that had not come at the crash."""
    state, listener = ExpectedState(application.engine), NoticeListener(rabbit)
    publish_some(rabbit, state, 12)
    broken = rabbit.publish(b'{"type": "usage.deduct", ', routing_key="usage.deduct")
    publish_some(rabbit, state, COUNT - 12, prefix="n")
    crash(crashing_workers, crash_point, nth)
    missing = state.noticed - listener.received()
    with running(application):
        replies = every_reply(rabbit, {*state.correlations, broken})
        listener.expect(state.noticed)
    state.check(replies)
    assert_left_behind(crash_point, state, replies)
    assert {reply["reason"] for reply in replies[broken]} == {"not_json"}
    assert_one_dead_letter(rabbit)
    nothing_is_left(rabbit)
    return missing


def crash(crashing_workers: CrashingWorkers, crash_point: str, nth: int) -> None:
    process = crashing_workers.start_at(crash_point, nth, batch_size=BATCH)
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL


def assert_left_behind(
    crash_point: str, state: ExpectedState, replies: dict[str, list[dict[str, object]]]
) -> None:
    """Assert the traces of the crash. The batch before or behind is somewhere between ledger and broker."""
    duplicates = [
        tuple(reply["duplicate"] for reply in replies[correlation]) for correlation in state.correlations
    ]
    assert set(duplicates) <= {(False,), (True,), (False, True)}
    if crash_point in NOTHING:
        assert sum(times != (False,) for times in duplicates) <= BATCH  # of the other batch, none of its own
    elif crash_point in EFFECTS:
        assert (True,) in duplicates
    elif crash_point in REPLIES:
        assert (False, True) in duplicates
    firsts = {correlation: content_of(replies[correlation][0]) for correlation in state.correlations}
    assert all(content_of(reply) == firsts[c] for c in firsts for reply in replies[c])


def assert_one_dead_letter(rabbit: RabbitClient) -> None:
    """Assert that one malformed message is one dead letter, which a crash may publish a second time."""
    published = rabbit.depth(BILLING.dead.name)
    assert 1 <= published <= 2
    dead_letters = [
        DeadLetter.from_headers(properties.headers)
        for properties, _ in rabbit.take(BILLING.dead.name, published)
    ]
    assert len({dead_letter.letter_id for dead_letter in dead_letters}) == 1
    assert {dead_letter.reason for dead_letter in dead_letters} == {"not_json"}
