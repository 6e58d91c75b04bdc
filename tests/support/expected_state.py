"""Expected state after mixed messages: replies, balances, notices and an audit without findings."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Engine, select

from schemas import (
    Limits,
    Malformed,
    UsageBatch,
    commands_of,
    decode,
)
from tests.support.mixed_messages import USERS, Message, mixed, open_accounts
from tests.support.model import Model
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import BILLING
from worker.catalog import load_catalog
from worker.ledger.audit import audit
from worker.ledger.tables import accounts


class ExpectedState:
    """Check of all sent messages against the model, the audit and the replies.

    The model's time grows with the square of the messages a user sends: long runs need many ``users``.
    """

    def __init__(self, engine: Engine, users: Sequence[str] = USERS) -> None:
        self._engine = engine
        self._now = datetime.now(UTC)
        self._model = Model(load_catalog())
        self._codes: dict[str, str] = {}
        self._rejected_payments: set[str] = set()
        self.correlations: dict[str, str] = {}
        for message in open_accounts(engine, users):
            self._foresee(message)

    def sent(self, correlation_id: str, message: Message) -> None:
        """Record a sent message; it may be sent more than once, and its replies carry ``correlation_id``."""
        self.correlations[correlation_id] = message["referenceId"]
        self._foresee(message)

    def check(self, replies: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Fail the test unless ledger and replies are right and all replies to a message are equal."""
        for correlation_id in self.correlations.keys() & replies.keys():
            reference_id = self.correlations[correlation_id]
            for reply in replies[correlation_id]:
                assert reply.get("referenceId") == reference_id, reply
                assert reply["code"] == self._codes[reference_id]
                for item in reply.get("items", ()):
                    assert item["code"] == self._codes[item["referenceId"]]
                assert content_of(reply) == content_of(replies[correlation_id][0])
        self.check_ledger()

    def check_ledger(self) -> None:
        """Fail the test unless the balances equal the model's and the audit is clean."""
        assert balances(self._engine) == self._model.balances()
        assert audit(self._engine).findings == ()

    @property
    def balances(self) -> dict[str, int]:
        """Balance of each user in the model."""
        return self._model.balances()

    @property
    def codes_in_ledger(self) -> set[str]:
        """References with a row of their own: of a command batch, those of its items."""
        return {reference for reference, code in self._codes.items() if code != "batch_processed"}

    def code_of(self, reference_id: str) -> str:
        """The code of its reply."""
        return self._codes[reference_id]

    @property
    def noticed(self) -> set[tuple[str, str]]:
        """Reference and type of each notice that must come at least once."""
        noticed = {(notice["referenceId"], notice["type"]) for notice in self._model.notices}
        return noticed | {(reference, "payment.rejected") for reference in self._rejected_payments}

    def _foresee(self, message: Message) -> None:
        if message["referenceId"] in self._codes:
            return
        decoded = decode(json.dumps(message).encode(), now=self._now, limits=Limits())
        assert not isinstance(decoded, Malformed), decoded
        for command in commands_of(decoded):
            answer = self._model.apply(command, self._now)
            self._codes[command.reference_id] = answer["code"]
            if answer["status"] == "rejected" and command.type.startswith("payment."):
                self._rejected_payments.add(command.reference_id)
        if isinstance(decoded, UsageBatch):
            self._codes[decoded.reference_id] = "batch_processed"


def publish_some(
    rabbit: RabbitClient, state: ExpectedState, count: int, *, prefix: str = "m", **properties: Any
) -> list[str]:
    """Publish some mixed messages; return their correlation ids."""
    sent = []
    for message in islice(mixed(prefix=prefix), count):
        sent.append(rabbit.publish(message, **properties))
        state.sent(sent[-1], message)
    return sent


def content_of(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a reply that each copy has, also where it stands in the reply to a batch."""
    content = {name: value for name, value in reply.items() if name not in ("duplicate", "schemaVersion")}
    if "items" in content:
        content["items"] = [content_of(item) for item in content["items"]]
    return content


def balances(engine: Engine) -> dict[str, int]:
    """Return the stored balance of each user."""
    with engine.connect() as connection:
        rows = connection.execute(select(accounts.c.user_id, accounts.c.balance))
        return {row.user_id: row.balance for row in rows}


def every_reply(rabbit: RabbitClient, expected: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return all replies by correlation id, once each of ``expected`` has one."""
    replies = rabbit.replies(expected)
    for properties, body in rabbit.take(rabbit.reply_queue, rabbit.depth(rabbit.reply_queue)):
        replies.setdefault(properties.correlation_id, []).append(json.loads(body))
    return replies


def nothing_is_left(rabbit: RabbitClient) -> None:
    """Fail the test unless the work queues are empty; no worker may hold a message."""
    for queue in BILLING.work:
        eventually(partial(_is_empty, rabbit, queue.name), what=f"{queue.name} is empty")


def _is_empty(rabbit: RabbitClient, queue: str) -> bool:
    return rabbit.depth(queue) == 0
