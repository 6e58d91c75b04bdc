"""``console``: the pages in the browser, and who may sign in to them."""

import sys
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

import click
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.bootstrap import Application
from worker.cli.options import with_application
from worker.cli.statement import as_csv
from worker.errors import ConfigurationError
from worker.settings import ENV_PREFIX

if TYPE_CHECKING:
    from worker.console.guard import Address

_DEFAULT = "127.0.0.1:8800"
_SECRET_MIN = 16


class ConsoleSettings(BaseSettings):
    """Settings of the console alone, from ``BILLING_CONSOLE_…`` or ``.env``: no worker needs them."""

    model_config = SettingsConfigDict(
        env_prefix=f"{ENV_PREFIX}CONSOLE_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
    )

    users: Path | None = None
    secret: SecretStr | None = None


@click.group("console", invoke_without_command=True)
@click.option(
    "--listen",
    default=_DEFAULT,
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve. Anything but this machine's own address needs users.",
)
@click.option(
    "--users",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Who may sign in, a file made with `console user`  [BILLING_CONSOLE_USERS]",
)
@click.option("--read-only", is_flag=True, help="Nobody may change anything.")
@click.option(
    "--https", is_flag=True, help="It is reached through HTTPS, by a proxy: cookies are sent no other way."
)
@with_application("broker_url", "database_url", "catalog", "log_level", "log_format")
def console(
    application: Application, *, listen: str, users: Path | None, read_only: bool, https: bool
) -> None:
    """Look at queues, dead letters and accounts in the browser, mend letters, send them again.

    Without users it serves this machine alone, and whoever reaches it acts as the user that runs it. With
    users everybody signs in: viewers may look, operators may act. Every action is in the audit log.

    \b
    Examples:
      billing-worker console
      billing-worker console user ann --role operator --users users
      billing-worker console --users users --listen 0.0.0.0:8800 --https
    """
    context = click.get_current_context()
    settings = ConsoleSettings()
    users = settings.users if users is None else users
    if context.invoked_subcommand is not None:
        context.obj = users
        return
    _serve(application, _address(listen), users, settings.secret, read_only=read_only, https=https)


def _serve(
    application: Application,
    address: "Address",
    users: Path | None,
    secret: SecretStr | None,
    *,
    read_only: bool,
    https: bool,
) -> None:
    from worker.console.app import create_app
    from worker.console.context import ConsoleContext
    from worker.console.guard import AccessGuard
    from worker.console.server import serve
    from worker.console.users import Users

    console_users = None if users is None else Users(users)
    if console_users is None and not address.is_loopback:
        raise ConfigurationError(
            f"{address.host} can be reached by others, so that the console needs users: make one with "
            "`billing-worker console user NAME --role operator --users FILE`, and name the file by --users"
        )
    if console_users is not None and not len(console_users):
        raise ConfigurationError(
            f"{users} names nobody who could sign in: "
            "`billing-worker console user NAME --role operator --users FILE`"
        )
    guard = AccessGuard(console_users, address.host, read_only=read_only)
    context = ConsoleContext(application, guard, as_csv)
    key = token_bytes(32) if secret is None else secret.get_secret_value().encode()
    if len(key) < _SECRET_MIN:
        raise ConfigurationError(
            f"BILLING_CONSOLE_SECRET is too short to sign sessions: at least {_SECRET_MIN} bytes, "
            "such as `openssl rand -hex 32` prints"
        )
    app = create_app(context, key, through_https=https)
    serve(app, context, address, lambda url: click.echo(f"console on {url}"))


@console.command("user")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["viewer", "operator"]), help="Viewers may look, operators may act."
)
@click.option(
    "--users",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write to  [BILLING_CONSOLE_USERS]",
)
@click.option("--remove", is_flag=True, help="Take the user out; open sessions end at once.")
@click.pass_context
def user(context: click.Context, *, name: str, role: str | None, users: Path | None, remove: bool) -> None:
    """Add a user of the console, or change the role and the password of one.

    Asks for the password; in a pipe it is read from standard input.

    \b
    Example:
      billing-worker console user ann --role operator --users users
    """
    _require_extra()
    from worker.console.users import Role, remove_user, write_user

    path = users or context.obj
    if path is None:
        raise click.UsageError("name the file: --users FILE, or BILLING_CONSOLE_USERS")
    if remove:
        if not remove_user(path, name):
            raise ConfigurationError(f"{path} has no user {name!r}")
        click.echo(f"removed {name}")
        return
    if role is None:
        raise click.UsageError("say what the user may do: --role viewer or --role operator")
    write_user(path, name, Role(role), _password())
    click.echo(f"{name} may sign in as {role}")


def _password() -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    return sys.stdin.readline().rstrip("\r\n")


def _address(text: str) -> "Address":
    _require_extra()
    from worker.console.guard import Address

    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or not host:
        raise click.UsageError(f"--listen takes HOST:PORT such as {_DEFAULT}, not {text!r}")
    return Address(host.strip("[]"), int(port))


def _require_extra() -> None:
    """Raise ConfigurationError where the packages that only the console needs are not installed."""
    try:
        import flask_wtf
        import waitress

        _: Any = (flask_wtf, waitress)
    except ImportError as error:
        raise ConfigurationError(
            f"the console needs the extra `console` ({error.name} is missing): "
            "pip install 'billing-worker[console]'"
        ) from error
