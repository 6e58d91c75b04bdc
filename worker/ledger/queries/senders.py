"""Senders of commands, as answers show them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from worker.core import Outcome
from worker.ledger.bulk import among
from worker.ledger.queries.views import View
from worker.ledger.tables import senders


@dataclass(frozen=True)
class SenderView(View):
    """Broker user and application of a command; None for what its message didn't name, or isn't kept."""

    broker_user: str | None
    application: str | None

    def __str__(self) -> str:
        """Return both on one line."""
        user = self.broker_user or "anonymous"
        return user if self.application is None else f"{user} ({self.application})"


def senders_of(connection: Connection, outcomes: Iterable[Outcome]) -> Mapping[int | None, SenderView]:
    """Return the senders of the commands of ``outcomes``, by their key."""
    keys = {outcome.sender_id for outcome in outcomes if outcome.sender_id is not None}
    return senders_by_key(connection, keys)


def senders_by_key(connection: Connection, keys: Collection[int]) -> Mapping[int | None, SenderView]:
    """Return the senders that have these keys."""
    c = senders.c
    wanted = among(connection, c.sender_id, sorted(keys))
    statement = select(c.sender_id, c.broker_user, c.application).where(wanted)
    return {
        key: SenderView(user or None, application or None)
        for key, user, application in (connection.execute(statement) if keys else ())
    }
