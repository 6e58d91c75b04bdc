"""Log of dead letters: a line a second and cause, with a count and an example."""

import logging
from dataclasses import replace

import pytest

from schemas import DeadLetterReason
from tests.support.fakes import delivery
from worker.bootstrap import utc_now
from worker.messages.dead_letter_log import DeadLetterLog
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.outgoing import OutgoingDeadLetter
from worker.messages.policy import Policy
from worker.runtime.log_fields import fields_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNKNOWN_FIELD = Failure(
    DeadLetterReason.UNKNOWN_FIELD, "no such field", "featureName", type="usage.deduct", reference_id="v2-1"
)


def dead_letter(failure: Failure = UNKNOWN_FIELD, user: str | None = "app") -> OutgoingDeadLetter:
    incoming = replace(delivery(b"{}", user_id=user), headers={"traceparent": TRACEPARENT})
    return dead_letter_for(incoming, failure, Policy(), tries=1, now=utc_now())


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def log(seconds: Seconds) -> DeadLetterLog:
    return DeadLetterLog(logging.getLogger("t"), seconds=seconds)


def test_dead_letters_of_a_cause_have_one_line_with_an_example(
    log: DeadLetterLog, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(37):
        log.add(dead_letter(replace(UNKNOWN_FIELD, reference_id=f"v2-{number:05}")))
    log.write()
    (record,) = caplog.records
    assert record.getMessage() == (
        "37 × unknown_field featureName of usage.deduct, such as v2-00036, sender app: "
        "see `billing-worker dead-letters groups`"
    )
    assert fields_of(record) == {
        "event": "dead_letters",
        "count": 37,
        "code": "unknown_field",
        "field": "featureName",
        "type": "usage.deduct",
        "sender": "app",
        "referenceId": "v2-00036",
        "queue": "billing.usage",
        "traceId": TRACEPARENT[3:35],
        "spanId": TRACEPARENT[36:52],
    }


def test_cause_has_one_line_a_second(
    log: DeadLetterLog, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.add(dead_letter())
        log.write()
    assert [record.getMessage()[:3] for record in caplog.records] == ["1 ×"]
    seconds.now += 1
    log.write()
    assert [record.getMessage()[:3] for record in caplog.records] == ["1 ×", "2 ×"]
    log.write(all_=True)
    assert len(caplog.records) == 2


def test_end_writes_what_waits_for_its_second(log: DeadLetterLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        log.add(dead_letter())
        log.write(all_=True)
    assert len(caplog.records) == 2


def test_fault_of_ours_is_an_error_with_its_class_alone(
    log: DeadLetterLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.add(dead_letter(Failure(DeadLetterReason.UNPROCESSABLE, "KeyError: 'secret data'"), user=None))
    log.write()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(
        "1 × unprocessable (KeyError) of unknown type, such as one without a reference, sender anonymous"
    )


def test_text_of_a_sender_is_one_short_line(log: DeadLetterLog, caplog: pytest.LogCaptureFixture) -> None:
    log.add(dead_letter(replace(UNKNOWN_FIELD, field="a\nb" + "x" * 500, reference_id="two words")))
    log.write()
    line = caplog.records[0].getMessage()
    assert "\n" not in line
    assert len(line) < 300
    assert "'two words'" in line


def test_causes_beyond_a_hundred_share_a_line(log: DeadLetterLog, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(150):
        log.add(dead_letter(replace(UNKNOWN_FIELD, field=f"f{number}")))
    log.write()
    assert len(caplog.records) == 101
    assert caplog.records[-1].getMessage().startswith("50 × others")
