"""``adjust``: an operator's correction, sent through the queue like any other command."""

import json
import sys
from datetime import datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import click

from schemas import Limits, Malformed, Message, Reply, Status, decode, routing_key_of
from worker.bootstrap import Application, utc_now
from worker.broker import Consumes, Link
from worker.cli.application import reader_of, reply_sender_of, with_application
from worker.cli.options import actor_option, as_json, confirm, named_operator
from worker.cli.output import show_fields, show_json
from worker.cli.reply_link import reply_link
from worker.cli.text import printable, shown_id
from worker.errors import ConfigurationError, NoReplyError, NotFoundError
from worker.messages.outgoing import OutgoingCommand
from worker.runtime.large_changes import is_large

_LOOK_S = 0.5


@click.command(context_settings={"ignore_unknown_options": True})  # a negative number is no option
@click.argument("user")
@click.argument("tokens", type=int)
@click.option("--reason", required=True, help="Why; it is kept with the entry.")
@actor_option(named_operator)
@click.option("--allow-negative", is_flag=True, help="Take more than there is, as a debt.")
@click.option("--reference", help="The reference; by default a new one. Give it again to repeat safely.")
@click.option(
    "--attempt", type=int, default=1, show_default=True, help="A higher one has a rejection judged anew."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3_600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the reply.",
)
@click.option("--yes", is_flag=True, help="Don't ask before a large adjustment.")
@with_application("broker_url", "database_url")
@as_json
def adjust(
    application: Application,
    *,
    user: str,
    tokens: int,
    reason: str,
    actor: str,
    allow_negative: bool,
    reference: str | None,
    attempt: int,
    timeout_s: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Give a user TOKENS, or take them with a negative number. Exit 0 if applied, 1 if rejected.

    The command goes through the broker to a worker, and waits for the reply; without a reply it exits with
    3, and may still be applied. The reference is shown first, on standard error: with the same reference it
    is applied once, however often it is sent. The activity log has who did it and why.

    More than 100,000 tokens that are also more than half of the account's balance are large: you are asked
    again, and a script must say --yes.

    \b
    Examples:
      billing-worker adjust ada 500 --reason "outage of 3 November"
      billing-worker adjust ada -500 --reason "credited twice" --actor ann
      billing-worker adjust ada 2500000 --reason "contract of 2027" --yes
    """
    reference = f"adjust-{uuid4()}" if reference is None else reference
    message = {
        "type": "credit.adjust",
        "referenceId": reference,
        "userId": user,
        "tokens": tokens,
        "reason": reason,
        "actor": actor,
        "allowNegative": allow_negative,
        "attempt": attempt,
    }
    body, command = _checked(message, application.settings.max_quantity)
    application.require_usable_schema()
    if not yes:
        _confirm_large(application, user, tokens)
    click.echo(f"reference {printable(reference)}", err=True)
    with reply_link(application) as (link, queue):
        # Before the command: a crash leaves none unlogged. Its result is the outcome of the reference.
        detail = {"user": user, "tokens": tokens, "attempt": attempt}
        if allow_negative:
            detail["allow_negative"] = True
        application.service().record(actor, "adjust", reference, reason, detail)
        key = routing_key_of(command, application.settings.partitions)
        sender = reply_sender_of(application)
        outgoing = _message(key, body, queue, sender, application.clock())
        reply = _asked(link, outgoing, reference, timeout_s)
    if as_json:
        show_json(json.loads(reply.to_json()))
    else:
        show_reply(reply)
    sys.exit(0 if reply.status is Status.APPLIED else 1)


def show_reply(reply: Reply) -> None:
    """Show the reply to people."""
    again = ", as it was before" if reply.duplicate else ""
    fields = [
        ("outcome", f"{reply.status}{again}"),
        ("message", reply.message),
        ("reference", reply.reference_id),
        ("balance before", reply.balance_before),
        ("balance after", reply.balance_after),
        ("debt", reply.debt),
    ]
    show_fields("", [(name, value) for name, value in fields if value is not None])


def _checked(message: dict[str, Any], max_quantity: int) -> tuple[bytes, Message]:
    """Return the body, and the command that a worker would find in it; which ids are new, it says itself.

    Raises UsageError.
    """
    body = json.dumps(message, ensure_ascii=False).encode()
    decoded = decode(body, now=utc_now(), limits=Limits(max_quantity=max_quantity, ids=None))
    if isinstance(decoded, Malformed):
        raise click.UsageError(decoded.message)
    return body, decoded


def _confirm_large(application: Application, user: str, tokens: int) -> None:
    """Ask again before a large adjustment. Raises UsageError where nobody can be asked."""
    if not is_large(tokens, balance=0):
        return  # without a query
    try:
        newest = reader_of(application).history(user, limit=1).transactions
    except NotFoundError:
        return  # a worker rejects it
    balance = newest[0].balance_after if newest else 0
    if not is_large(tokens, balance):
        return
    size = f"{tokens:+,} tokens is large for {shown_id(user)}, who has {balance:,}"
    confirm(f"{size}. Adjust the balance?", refusal=size)


def _message(key: str, body: bytes, queue: str, sender: str, at: datetime) -> OutgoingCommand:
    """Return the command, whose reply comes to ``queue`` with the id of the message."""
    correlation_id = uuid4().hex
    return OutgoingCommand.of(
        key,
        body,
        message_id=correlation_id,
        app_id="billing-worker adjust",
        sent_as=sender,
        at=at,
        correlation_id=correlation_id,
        reply_to=queue,
    )


def _asked(link: Link, command: OutgoingCommand, reference: str, timeout_s: float) -> Reply:
    """Publish ``command`` and wait for its reply."""
    result = link.publish([command])
    result.raise_if_refused()
    if result.returned:
        raise ConfigurationError("no queue takes credit.adjust: run `billing-worker topology declare`")
    return _reply_to(link, command.properties["correlation_id"], reference, timeout_s)


def _reply_to(link: Consumes, correlation_id: str, reference: str, timeout_s: float) -> Reply:
    deadline = monotonic() + timeout_s
    while (left := deadline - monotonic()) > 0:
        for delivery in link.receive(1, min(left, _LOOK_S)):
            link.acknowledge([delivery])
            if delivery.text("correlation_id") == correlation_id:
                return Reply.model_validate_json(delivery.body)
        link.keep_alive()
    raise NoReplyError(
        f"no reply to {reference!r} within {timeout_s:g} s; is a worker running? "
        f"Repeat it with --reference {reference}: it is applied once"
    )
