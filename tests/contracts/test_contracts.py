"""Samples of the contract: the worker gives these replies, and the samples are complete."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas import MESSAGE_TYPES, Code, Limits, Malformed, Notice, NoticeType, Reply, decode
from tests.contracts.samples import START, Step, files, steps_of, text_of, with_replies
from tests.support.message_bodies import REASONS
from worker.ledger.engine import ledger_engine

STEPS = [step for path in files() for step in steps_of(path)]
#: A fault of the worker's, which no message brings about, and what has no message of its own.
NO_CODE = {Code.UNPROCESSABLE, Code.PAYMENT_IMPORTED}
#: Bodies that no file of text can hold, or should.
NO_REASON = {"not_utf8", "body_too_large", "too_deep"}
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
