"""Options that commands share, and what they work with: the application, the reader, the actor."""

import getpass
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.output import SHOWS_ALL
from worker.cli.times import TIME
from worker.ledger.queries import Reader
from worker.runtime.logging import configure_logging
from worker.settings import broker_user, load_settings

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

# -- settings and the application -------------------------------------------------------------------------

_FLAGS: dict[str, Decorator] = {
    "broker_url": click.option(
        "--broker-url", help="amqp://user:password@host:5672/vhost  [BILLING_BROKER_URL]"
    ),
    "database_url": click.option(
        "--database-url", help="postgresql://user:password@host/db or sqlite:///file  [BILLING_DATABASE_URL]"
    ),
    "catalog": click.option(
        "--catalog",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Tiers, packages and prices, a TOML file  [BILLING_CATALOG]",
    ),
    "workers": click.option("--workers", type=int, help="Worker processes  [BILLING_WORKERS, 1]"),
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
            _refuse_broken_text(parameters)
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


def _refuse_broken_text(parameters: Mapping[str, Any]) -> None:
    """Refuse arguments that aren't UTF-8: they come as halves of surrogate pairs, which nothing can store."""
    for name, value in parameters.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise click.UsageError(f"{name.replace('_', '-')} is not UTF-8") from error


def reader_of(application: Application) -> Reader:
    """Return the reader of a ledger that is at the newest schema."""
    application.require_newest_schema()
    return Reader(application.engine)


def sender_of(application: Application) -> str | None:
    """Return the user that publishes here: the broker vouches for it, and rules about senders use it."""
    return broker_user(application.settings.broker_url)


def reply_sender_of(application: Application) -> str:
    """Return the user that names a reply queue of its own; the embedded broker vouches for any name."""
    return sender_of(application) or "operator"


# -- options under two names ------------------------------------------------------------------------------


class AliasedOption(click.Option):
    """Option that also answers to the names of the version before, which its help doesn't show."""

    def __init__(self, *arguments: Any, aliases: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.aliases = list(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register all names."""
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


def time_option(name: str, parameter: str, help_: str, *, aliases: Sequence[str] = ()) -> Decorator:
    """Return an option that takes a time in any form of ``times``."""
    return click.option(
        name, parameter, type=TIME, metavar="TIME", help=help_, cls=AliasedOption, aliases=aliases
    )


with_timezone = click.option(
    "--tz",
    "--timezone",
    "timezone",
    default="UTC",
    show_default=True,
    help="Time zone in which days begin and end, such as Europe/Berlin.",
)


# -- who acts ---------------------------------------------------------------------------------------------


def operator() -> str:
    """Return the user who runs the command; "unknown" where the system has no name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return "unknown"


def named_operator() -> str:
    """Return the user who runs the command. Raises UsageError where the system has no name for them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise click.UsageError("this process has no login name; say who does it with --actor") from error


def actor_option(default: Callable[[], str] = operator) -> Decorator:
    """Return the option that names who acts."""
    return click.option(
        "--actor",
        default=default,
        show_default="your login name",
        help="Who does it; kept in the activity log.",
        cls=AliasedOption,
        aliases=["--as"],
    )


with_actor = actor_option()

# -- forms of output --------------------------------------------------------------------------------------

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")


def _show_all(ctx: click.Context, _: click.Parameter, is_wide: bool) -> None:  # noqa: FBT001 - as click calls it
    ctx.meta[SHOWS_ALL] = is_wide


with_wide = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    callback=_show_all,
    help="Show all columns, uncut, however narrow the terminal is.",
)

# -- pages ------------------------------------------------------------------------------------------------


def limit_option(default: int, what: str) -> Decorator:
    """Return the option that limits a page."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        help=f"{what} a page, at most 1000.",
    )


def cursor_option(
    type_: click.ParamType[Any, Any] = click.STRING, *, aliases: Sequence[str] = ()
) -> Decorator:
    """Return the option that goes on behind a page."""
    return click.option(
        "--cursor",
        type=type_,
        help="Go on behind a page: the cursor that it named.",
        cls=AliasedOption,
        aliases=aliases,
    )


def show_next(cursor: str | int | None) -> None:
    """Show the command for the next page, on standard error; nothing at the end."""
    if cursor is None:
        return
    words = ["billing-worker", *_without_cursor(sys.argv[1:]), "--cursor", str(cursor)]
    click.echo(f"next page: {shlex.join(words)}", err=True)


_CURSORS = ("--cursor", "--before", "--after", "--offset")


def _without_cursor(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    is_value = False
    for word in words:
        is_cursor = word in _CURSORS
        if not (is_value or is_cursor or word.startswith(tuple(f"{name}=" for name in _CURSORS))):
            kept.append(word)
        is_value = is_cursor
    return kept
