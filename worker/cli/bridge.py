"""``bridge``: the webhooks of payment gateways, published as commands."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.bootstrap import Application
from worker.catalog import Catalog
from worker.cli.application import sender_of, with_application
from worker.cli.listening import listen_address, refuse_clear_text, require_extra
from worker.errors import ConfigurationError
from worker.runtime.address import Address
from worker.runtime.service_manager import ServiceManager, reported
from worker.runtime.stop import SignalStop
from worker.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.gateways.bridge import Endpoint
    from worker.gateways.configuration import BridgeConfig, Secrets
    from worker.gateways.publishing import CommandPublisher

_DEFAULT = "127.0.0.1:8802"
#: Requests that are worked on at a time: nearly all of their time is the wait for a confirm.
_THREADS = 8


class BridgeSettings(BaseSettings):
    """Settings of the bridge alone, from ``BILLING_BRIDGE_…`` or ``.env``: no worker needs them."""

    model_config = SettingsConfigDict(
        env_prefix=f"{ENV_PREFIX}BRIDGE_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
    )

    config: Path | None = None
    listen: str = _DEFAULT
    stripe_secrets: SecretStr | None = None
    stripe_secrets_file: Path | None = None
    paddle_secrets: SecretStr | None = None
    paddle_secrets_file: Path | None = None


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Gateways, prices and metadata keys, a TOML file  [BILLING_BRIDGE_CONFIG]",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Address to serve on  [BILLING_BRIDGE_LISTEN, {_DEFAULT}]",
)
@click.option("--https", is_flag=True, help="A proxy in front serves it through HTTPS.")
@click.option("--insecure", is_flag=True, help="Let payment data travel in clear text.")
@click.option("--check", is_flag=True, help="Check configuration, secrets and broker, and end.")
@with_application("broker_url", "catalog", "metrics_port", "log_level", "log_format")
def bridge(
    application: Application,
    *,
    config: Path | None,
    listen: str | None,
    https: bool,
    insecure: bool,
    check: bool,
) -> None:
    """Publish the webhooks of Stripe and Paddle Billing as commands; until SIGTERM.

    Give the gateway the URL https://your.host/webhooks/stripe or …/paddle. A webhook is answered with 2xx
    once the broker has confirmed its commands, or where it gives none: the answer and the log say why. What
    can't be verified or read gets a 4xx. While the broker is away it is a 503, and the gateway sends again.
    An event that comes twice is applied once: nothing is kept here, and any number of bridges may run.

    The file says which metadata and which price is whose. Everything in it but one table is optional:

    \b
      mode = "live"                      # "test": test events alone
      replies = "none"                   # "all": to billing.replies
      [stripe]
      user_key = "user_id"               # keys of the metadata
      package_key = "package_id"
      source = "payment_intent"          # or "checkout_session", "charge"
      [stripe.packages]
      price_1SbStarter = "starter"       # a package of the catalog
      [stripe.tiers]
      price_1SbPro = "pro"
      [stripe.customers]
      cus_Ada = "ada"                    # or all: customer_is_user = true
      [paddle]
      sandbox = false

    Secrets are in BILLING_BRIDGE_STRIPE_SECRETS and BILLING_BRIDGE_PADDLE_SECRETS, or in the files that
    …_SECRETS_FILE name; several by commas while they change.

    \b
    Examples:
      billing-worker bridge --config bridge.toml --check
      billing-worker bridge --config bridge.toml
      billing-worker bridge --config bridge.toml --listen 0.0.0.0:8802 --https
    """
    require_extra("http", "the bridge", "flask", "waitress")
    settings = BridgeSettings()
    endpoints, loaded = _endpoints(application, settings, config)
    address = listen_address(
        settings.listen if listen is None else listen, "--listen (BILLING_BRIDGE_LISTEN)"
    )
    refuse_clear_text(address, "payment data", https=https, insecure=insecure)
    publisher = _publisher(application)
    try:
        if check:
            publisher.probe()
            click.echo(f"ok: {', '.join(endpoint.gateway for endpoint in endpoints)}, broker")
        else:
            _serve(application, address, endpoints, loaded, publisher)
    finally:
        publisher.close()


def _endpoints(
    application: Application, settings: BridgeSettings, path: Path | None
) -> "tuple[Sequence[Endpoint], BridgeConfig]":
    """Return the endpoints and their configuration. Raises ConfigurationError that names the key."""
    from worker.gateways.configuration import endpoints_of, load_bridge_config

    path = settings.config if path is None else path
    if path is None:
        raise ConfigurationError(
            "name the file of gateways and prices: --config FILE, or BILLING_BRIDGE_CONFIG; "
            "`billing-worker bridge --help` shows one"
        )
    config = load_bridge_config(path)

    def judge(catalog: Catalog) -> None:
        config.require_sold([package.id for package in catalog.packages], catalog.tiers)

    judge(application.catalog)
    application.catalog_reload.add(lambda _: None, judge)
    return endpoints_of(config, _secrets(settings)), config


def _secrets(settings: BridgeSettings) -> "Secrets":
    from worker.gateways.configuration import Secrets

    return Secrets(
        stripe=_secrets_in(settings.stripe_secrets, settings.stripe_secrets_file),
        paddle=_secrets_in(settings.paddle_secrets, settings.paddle_secrets_file),
    )


def _secrets_in(text: SecretStr | None, path: Path | None) -> "Sequence[str]":
    """Return the secrets of the variable and of the file."""
    from worker.gateways.configuration import split_secrets

    given = "" if text is None else text.get_secret_value()
    if path is not None:
        try:
            given = f"{given} {path.read_text(encoding='utf-8')}"
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(f"bridge: the secrets in {path} can't be read: {why}") from None
    return split_secrets(given)


def _publisher(application: Application) -> "CommandPublisher":
    from worker.broker import open_link
    from worker.gateways.publishing import CommandPublisher

    url = application.broker_url
    return CommandPublisher(
        lambda: open_link(url, name="billing-bridge"),
        sent_as=sender_of(application),
        partitions=application.settings.partitions,
        clock=application.clock,
    )


def _serve(
    application: Application,
    address: Address,
    endpoints: "Sequence[Endpoint]",
    config: "BridgeConfig",
    publisher: "CommandPublisher",
) -> None:
    from schemas import Limits
    from worker.gateways.bridge import WEBHOOK_MAX_BYTES, Bridge
    from worker.http.server import ServerLimits
    from worker.http.server import serve as serve_until
    from worker.http.webhooks import WebhookDoor, create_webhooks_app
    from worker.metrics import ProcessRole
    from worker.runtime.cached_value import CachedValue

    clock = application.clock
    stop = SignalStop()
    stop.install()
    app = create_webhooks_app(
        WebhookDoor(
            Bridge(
                publisher,
                # Whether an id is new is the worker's to say: a bridge has no ledger.
                limits=Limits(max_quantity=application.settings.max_quantity, ids=None),
                clock=clock,
                replies=config.replies,
            ),
            endpoints,
            CachedValue(
                publisher.probe, name="the broker", max_age_s=1.0, timeout_s=2.0, clock=clock, pause_factor=1
            ),
            application.metrics,
            is_stopping=lambda: stop.requested,
        )
    )
    application.hang_up.install()
    application.serve_metrics(ProcessRole.HTTP, ProcessRole.BRIDGE)
    with reported(ServiceManager.take(os.environ), application.health, stop):
        serve_until(
            app,
            address,
            stop,
            application.metrics,
            limits=ServerLimits(_THREADS, body_max=WEBHOOK_MAX_BYTES),
            on_listening=partial(_on_listening, application),
            turned=application.turned,
        )


def _on_listening(application: Application, url: str) -> None:
    application.health.add_obstacle(lambda: None)
    click.echo(f"serving on {url}")
