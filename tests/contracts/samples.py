"""Samples of the contract: reading, writing, and a run against a worker."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from tests.support.fakes import FakeLink, delivery
from worker.broker import BILLING, Delivery
from worker.catalog import load_catalog
from worker.ledger.store import Ledger
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline

FOLDER = Path(__file__).parent
#: The clock of the first step, where it says nothing.
START = "2026-11-22T10:15:00Z"

Step = dict[str, Any]


def files() -> list[Path]:
    """Return every file of samples."""
    return sorted(FOLDER.glob("*.json"))


def steps_of(path: Path) -> list[Step]:
    """Return the steps of one file."""
    steps: list[Step] = json.loads(path.read_text(encoding="utf-8"))
    return steps


def text_of(steps: Sequence[Step]) -> str:
    """Return the text of a file."""
    return json.dumps(steps, ensure_ascii=False, indent=2) + "\n"


def with_replies(steps: Sequence[Step], engine: Engine) -> Iterator[Step]:
    """Return the steps with the replies of a worker on this empty ledger."""
    now = datetime.fromisoformat(START)
    pipeline = Pipeline(
        Ledger(engine),
        load_catalog(),
        Policy(),
        clock=lambda: now,
        pause=lambda _: None,
        metrics=Metrics(),
    )
    for step in steps:
        now = datetime.fromisoformat(step.get("at", now.isoformat()))
        link = FakeLink()
        items = pipeline.receive([_delivered(step)])
        pipeline.apply(items)
        pipeline.reply_and_acknowledge(link, items)
        asked = {name: value for name, value in step.items() if name not in ("reply", "notices")}
        yield {**asked, **_sent(link)}


def _delivered(step: Step) -> Delivery:
    if "message" in step:
        return delivery(step["message"], correlation_id="c")
    key = step.get("routingKey", "usage.deduct")
    return delivery(step["body"].encode(), routing_key=key, correlation_id="c")


def _sent(link: FakeLink) -> Step:
    notices, replies = [], []
    for message in link.published:
        if message.exchange == BILLING.events:
            notices.append(json.loads(message.body))
        elif message.routing_key != BILLING.dead.name:
            replies.append(json.loads(message.body))
    (reply,) = replies
    return {"reply": reply, "notices": notices} if notices else {"reply": reply}
