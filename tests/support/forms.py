"""Ledgers of each form, ready for tests, and batches that go through them as the worker sends them."""

from collections.abc import Sequence
from datetime import datetime

from schemas import Command
from worker.catalog import Catalog
from worker.core import Answer, decide
from worker.ledger.store import Ledger


def transacted(ledger: Ledger, commands: Sequence[Command], now: datetime, catalog: Catalog) -> list[Answer]:
    """Apply ``commands`` as the pipeline does, share by share; return the answers in their order."""
    answers: dict[int, Answer] = {}
    for share in ledger.shares(commands):
        own = [command for _, command in share]
        with ledger.begin(own, now, auto_open=catalog.auto_open) as transaction:
            plan = decide(own, transaction.known, now, catalog)
            transaction.write(plan)
        answers.update({place: answer for (place, _), answer in zip(share, plan.answers, strict=True)})
    return [answers[place] for place in range(len(commands))]
