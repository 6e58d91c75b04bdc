"""``replies``: the replies that wait in a queue, shown or taken."""

import json
from typing import Any

import click

from worker.bootstrap import Application
from worker.broker import BILLING, Delivery
from worker.cli.application import with_application
from worker.cli.output import echo_json

_CHUNK = 500
_SHOWN = 20


@click.command()
@with_application("broker_url")
@click.option("--queue", default=BILLING.replies.name, show_default=True, help="Queue of the replies.")
@click.option("--limit", type=click.IntRange(1), help="Number to show; 20 without --take.")
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C; with --take.")
@click.option("--take", is_flag=True, help="Remove what is shown; without it everything goes back.")
def replies(application: Application, *, queue: str, limit: int | None, follow: bool, take: bool) -> None:
    """Show the replies that wait in a queue, one JSON object a line.

    A stream of JSON lines by nature: it needs no --json.

    Without --take the replies go back to the queue at the end, possibly in another order. Each look counts as
    a delivery then, and RabbitMQ drops a message after as many as its policy allows (20 from 4.0 on, unless
    the policy that `topology declare` prints is set).
    """
    if follow and not take:
        raise click.UsageError("--follow keeps what it shows from everybody else; say --take as well")
    left = limit if take or limit is not None else _SHOWN
    # No more is held than is shown: a message that is only held counts as delivered, too.
    link = application.link(consume=[queue], prefetch=min(left or _CHUNK, _CHUNK))
    try:
        while left is None or left > 0:
            deliveries = link.receive(min(left or _CHUNK, _CHUNK), 1.0)
            if not deliveries and not follow:
                return
            for delivery in deliveries:
                echo_json(json.dumps(_reply_line(delivery), ensure_ascii=False))
            if take:
                link.acknowledge(deliveries)
            left = None if left is None else left - len(deliveries)
            link.keep_alive()
    except KeyboardInterrupt:
        return
    finally:
        link.close()


def _reply_line(delivery: Delivery) -> dict[str, Any]:
    try:
        reply = json.loads(delivery.body)
    except (ValueError, RecursionError):
        reply = {"unreadable": delivery.body[:200].hex()}
    fields = reply if isinstance(reply, dict) else {"body": reply}
    return {"correlationId": delivery.text("correlation_id"), **fields}
