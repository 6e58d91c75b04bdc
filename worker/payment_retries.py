"""Retries of rejected payments: the stored command again, as its next attempt, through the queue.

Nothing is written to the ledger here. The activity log says who has tried again, and why, before the command
is published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import Engine

from schemas import Code, Command, routing_key_of
from worker.catalog import Catalog
from worker.core import Answer, Outcome
from worker.core.contents import command_of
from worker.core.incidents import is_rejected_payment
from worker.deadletters.replay.dry_run import answers_now
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.activity_log import reason_given
from worker.errors import NotFoundError, NotPossibleError
from worker.ledger.queries import snapshot
from worker.ledger.queries.outcomes import stored_outcomes
from worker.ledger.queries.senders import senders_of
from worker.messages.origin import republished
from worker.messages.outgoing import OutgoingCommand

#: References that one call takes: each is locked in one batch of a dry run, and awaited by one caller.
RETRIES_MAX = 1_000


def next_attempts(engine: Engine, references: Sequence[str]) -> list[Command]:
    """Return the commands of rejected payments again, each as its next attempt, in this order.

    Raises NotFoundError for a reference without an operation, and NotPossibleError for one that is no
    rejected payment: then none is returned.
    """
    wanted = list(dict.fromkeys(references))
    if len(wanted) > RETRIES_MAX:
        raise NotPossibleError(f"at most {RETRIES_MAX:,} payments can be tried again at once")
    with snapshot(engine) as connection:
        stored = stored_outcomes(connection, wanted)
    return [_next_attempt(reference, stored.get(reference)) for reference in wanted]


def _next_attempt(reference: str, stored: Outcome | None) -> Command:
    if stored is None:
        raise NotFoundError(
            f"no operation has the reference {reference!r}: look at its spelling, "
            "see `billing-worker payments`"
        )
    if stored.code is Code.PAYMENT_AWAITED:
        raise NotPossibleError(
            f"{reference!r} waits for its payment and counts when that comes: send the payment instead"
        )
    if stored.is_applied:
        raise NotPossibleError(f"{reference!r} is applied ({stored.code}): there is nothing to try again")
    if not is_rejected_payment(stored):
        raise NotPossibleError(
            f"{reference!r} is a {stored.type} without a payment: its sender tries it again, "
            "with a higher attempt"
        )
    try:
        return command_of(stored, stored.attempt + 1)
    except ValidationError as error:
        (first, *_) = error.errors()
        place = ".".join(map(str, first["loc"])) or "the command"
        raise NotPossibleError(
            f"{reference!r} is refused by this version: {place}: {first['msg']}; send it anew by hand"
        ) from error


def first_senders(engine: Engine, commands: Sequence[Command]) -> Mapping[str, str | None]:
    """Return the broker users that sent the rejected commands, by reference; None where it is unknown."""
    with snapshot(engine) as connection:
        stored = stored_outcomes(connection, [command.reference_id for command in commands])
        senders = senders_of(connection, stored.values())
    known = {reference: senders.get(outcome.sender_id) for reference, outcome in stored.items()}
    return {reference: None if sender is None else sender.broker_user for reference, sender in known.items()}


def forecast(
    engine: Engine, commands: Sequence[Command], catalog: Catalog, now: datetime
) -> Sequence[Answer]:
    """Return the answers that ``commands`` would get now; nothing is written."""
    return answers_now(engine, commands, catalog, now)


def log_retries(service: DeadLetters, commands: Sequence[Command], reason: str, actor: str) -> None:
    """Write the retries into the activity log. Raises NotPossibleError without a reason or an actor."""
    given = reason_given(reason)
    for command in commands:
        detail = {"attempt": command.attempt, "type": command.type}
        service.record(actor, "retry", command.reference_id, given, detail)


def retry_of(
    command: Command,
    *,
    message_id: str,
    app_id: str,
    sent_as: str | None,
    sender: str | None,
    reply_to: str | None = None,
    partitions: int = 0,
) -> OutgoingCommand:
    """Return the message of a retry; its correlation is the message's id.

    ``sender`` sent the rejected command. Where nobody knows it, the retry is the operator's own command.
    ``reply_to`` is a queue of the operator's, ``partitions`` the number of those of the queues.
    """
    message = OutgoingCommand.of(
        routing_key_of(command, partitions),
        command.to_json(),
        message_id=message_id,
        app_id=app_id,
        sent_as=sent_as,
        correlation_id=message_id,
    )
    if sender is not None:
        message = republished(message, sender=sender, sent_as=sent_as)
    if reply_to is None:
        return message
    return replace(message, properties={**message.properties, "reply_to": reply_to})
