"""Reconciliation of published messages with the ledger, the replies and the dead letters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pika
from sqlalchemy import Engine, select

from schemas import DeadLetter
from tests.support.expected_state import ExpectedState, balances, content_of
from tests.support.rabbit_client import parameters_of
from tests.support.steady_producer import Publication
from worker.broker import BILLING
from worker.deadletters.store.tables import dead_letters
from worker.ledger import tables
from worker.ledger.audit import audit

_SHOWN = 10


@dataclass(frozen=True)
class Differences:
    """Differences from the expected state, a line each; a clean run has none."""

    lost: Sequence[str] = ()
    doubled: Sequence[str] = ()
    unanswered: Sequence[str] = ()
    wrong_replies: Sequence[str] = ()
    wrong_dead_letters: Sequence[str] = ()
    missing_dead_letters: Sequence[str] = ()
    audit: Sequence[str] = ()

    @property
    def is_clean(self) -> bool:
        """True where nothing is wrong."""
        return not any(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Number of lines of each kind."""
        return {field.name: len(getattr(self, field.name)) for field in fields(self)}

    def __str__(self) -> str:
        """The counts, and the first lines of each kind."""
        lines = [", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items())]
        for field in fields(self):
            lines += [f"  {field.name}: {line}" for line in getattr(self, field.name)[:_SHOWN]]
        return "\n".join(lines)


def reconcile(
    state: ExpectedState,
    engine: Engine,
    broker_url: str,
    publications: Iterable[Publication],
    replies: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Differences:
    """Compare the published messages with the ledger, the replies and the dead letters.

    To be called once no message is under way; takes the dead letters out of their queue, and adds the
    publications to ``state``.
    """
    publications = list(publications)
    for publication in publications:
        if publication.message is not None:
            state.sent(publication.correlation_id, publication.message)
    bad = {each.correlation_id: each.reason for each in publications if each.message is None}
    dead_letters = {**_dead_letters_in_table(engine), **_dead_letters_in_queue(broker_url)}
    expected = state.codes_in_ledger
    return Differences(
        lost=sorted(expected - _references(engine)),
        doubled=_wrong_balances(state, engine),
        unanswered=sorted((state.correlations.keys() | bad.keys()) - replies.keys()),
        wrong_replies=[*_wrong_replies(state, replies), *_wrong_refusals(bad, replies)],
        wrong_dead_letters=[
            f"{correlation_id}: {reason}"
            for correlation_id, reason in dead_letters.items()
            if bad.get(correlation_id) != reason
        ],
        missing_dead_letters=sorted(bad.keys() - dead_letters.keys()),
        audit=[str(finding) for finding in audit(engine).findings],
    )


def _references(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(tables.operations.c.reference_id)))


def _wrong_balances(state: ExpectedState, engine: Engine) -> list[str]:
    stored, expected = balances(engine), state.balances
    users = sorted(stored.keys() | expected.keys())
    return [
        f"{user} has {stored.get(user)}, not {expected.get(user)}"
        for user in users
        if stored.get(user) != expected.get(user)
    ]


def _wrong_replies(state: ExpectedState, replies: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    wrong = []
    for correlation_id in state.correlations.keys() & replies.keys():
        code = state.code_of(state.correlations[correlation_id])
        given = replies[correlation_id]
        if any(reply["code"] != code for reply in given):
            wrong.append(f"{correlation_id}: {[reply['code'] for reply in given]}, not {code}")
        elif any(content_of(reply) != content_of(given[0]) for reply in given):
            wrong.append(f"{correlation_id}: {len(given)} replies that differ")
    return wrong


def _wrong_refusals(
    bad: Mapping[str, str | None], replies: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    return [
        f"{correlation_id}: {reply}"
        for correlation_id, reason in bad.items()
        for reply in replies.get(correlation_id, ())
        if (reply["status"], reply.get("reason")) != ("failed", reason)
    ]


def _dead_letters_in_table(engine: Engine) -> dict[str, str]:
    """Return the reason of each dead letter in the table by message id, which is the correlation id."""
    with engine.connect() as connection:
        rows = connection.execute(select(dead_letters.c.properties, dead_letters.c.reason)).all()
    reasons: dict[str, str] = {}
    for row in rows:
        message_id = str(row.properties["properties"].get("message_id"))
        reasons[message_id] = "several rows" if message_id in reasons else row.reason
    return reasons


def _dead_letters_in_queue(broker_url: str) -> dict[str, str]:
    """Return the reason of each dead letter in the queue by message id."""
    connection = pika.BlockingConnection(parameters_of(broker_url))
    channel = connection.channel()
    dead_letters: dict[str, str] = {}
    while True:
        method, properties, _ = channel.basic_get(BILLING.dead.name)
        if method is None:
            break
        dead_letters[str(properties.message_id)] = DeadLetter.from_headers(properties.headers).reason
        channel.basic_ack(method.delivery_tag)
    connection.close()
    return dead_letters
