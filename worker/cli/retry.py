"""``retry``: rejected payments again, as their next attempts, through the queue like any command."""

import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

import click
from rich.progress import Progress

from schemas import Command, Reply, Status
from worker.bootstrap import Application
from worker.broker import Consumes, Link
from worker.cli.application import reply_sender_of, with_application
from worker.cli.options import actor_option, as_json, named_operator, with_wide
from worker.cli.output import progress, show_json, show_table
from worker.cli.reply_link import reply_link
from worker.cli.table_width import Column
from worker.core import Answer, reply_for
from worker.errors import ConfigurationError, NoReplyError
from worker.payment_retries import first_senders, forecast, log_retries, next_attempts, retry_of

_CHUNK = 100
_LOOK_S = 0.5


@click.command()
@click.argument("references", metavar="REFERENCE…", nargs=-1, required=True)
@click.option("--reason", help="Why; kept in the activity log. A dry run needs none.")
@actor_option(named_operator)
@click.option("--dry-run", is_flag=True, help="Show what would come of it, and send nothing.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3_600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the replies.",
)
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def retry(
    application: Application,
    *,
    references: tuple[str, ...],
    reason: str | None,
    actor: str,
    dry_run: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Try rejected payments again, once their cause is mended. Exit 0 if all are applied, else 1.

    Each is sent as the next attempt of its stored command, through the broker to a worker, and its reply is
    awaited; without a reply it exits with 3, and it may still be applied. Called again before that, it sends
    the same attempt: it is applied once. The activity log has who did it and why.

    \b
    Examples:
      billing-worker retry stripe:pi_1 --dry-run
      billing-worker retry stripe:pi_1 stripe:pi_2 --reason "package added to the catalog"
    """
    if reason is None and not dry_run:
        raise click.UsageError("say why with --reason: the activity log keeps it")
    application.require_usable_schema()
    commands = next_attempts(application.engine, references)
    if dry_run:
        answers = forecast(application.engine, commands, application.catalog, application.clock())
        replies = [_reply_of(*pair) for pair in zip(commands, answers, strict=True)]
    else:
        replies = _sent(application, commands, reason or "", actor, timeout_s)
    if as_json:
        show_json({"dryRun": dry_run, "replies": [_as_dict(reply) for reply in replies]})
    else:
        _show(replies, is_dry_run=dry_run)
    sys.exit(0 if all(reply.status is Status.APPLIED for reply in replies) else 1)


def _reply_of(command: Command, answer: Answer) -> Reply:
    return reply_for(command, answer)


def _as_dict(reply: Reply) -> dict[str, Any]:
    return reply.model_dump(mode="json", by_alias=True, exclude_none=True)


def _show(replies: Sequence[Reply], *, is_dry_run: bool) -> None:
    show_table(
        "Dry run: nothing was sent" if is_dry_run else "Retries",
        (
            Column("reference"),
            Column("attempt", 3),
            Column("would be" if is_dry_run else "outcome"),
            Column("code", 2),
            Column("message", 1, text=True),
        ),
        [(reply.reference_id, reply.attempt, reply.status, reply.code, reply.message) for reply in replies],
    )


def _sent(
    application: Application, commands: Sequence[Command], reason: str, actor: str, timeout_s: float
) -> list[Reply]:
    """Write the activity log, publish the commands, and return their replies, in their order."""
    by_id = {uuid4().hex: command for command in commands}
    with reply_link(application, prefetch=_CHUNK) as (link, queue):
        log_retries(application.service(), commands, reason, actor)
        _publish(application, link, queue, by_id)
        with progress("retrying", len(by_id)) as bar:
            replies = _replies(link, by_id, timeout_s, bar)
    if missing := [command.reference_id for id_, command in by_id.items() if id_ not in replies]:
        raise NoReplyError(
            f"no reply to {', '.join(map(repr, missing))} within {timeout_s:g} s; is a worker running? "
            "Call it again: the same attempt is applied once"
        )
    return [replies[id_] for id_ in by_id]


def _publish(application: Application, link: Link, queue: str, by_id: Mapping[str, Command]) -> None:
    sent_as = reply_sender_of(application)
    senders = first_senders(application.engine, list(by_id.values()))
    result = link.publish(
        [
            retry_of(
                command,
                message_id=id_,
                app_id="billing-worker retry",
                sent_as=sent_as,
                sender=senders.get(command.reference_id),
                reply_to=queue,
                partitions=application.settings.partitions,
            )
            for id_, command in by_id.items()
        ]
    )
    result.raise_if_refused()
    if result.returned:
        type_ = result.returned[0].routing_key
        raise ConfigurationError(f"no queue takes {type_}: run `billing-worker topology declare`")


def _replies(
    link: Consumes, by_id: Mapping[str, Command], timeout_s: float, bar: Progress
) -> dict[str, Reply]:
    """Return the replies that come within the time, by their correlation."""
    deadline = monotonic() + timeout_s
    replies: dict[str, Reply] = {}
    while len(replies) < len(by_id) and (left := deadline - monotonic()) > 0:
        deliveries = link.receive(_CHUNK, min(left, _LOOK_S))
        link.acknowledge(deliveries)
        for delivery in deliveries:
            id_ = delivery.text("correlation_id")
            if id_ is not None and id_ in by_id:
                replies[id_] = Reply.model_validate_json(delivery.body)
        bar.update(bar.task_ids[0], completed=len(replies))
        link.keep_alive()
    return replies
