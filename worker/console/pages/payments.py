"""Payments that need somebody: the list of incidents, and their retry by an operator."""

from contextlib import closing
from uuid import uuid4

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from schemas import Command
from worker.console.context import context, current_user
from worker.console.parameters import moment_in, text_in
from worker.errors import ConfigurationError, QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import IncidentFilter, IncidentKind, incidents
from worker.payment_retries import RETRIES_MAX, first_senders, log_retries, next_attempts, retry_of
from worker.settings import broker_user

page = Blueprint("payments", __name__)

_LIMIT = 50
_ALL = "all"


@page.get("/payments")
def index() -> ResponseReturnValue:
    """Show a page of the incidents that a filter finds."""
    return _list()


def _list(problem: str | None = None) -> str:
    console = context()
    values = request.args
    filter_ = IncidentFilter(
        kinds=_kinds(text_in(values, "kind")),
        since=moment_in(values, "since"),
        until=moment_in(values, "until"),
        user_id=text_in(values, "user"),
        gateway=text_in(values, "gateway"),
    )
    cursor = values.get("cursor") or None
    with snapshot(console.application.engine) as connection:
        found = incidents(connection, filter_, console.overdue_before(g.now), _LIMIT, cursor)
    names = ("kind", "since", "until", "user", "gateway")
    return render_template(
        "payments.html",
        page=found,
        filter=filter_,
        kinds=[kind.value for kind in IncidentKind],
        kind=text_in(values, "kind") or "",
        given={name: value for name in names if (value := text_in(values, name)) is not None},
        waiting_days=console.catalog.payments.waiting_days,
        cursor=cursor,
        problem=problem,
    )


def _kinds(text: str | None) -> frozenset[IncidentKind]:
    """Return the kinds that are asked for; none for those that need somebody."""
    if text is None:
        return frozenset()
    if text == _ALL:
        return frozenset(IncidentKind)
    if text not in set(IncidentKind):
        raise QueryError(f"no such kind: {text[:40]!r}; there are {', '.join(IncidentKind)} and {_ALL}")
    return frozenset({IncidentKind(text)})


@page.post("/payments/retry")
def retry() -> ResponseReturnValue:
    """Try rejected payments again, for a reason: their next attempts go through the queue."""
    references = request.form.getlist("reference")
    if not references:
        return _list("Select the payments to try again."), 400
    if len(references) > RETRIES_MAX:
        raise QueryError(f"at most {RETRIES_MAX:,} payments can be tried again at once")
    if (reason := text_in(request.form, "reason")) is None:
        return _list("Enter a reason."), 400
    console = context()
    commands = next_attempts(console.application.engine, references)
    log_retries(console.service, commands, reason, current_user().name)
    _publish(commands)
    return redirect(url_for("payments.index", sent=len(commands)), 303)


def _publish(commands: list[Command]) -> None:
    """Publish the commands; nobody waits for their replies, and what is applied leaves the list."""
    application = context().application
    sent_as = broker_user(application.settings.broker_url)
    senders = first_senders(application.engine, commands)
    messages = [
        retry_of(
            command.model_copy(update={"replies": "none"}),
            message_id=uuid4().hex,
            app_id="billing-worker console",
            sent_as=sent_as,
            sender=senders.get(command.reference_id),
            partitions=application.settings.partitions,
        )
        for command in commands
    ]
    with closing(application.link()) as link:
        result = link.publish(messages)
    result.raise_if_refused()
    if result.returned:
        type_ = result.returned[0].routing_key
        raise ConfigurationError(f"no queue takes {type_}: run `billing-worker topology declare`")
