"""The application of a command: settings as flags, and what is built from them."""

from functools import wraps
from pathlib import Path
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.options import Command, Decorator
from worker.ledger.queries import Reader
from worker.runtime.logging import configure_logging
from worker.settings import broker_user, load_settings

_FLAGS: dict[str, Decorator] = {
    "broker_url": click.option(
        "--broker-url",
        help="amqp://user:password@host:5672/vhost, or several hosts by commas  [BILLING_BROKER_URL]",
    ),
    "database_url": click.option(
        "--database-url",
        help="postgresql://user:password@host/db, or several hosts by commas, or sqlite:///file"
        "  [BILLING_DATABASE_URL]",
    ),
    "catalog": click.option(
        "--catalog",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Tiers, packages and prices, a TOML file  [BILLING_CATALOG]",
    ),
    "partitions": click.option(
        "--partitions",
        type=int,
        help="Partitions of the queues of work: 8, 16, 32 or 64; 0: none  [BILLING_PARTITIONS, 0]",
    ),
    "workers": click.option("--workers", type=int, help="Worker processes  [BILLING_WORKERS, 1]"),
    "readers": click.option(
        "--readers", type=int, help="Processes that answer queries  [BILLING_READERS, 1]"
    ),
    "batch_size": click.option(
        "--batch-size", type=int, help="Most messages a transaction  [BILLING_BATCH_SIZE, 500]"
    ),
    "prefetch": click.option("--prefetch", type=int, help="Messages held a queue  [BILLING_PREFETCH, 1500]"),
    "on_limit": click.option(
        "--on-limit",
        type=click.Choice(["pause", "exit"]),
        help="When too many messages in a row meet a fault: pause their lane, or exit with 5"
        "  [BILLING_ON_LIMIT, pause]",
    ),
    "wait_for_schema": click.option(
        "--wait-for-schema",
        is_flag=True,
        default=None,
        help="Wait until the schema is for this version; else exit with 2  [BILLING_WAIT_FOR_SCHEMA]",
    ),
    "http_listen": click.option(
        "--listen",
        "http_listen",
        metavar="HOST:PORT",
        help="Address to serve on  [BILLING_HTTP_LISTEN, 127.0.0.1:8801]",
    ),
    "http_tokens": click.option(
        "--tokens",
        "http_tokens",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File of the tokens, made with `tokens add`  [BILLING_HTTP_TOKENS]",
    ),
    "http_threads": click.option(
        "--threads",
        "http_threads",
        type=int,
        help="Requests that are worked on at a time  [BILLING_HTTP_THREADS, 8]",
    ),
    "metrics_port": click.option(
        "--metrics-port", type=int, help="Serve Prometheus metrics there  [BILLING_METRICS_PORT, none]"
    ),
    "log_level": click.option(
        "--log-level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
        help="[BILLING_LOG_LEVEL, INFO]",
    ),
    "log_format": click.option(
        "--log-format", type=click.Choice(["text", "json"]), help="[BILLING_LOG_FORMAT, text]"
    ),
}


def with_application(*flags: str) -> Decorator:
    """Give a command these settings as flags, and the Application as its first argument."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**parameters: Any) -> Any:
            settings = load_settings(**{name: parameters.pop(name) for name in flags})
            configure_logging(settings.log_level, settings.log_format)
            application = Application(settings)
            try:
                return command(application, **parameters)
            finally:
                if "engine" in vars(application):
                    application.engine.dispose()

        wrapped: Command = run
        for name in reversed(flags):
            wrapped = _FLAGS[name](wrapped)
        return wrapped

    return decorate


def reader_of(application: Application) -> Reader:
    """Return the reader of a ledger whose schema this version may read."""
    application.require_readable_schema()
    return Reader(application.engine)


def sender_of(application: Application) -> str | None:
    """Return the user that publishes here: the broker vouches for it, and rules about senders use it."""
    return broker_user(application.settings.broker_url)


def reply_sender_of(application: Application) -> str:
    """Return the user that names a reply queue of its own; the embedded broker vouches for any name."""
    return sender_of(application) or "operator"
