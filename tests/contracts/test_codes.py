"""Table of codes: complete, in the words of the contract's page, and true of the worker's replies."""

from pathlib import Path
from typing import Any

import pytest

from schemas import Code, DeadLetterReason, ProblemCode
from schemas.http import STATUS_OF, STATUS_OF_REQUEST, RequestCode
from tests.contracts.samples import Step, files, steps_of, with_replies
from tests.support.pages import code_spans, page, section, tables
from worker.contract.codes import (
    DEAD_LETTER_REASONS,
    PROBLEM_CODES,
    REPLY_CODES,
    REQUEST_CODES,
    RETRIES,
    Actor,
    Retry,
    codes,
)
from worker.ledger.engine import ledger_engine

PAGE = page("schemas/README.md")


def replies_in(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a reply, or those to the items of a batch."""
    items: list[dict[str, Any]] = reply.get("items", [reply])
    return items


def test_table_has_every_code_and_no_other() -> None:
    assert list(REPLY_CODES) == list(Code)
    assert list(DEAD_LETTER_REASONS) == list(DeadLetterReason)
    assert PROBLEM_CODES.keys() == STATUS_OF.keys() == set(ProblemCode)
    assert list(REQUEST_CODES) == list(STATUS_OF_REQUEST) == list(RequestCode)
    assert set(RETRIES) == set(Retry)
    assert {name: len(part) for name, part in codes().items() if name.endswith(("odes", "Reasons"))} == {
        "codes": len(Code),
        "deadLetterReasons": len(DeadLetterReason),
        "problemCodes": len(ProblemCode),
        "requestCodes": len(RequestCode),
    }


def test_table_says_what_the_page_says() -> None:
    (rows,) = tables(section(PAGE, "Reply codes"))
    codes_there = [(*code_spans(name), status, means) for name, status, means in rows]
    assert [(code.value, entry.status, entry.means) for code, entry in REPLY_CODES.items()] == codes_there
    (rows,) = tables(section(PAGE, "Reason codes"))
    reasons_there = [(*code_spans(name), means) for name, means in rows]
    assert [(code.value, entry.means) for code, entry in DEAD_LETTER_REASONS.items()] == reasons_there
    *_, rows = tables(section(PAGE, "Queries"))
    problems_there = [(*code_spans(name)[:1], means) for name, means in rows]
    assert [(code.value, entry.means) for code, entry in PROBLEM_CODES.items()] == problems_there


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_code_has_the_status_and_the_durability_of_the_worker(path: Path, sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    twice: list[Step] = [step for step in steps_of(path) for _ in range(2)]
    replies = [step["reply"] for step in with_replies(twice, engine) if "reply" in step]
    engine.dispose()
    for reply in replies:
        assert reply["status"] == REPLY_CODES[Code(reply["code"])].status
    for again in (one for reply in replies[1::2] for one in replies_in(reply)):
        entry = REPLY_CODES[Code(again["code"])]
        assert again["status"] == entry.status
        assert again["duplicate"] is entry.durable, again
        if entry is REPLY_CODES[Code.MALFORMED]:
            assert DEAD_LETTER_REASONS[DeadLetterReason(again["reason"])].reply == again["code"]


def test_stored_rejection_is_never_mended_under_the_same_attempt() -> None:
    for code, entry in REPLY_CODES.items():
        if entry.durable:
            assert entry.retry in (Retry.NEVER, Retry.NEXT_ATTEMPT), code
        else:
            assert entry.retry in (Retry.AGAIN, Retry.MENDED, Retry.NEW_REFERENCE), code


def test_applied_code_asks_operators_alone_and_where_money_differs() -> None:
    flagged = {Code.PURCHASE_FLAGGED, Code.REFUND_STYLE_MIXED}
    for code, entry in REPLY_CODES.items():
        if entry.status == "applied":
            acts = Actor.OPERATOR if code in flagged else Actor.NOBODY
            assert (entry.retry, entry.acts) == (Retry.NEVER, acts), code
