"""Samples of the contract: the worker gives these replies, and the samples are complete."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from schemas import (
    MESSAGE_TYPES,
    QUERY_TYPES,
    Code,
    Limits,
    Malformed,
    Notice,
    NoticeType,
    ProblemCode,
    QueryAnswer,
    Reply,
    decode,
)
from tests.contracts.samples import START, Step, files, steps_of, text_of, with_replies
from tests.support.message_bodies import REASONS
from worker.contract.schema import parts_of
from worker.ledger.engine import ledger_engine

ALL_STEPS = [step for path in files() for step in steps_of(path)]
STEPS = [step for step in ALL_STEPS if "reply" in step]
QUERIES = [step for step in ALL_STEPS if "query" in step]
ANSWERS = get_args(QueryAnswer)
#: A fault of the worker's, which no message brings about, what has no message of its own, and what only a
#: catalog with `on_mismatch = "credit_and_flag"` does.
NO_CODE = {Code.UNPROCESSABLE, Code.PAYMENT_IMPORTED, Code.PURCHASE_FLAGGED}
#: Bodies that no file of text can hold, or should.
NO_REASON = {"not_utf8", "body_too_large", "too_deep"}
#: Problems that no query brings about: a right, an outage, a fault of ours.
NO_PROBLEM = {ProblemCode.NOT_ALLOWED, ProblemCode.UNAVAILABLE, ProblemCode.UNPROCESSABLE}
#: The packaged catalog has no package that expires, and none of an open amount.
NO_ANSWER_FIELD = {"CatalogPackage.validDays", "CatalogRate.tokens", "CatalogRate.perMinor"}
#: Only where the catalog says `when_spent = "write_off"`.
NO_FIELD = {"uncollected"}


def replies_in(steps: list[Step]) -> list[dict[str, Any]]:
    """Return every reply, with those to the items of batches."""
    replies = [step["reply"] for step in steps]
    return replies + [item for reply in replies for item in reply.get("items", ())]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_worker_replies_with_the_samples(path: Path, sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    steps = steps_of(path)
    assert list(with_replies(steps, engine)) == steps, "`python -m tests.contracts` writes what has changed"
    engine.dispose()


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_generated_file_equals_the_stored_one(path: Path) -> None:
    assert text_of(steps_of(path)) == path.read_text(encoding="utf-8")


def test_samples_have_every_type_applied() -> None:
    applied = {step["message"]["type"] for step in STEPS if step["reply"]["status"] == "applied"}
    assert applied == set(MESSAGE_TYPES)


def test_samples_have_every_code() -> None:
    assert {reply["code"] for reply in replies_in(STEPS)} == set(Code) - NO_CODE


def test_samples_have_every_notice() -> None:
    notices = [notice for step in STEPS for notice in step.get("notices", ())]
    assert {notice["type"] for notice in notices} == set(get_args(NoticeType))
    for notice in notices:
        assert json.loads(Notice.model_validate(notice).to_json()) == notice


def test_samples_have_every_field_of_a_reply_and_no_other() -> None:
    known = {info.alias or name for name, info in Reply.model_fields.items()}
    assert {name for reply in replies_in(STEPS) for name in reply} == known - NO_FIELD
    for step in STEPS:
        assert json.loads(Reply.model_validate(step["reply"]).to_json()) == step["reply"]


def test_samples_have_every_reason_code_of_malformed_with_its_field() -> None:
    refused = [reply for reply in replies_in(STEPS) if reply["code"] == "malformed"]
    assert {reply["reason"] for reply in refused} == (REASONS - NO_REASON) | {"wrong_routing_key"}
    fields = {reply.get("field") for reply in refused}
    assert {None, "tokens", "items.1.tokens", "metadata.plan"} <= fields


def test_body_decodes_unless_its_reply_is_malformed() -> None:
    now = datetime.fromisoformat(START)
    for step in STEPS:
        body = step["body"] if "body" in step else json.dumps(step["message"])
        decoded = decode(body.encode(), now=now, limits=Limits())
        assert isinstance(decoded, Malformed) == (step["reply"].get("reason") in REASONS)


def test_samples_have_every_query_and_every_answer() -> None:
    assert {step["query"]["type"] for step in QUERIES} == set(QUERY_TYPES)
    assert {step["answer"]["type"] for step in QUERIES} == {
        one.model_fields["type"].default for one in ANSWERS
    }
    problems = {step["answer"]["code"] for step in QUERIES if step["answer"]["type"] == "answer.problem"}
    assert problems == set(ProblemCode) - NO_PROBLEM


def test_samples_have_every_field_of_an_answer_and_no_other() -> None:
    adapter: TypeAdapter[QueryAnswer] = TypeAdapter(Annotated[QueryAnswer, Field(discriminator="type")])
    found: set[str] = set()
    for step in QUERIES:
        answer = adapter.validate_python(step["answer"])
        assert json.loads(answer.to_json()) == step["answer"]
        found |= set(fields_given(answer))
    parts = {part for answer in ANSWERS for part in parts_of(answer) if part is not Reply}
    known = {f"{part.__name__}.{info.alias}" for part in parts for info in part.model_fields.values()}
    assert known - found == NO_ANSWER_FIELD


def fields_given(part: Any) -> Iterator[str]:
    """Yield the fields that have a value, in an answer and in the parts of it."""
    if isinstance(part, tuple):
        yield from (field for one in part for field in fields_given(one))
    elif isinstance(part, BaseModel):
        for name, info in type(part).model_fields.items():
            value = getattr(part, name)
            if value is not None:
                yield f"{type(part).__name__}.{info.alias}"
                yield from fields_given(value)
