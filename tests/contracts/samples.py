"""Samples of the contract: reading, writing, and a run against a worker."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from schemas import QueryProblem
from tests.support.fakes import FakeLink, delivery
from worker.broker import BILLING, Delivery
from worker.catalog import Catalog, load_catalog
from worker.ledger.store import Ledger
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.queries import QueryService
from worker.queries.reader import query_in
from worker.queries.sources import Database, Sources

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


def with_replies(steps: Sequence[Step], engine: Engine, catalog: Catalog | None = None) -> Iterator[Step]:
    """Return the steps with the replies and the answers of a worker on this empty ledger."""
    now = datetime.fromisoformat(START)
    catalog = load_catalog() if catalog is None else catalog
    pipeline = Pipeline(
        Ledger(engine),
        catalog,
        Policy(),
        clock=lambda: now,
        pause=lambda _: None,
        metrics=Metrics(),
    )
    sources = Sources(Database(engine, engine), clock=lambda: now)
    service = QueryService(sources, catalog, clock=lambda: now)
    for step in steps:
        now = datetime.fromisoformat(step.get("at", now.isoformat()))
        if "query" in step:
            yield {**step, "answer": _answered(step["query"], service, now)}
            continue
        link = FakeLink()
        items = pipeline.receive([_delivered(step)])
        pipeline.apply(items)
        pipeline.reply_and_acknowledge(link, items)
        asked = {name: value for name, value in step.items() if name not in ("reply", "notices")}
        yield {**asked, **_sent(link)}


def _answered(query: Step, service: QueryService, now: datetime) -> Step:
    asked = query_in(delivery(query), Policy(), now)
    answer = asked if isinstance(asked, QueryProblem) else service.answer([asked])[0]
    answered: Step = json.loads(answer.to_json())
    return answered


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
