"""Summary of a demo as one JSON document, for programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from worker.bootstrap import Application, utc_now
from worker.cli.output import show_json
from worker.demo.collector import Collector
from worker.demo.result import DemoResult
from worker.demo.scenario import Scenario
from worker.demo.statistics import count_outcomes, distinct_replies, example_user, example_users
from worker.demo.summary import DAYS_SHOWN, ENTRIES_SHOWN, REPLIES_SHOWN
from worker.ledger.queries import Reader


def show_summary_as_json(application: Application, scenario: Scenario, result: DemoResult) -> None:
    """Show the facts of the summary as one JSON document."""
    collector = result.collector
    replies = list(collector.replies.values())
    user = example_user(replies)
    show_json(
        {
            "ok": not result.problems(),
            **scenario.facts,
            "messages": len(collector.sent),
            "answered": len(replies),
            "seconds": round(result.seconds, 2),
            "sent": dict(Counter(message.kind for message in collector.sent.values())),
            "outcomes": [asdict(row) for row in count_outcomes(replies)],
            "batchItems": [asdict(row) for row in count_outcomes(collector.item_replies())],
            "notices": dict(Counter(notice.type for notice in collector.own_notices())),
            "balances": _balances(application, example_users(replies)),
            "deadLetters": dict(Counter(each.reason for each in collector.dead_letters.values())),
            "user": None if user is None else _user(application, user, collector),
            "audit": result.report.to_dict(),
            "problems": result.problems(),
        }
    )


def _user(application: Application, user: str, collector: Collector) -> dict[str, Any]:
    reader = Reader(application.engine)
    return {
        "userId": user,
        "replies": [
            {"sent": message.kind, **reply.model_dump(mode="json", exclude_none=True)}
            for message, reply in distinct_replies(collector.of_user(user), REPLIES_SHOWN)
        ],
        "history": reader.history(user, ENTRIES_SHOWN).to_dict(),
        "usage": reader.usage(user, utc_now(), application.catalog, DAYS_SHOWN).to_dict(),
    }


def _balances(application: Application, users: Sequence[str]) -> list[dict[str, Any]]:
    reader, catalog, now = Reader(application.engine), application.catalog, utc_now()
    return [
        {
            **reader.balance(user, now, catalog).to_dict(),
            "lots": reader.lots(user, now, catalog).to_dict()["lots"],
            "holds": reader.holds(user, now, catalog).to_dict()["holds"],
        }
        for user in users
    ]
