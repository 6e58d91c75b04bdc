"""The notice as it stands on the wire."""

import json
from datetime import UTC, datetime

from schemas import SCHEMA_VERSION, Notice

LOW = Notice(
    type="balance.low",
    id="4f1c",
    user_id="u-1",
    reference_id="job-1",
    recorded_at=datetime(2026, 11, 22, 10, 15, tzinfo=UTC),
    available=0,
    mark=1_000,
)


def test_notice_is_camel_case_omits_unset_fields_and_keeps_zeros() -> None:
    assert json.loads(LOW.to_json()) == {
        "schemaVersion": SCHEMA_VERSION,
        "type": "balance.low",
        "id": "4f1c",
        "userId": "u-1",
        "referenceId": "job-1",
        "recordedAt": "2026-11-22T10:15:00Z",
        "available": 0,
        "mark": 1000,
    }


def test_a_notice_that_is_read_again_is_the_same_and_may_say_more_tomorrow() -> None:
    assert Notice.model_validate_json(LOW.to_json()) == LOW
    assert Notice.model_validate({**json.loads(LOW.to_json()), "colour": "red"}) == LOW


def test_reader_of_today_takes_a_notice_of_tomorrow() -> None:
    tomorrow = {**json.loads(LOW.to_json()), "type": "balance.high", "schemaVersion": 3, "colour": "red"}
    notice = Notice.model_validate_json(json.dumps(tomorrow))
    assert (notice.type, notice.schema_version, notice.available) == ("balance.high", 3, 0)
    assert json.loads(notice.to_json()) == {
        name: value for name, value in tomorrow.items() if name != "colour"
    }
