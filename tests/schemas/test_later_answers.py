"""Answers of a later version, read by a reader of today."""

import json
from datetime import UTC, datetime

from schemas import AffordAnswer, Code, ProblemCode, QueryProblem
from schemas.answers import OperationAnswer
from schemas.replies import Reply

NOW = datetime(2026, 11, 26, tzinfo=UTC)
AFFORD = AffordAnswer(
    as_of=NOW,
    user_id="u",
    sequence=3,
    affordable=False,
    code=Code.INSUFFICIENT_BALANCE,
    available=5,
    shortfall=2,
)
PROBLEM = QueryProblem(as_of=NOW, code=ProblemCode.UNAVAILABLE, message="m")


def test_code_of_today_is_a_member_in_an_answer() -> None:
    assert AffordAnswer.model_validate_json(AFFORD.to_json()).code is Code.INSUFFICIENT_BALANCE
    assert QueryProblem.model_validate_json(PROBLEM.to_json()).code is ProblemCode.UNAVAILABLE


def test_reader_of_today_takes_an_answer_of_tomorrow() -> None:
    later = {"code": "moon_too_high", "colour": "red", "schemaVersion": 3}
    afford = AffordAnswer.model_validate({**json.loads(AFFORD.to_json()), **later})
    problem = QueryProblem.model_validate({**json.loads(PROBLEM.to_json()), **later})
    for answer in (afford, problem):
        assert (answer.code, answer.schema_version) == ("moon_too_high", 3)
        assert "colour" not in json.loads(answer.to_json())


def test_reply_of_tomorrow_in_an_answer_is_taken() -> None:
    body = {"status": "postponed", "code": "moon_too_high", "message": "m", "colour": "red"}
    answer = {"asOf": NOW.isoformat(), "referenceId": "r", "isKnown": True, "reply": body}
    reply = OperationAnswer.model_validate_json(json.dumps(answer)).reply
    assert isinstance(reply, Reply)
    assert (reply.status, reply.code) == ("postponed", "moon_too_high")
