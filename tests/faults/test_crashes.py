"""Kill -9 at every step of the pipeline: nothing is lost or doubled, same reply, every notice."""

import signal

import pytest

from schemas import DeadLetter
from tests.support.notice_listener import NoticeListener
from tests.support.saboteur import ARROWS, Saboteurs
from tests.support.truth import Truth, content_of, every_reply, nothing_is_left, publish_some
from tests.support.waiting import PATIENCE_S
from tests.support.witness import Witness
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
    assert (*NOTHING, *EFFECTS, *SOME_REPLIES, *REPLIES, *SOME_ACKNOWLEDGEMENTS) == tuple(ARROWS)


@pytest.mark.parametrize("arrow", ARROWS)
def test_crash_loses_no_message_and_applies_none_twice(
    arrow: str, application: Application, saboteurs: Saboteurs, witness: Witness
) -> None:
    missing = crash_and_take_over(arrow, NTH.get(arrow, 2), application, saboteurs, witness)
    assert missing or arrow not in {*NOTHING, *EFFECTS, "noticing"}, "the crash came too late"


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 2, 3])  # of four: after the last batch nothing shows that all came twice
@pytest.mark.parametrize("arrow", ARROWS)
def test_crash_in_any_batch_loses_no_message_and_applies_none_twice(
    arrow: str, nth: int, application: Application, saboteurs: Saboteurs, witness: Witness
) -> None:
    crash_and_take_over(arrow, nth, application, saboteurs, witness)


@pytest.mark.slow
def test_crashes_at_every_step_in_turn_lose_no_message_and_apply_none_twice(
    application: Application, saboteurs: Saboteurs, witness: Witness
) -> None:
    truth, listener = Truth(application.engine), NoticeListener(witness)
    publish_some(witness, truth, COUNT * len(ARROWS))
    for arrow in ARROWS:
        crash(saboteurs, arrow, 2)
    with running(application):
        replies = every_reply(witness, truth.correlations)
        listener.expect(truth.noticed)
    truth.check(replies)
    nothing_is_left(witness)


def crash_and_take_over(
    arrow: str, nth: int, application: Application, saboteurs: Saboteurs, witness: Witness
) -> set[tuple[str, str]]:
    """Crash a worker, let another take over; return the notices that had not come at the crash."""
    truth, listener = Truth(application.engine), NoticeListener(witness)
    publish_some(witness, truth, 12)
    broken = witness.publish(b'{"type": "usage.deduct", ', routing_key="usage.deduct")
    publish_some(witness, truth, COUNT - 12, prefix="n")
    crash(saboteurs, arrow, nth)
    missing = truth.noticed - listener.received()
    with running(application):
        replies = every_reply(witness, {*truth.correlations, broken})
        listener.expect(truth.noticed)
    truth.check(replies)
    assert_left_behind(arrow, truth, replies)
    assert {reply["reason"] for reply in replies[broken]} == {"not_json"}
    assert_one_dead_letter(witness)
    nothing_is_left(witness)
    return missing


def crash(saboteurs: Saboteurs, arrow: str, nth: int) -> None:
    process = saboteurs.start_at(arrow, nth, batch_size=BATCH)
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL


def assert_left_behind(arrow: str, truth: Truth, replies: dict[str, list[dict[str, object]]]) -> None:
    """Assert the traces of the crash. The batch before or behind is somewhere between ledger and broker."""
    duplicates = [
        tuple(reply["duplicate"] for reply in replies[correlation]) for correlation in truth.correlations
    ]
    assert set(duplicates) <= {(False,), (True,), (False, True)}
    if arrow in NOTHING:
        assert sum(times != (False,) for times in duplicates) <= BATCH  # of the other batch, none of its own
    elif arrow in EFFECTS:
        assert (True,) in duplicates
    elif arrow in REPLIES:
        assert (False, True) in duplicates
    firsts = {correlation: content_of(replies[correlation][0]) for correlation in truth.correlations}
    assert all(content_of(reply) == firsts[c] for c in firsts for reply in replies[c])


def assert_one_dead_letter(witness: Witness) -> None:
    """Assert that one malformed message is one dead letter, which a crash may publish a second time."""
    published = witness.depth(BILLING.dead.name)
    assert 1 <= published <= 2
    dead_letters = [
        DeadLetter.from_headers(properties.headers)
        for properties, _ in witness.take(BILLING.dead.name, published)
    ]
    assert len({dead_letter.letter_id for dead_letter in dead_letters}) == 1
    assert {dead_letter.reason for dead_letter in dead_letters} == {"not_json"}
