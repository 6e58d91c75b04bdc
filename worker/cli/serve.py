"""``serve``: the queries over HTTP, read only."""

import logging
import os
from functools import partial
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.listening import listen_address, refuse_clear_text, require_extra
from worker.errors import ConfigurationError, TransientError
from worker.runtime.address import Address
from worker.runtime.service_manager import ServiceManager, reported
from worker.runtime.stop import SignalStop

log = logging.getLogger(__name__)


@click.command()
@with_application(
    "database_url",
    "catalog",
    "http_listen",
    "http_tokens",
    "http_threads",
    "wait_for_schema",
    "metrics_port",
    "log_level",
    "log_format",
)
@click.option("--https", is_flag=True, help="A proxy in front serves it through HTTPS.")
@click.option("--insecure", is_flag=True, help="Let tokens and balances travel in clear text.")
def serve(application: Application, *, https: bool, insecure: bool) -> None:
    """Serve the queries over HTTP, read only; until SIGTERM.

    Each query is a GET: query.balance is /v1/balance?userId=ada. Answers are those of the broker, errors
    are problems (application/problem+json) with the same codes and texts. /openapi.json describes all of
    it, /healthz says that the process lives, /readyz that the ledger answers; these three need no token.

    Every query needs a bearer token with its scope: `stats` for /v1/stats, `accounts` for all others.
    Tokens are sent in clear text: on an address that others reach this needs a proxy with TLS in front
    (--https), or your word that the network is safe (--insecure).

    SIGTERM (or Ctrl-C) takes no more connections, answers what has arrived, and ends with 0.

    \b
    Examples:
      billing-worker tokens add app --scope accounts --tokens tokens
      billing-worker serve --tokens tokens
      curl -H "Authorization: Bearer $TOKEN" "http://127.0.0.1:8801/v1/balance?userId=ada"
      billing-worker serve --tokens tokens --listen 0.0.0.0:8801 --https
    """
    require_extra("http", "serving", "flask", "waitress")
    address = listen_address(application.settings.http_listen, "--listen (BILLING_HTTP_LISTEN)")
    refuse_clear_text(address, "tokens", https=https, insecure=insecure)
    _serve(application, address)


def _serve(application: Application, address: Address) -> None:
    from schemas import Limits
    from worker.cli.run import collect_seldom
    from worker.http.access import Access
    from worker.http.app import Door, create_app
    from worker.http.asking import Asker
    from worker.http.readiness import readiness_of
    from worker.http.server import ServerLimits
    from worker.http.server import serve as serve_until
    from worker.ledger.workers import WorkerKind
    from worker.metrics import ProcessRole
    from worker.processes import present

    settings = application.settings
    tokens = _tokens(application)
    _require_schema(application)
    stop = SignalStop()
    stop.install()
    service = application.queries()
    outages = application.metrics.outages.labels("database")
    app = create_app(
        Door(
            access=Access(tokens),
            asker=Asker(service, max(1, settings.http_threads // 2), outages.inc),
            limits=Limits(max_quantity=settings.max_quantity),
            readiness=readiness_of(service, application.require_readable_schema, application.clock),
            metrics=application.metrics,
            is_stopping=lambda: stop.requested,
        )
    )
    application.hang_up.install()
    application.serve_metrics(ProcessRole.HTTP)
    collect_seldom()
    application.health.add_probe(application.readable())
    try:
        with (
            reported(ServiceManager.take(os.environ), application.health, stop),
            present(application, WorkerKind.SERVE, stop),
        ):
            serve_until(
                app,
                address,
                stop,
                application.metrics,
                limits=ServerLimits(settings.http_threads),
                on_listening=partial(_on_listening, application),
                turned=application.turned,
            )
    finally:
        service.close()


def _on_listening(application: Application, url: str) -> None:
    application.health.add_obstacle(lambda: None)
    click.echo(f"serving on {url}")


def _tokens(application: Application) -> Any:
    """Return the tokens. Raises ConfigurationError where nobody could get in."""
    from worker.http.tokens import Tokens

    path = application.settings.http_tokens
    if path is None:
        raise ConfigurationError(
            "name the file of tokens: --tokens FILE, or BILLING_HTTP_TOKENS; "
            "`billing-worker tokens add NAME --scope accounts --tokens FILE` makes one"
        )
    tokens = Tokens(path)
    if not len(tokens):
        raise ConfigurationError(
            f"{path} has no token, and nobody could ask: "
            f"`billing-worker tokens add NAME --scope accounts --tokens {path}`"
        )
    return tokens


def _require_schema(application: Application) -> None:
    """Refuse another schema, unless it is to be waited for.

    An outage is no reason not to start: requests get an error, and wait for its end.
    """
    try:
        application.require_readable_schema()
    except TransientError as error:
        log.warning("%s; serving begins when it is back", error)
    except ConfigurationError as error:
        if not application.settings.wait_for_schema:
            raise
        log.warning("waiting for the schema, and not ready before: %s", error)
