"""``console``: the pages in the browser, and the users who may sign in to them."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

import click
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.listening import listen_address, refuse_clear_text, require_extra
from worker.cli.options import as_json
from worker.cli.output import show_json, show_table
from worker.cli.statement import as_csv
from worker.errors import ConfigurationError
from worker.runtime.address import Address
from worker.runtime.secret_file import read_secret
from worker.runtime.service_manager import ServiceManager, reported
from worker.runtime.stop import SignalStop
from worker.settings import ENV_PREFIX

if TYPE_CHECKING:
    from worker.http.clients import TrustedProxies

log = logging.getLogger(__name__)

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
    secret_file: Path | None = None
    trusted_proxies: str | None = None

    def signing_key(self) -> SecretStr | None:
        """Return the secret, from its file where that is set. Raises ConfigurationError."""
        if self.secret_file is None:
            return self.secret
        if self.secret is not None:
            raise ConfigurationError(
                "BILLING_CONSOLE_SECRET and BILLING_CONSOLE_SECRET_FILE are both set: keep one"
            )
        return SecretStr(read_secret(self.secret_file, "BILLING_CONSOLE_SECRET_FILE"))


@click.group("console", invoke_without_command=True)
@click.option(
    "--listen",
    default=_DEFAULT,
    show_default=True,
    metavar="HOST:PORT",
    help="Address to serve on. Anything but this machine's own address needs users.",
)
@click.option(
    "--users",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the users, made with `console users add`  [BILLING_CONSOLE_USERS]",
)
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-For and -Proto are believed; repeatable"
    "  [BILLING_CONSOLE_TRUSTED_PROXIES, separated by commas]",
)
@click.option("--read-only", is_flag=True, help="Let nobody change anything.")
@click.option("--https", is_flag=True, help="A proxy serves it through HTTPS: cookies are sent no other way.")
@click.option("--insecure", is_flag=True, help="Let passwords and pages travel in clear text.")
@with_application("broker_url", "database_url", "catalog", "log_level", "log_format")
def console(
    application: Application,
    *,
    listen: str,
    users: Path | None,
    proxies: Sequence[str],
    read_only: bool,
    https: bool,
    insecure: bool,
) -> None:
    """Serve the console: queues, dead letters and accounts in the browser.

    Without users it serves this machine alone, and everybody who reaches it acts as the user that runs it.
    With users everybody signs in: viewers may look, operators may edit, replay and discard dead letters.
    Every action is in the activity log.

    On an address that others reach it needs a proxy with TLS in front (--https), or your word that the
    network is safe (--insecure). Name the proxy with --trusted-proxy: sign-in limits count the clients that
    it names, and what comes past it is refused.

    \b
    Examples:
      billing-worker console
      billing-worker console users add ann --role operator --users users
      billing-worker console --users users --listen 0.0.0.0:8800 --https --trusted-proxy 10.0.0.7
    """
    context = click.get_current_context()
    settings = ConsoleSettings()
    users = settings.users if users is None else users
    if context.invoked_subcommand is not None:
        context.obj = users
        return
    require_extra("console", "the console", "flask_wtf", "waitress")
    address = listen_address(listen, "--listen")
    trusted = _proxies(proxies or (settings.trusted_proxies or "").split(","))
    _serve(
        application,
        address,
        users,
        settings.signing_key(),
        trusted,
        read_only=read_only,
        https=https,
        insecure=insecure,
    )


def _serve(
    application: Application,
    address: Address,
    users: Path | None,
    secret: SecretStr | None,
    proxies: "TrustedProxies",
    *,
    read_only: bool,
    https: bool,
    insecure: bool,
) -> None:
    from worker.console.app import create_app
    from worker.console.context import ConsoleContext
    from worker.console.guard import AccessGuard
    from worker.console.server import serve
    from worker.console.users import Users
    from worker.ledger.workers import WorkerKind
    from worker.processes import present

    console_users = None if users is None else Users(users)
    if console_users is None and not address.is_loopback:
        raise ConfigurationError(
            f"{address.host} can be reached by others, so that the console needs users: add one with "
            "`billing-worker console users add NAME --role operator --users FILE`, and give it with --users"
        )
    if console_users is not None and not len(console_users):
        raise ConfigurationError(
            f"{users} names nobody who could sign in: "
            "`billing-worker console users add NAME --role operator --users FILE`"
        )
    if console_users is None and proxies:
        raise ConfigurationError(
            "a console without users serves nobody through a proxy: add one with "
            "`billing-worker console users add NAME --role operator --users FILE`, and give it with --users"
        )
    refuse_clear_text(address, "passwords", https=https, insecure=insecure)
    if https and not proxies:
        log.warning(
            "--https without --trusted-proxy: everybody behind the proxy counts as one client of the sign-in "
            "limits, and requests past it aren't noticed"
        )
    guard = AccessGuard(
        console_users, address.host, read_only=read_only, proxies=proxies, through_https=https
    )
    context = ConsoleContext(application, guard, as_csv)
    key = token_bytes(32) if secret is None else secret.get_secret_value().encode()
    if len(key) < _SECRET_MIN:
        raise ConfigurationError(
            f"BILLING_CONSOLE_SECRET is too short to sign sessions: at least {_SECRET_MIN} bytes, "
            "such as `openssl rand -hex 32` prints"
        )
    app = create_app(context, key, through_https=https)
    application.hang_up.install()

    def on_listening(url: str) -> None:
        application.health.add_obstacle(lambda: None)
        click.echo(f"console on {url}")

    stop = SignalStop()
    stop.install()
    with (
        reported(ServiceManager.take(os.environ), application.health, stop),
        present(application, WorkerKind.CONSOLE, stop),
    ):
        serve(app, context, address, stop, on_listening, application.turned)


with_role = click.option(
    "--role", type=click.Choice(["viewer", "operator"]), help="Viewers may look, operators may act."
)
with_file = click.option(
    "--users",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the users  [BILLING_CONSOLE_USERS]",
)


@console.group("users")
def users_group() -> None:
    """Add, remove and list the users who may sign in."""


@users_group.command("add")
@click.argument("name")
@with_role
@with_file
@as_json
@click.pass_context
def add(context: click.Context, *, name: str, role: str | None, path: Path | None, as_json: bool) -> None:
    """Add a user, or change the role and the password of one.

    Asks for the password; in a pipe it is read from standard input.

    \b
    Example:
      billing-worker console users add ann --role operator --users users
    """
    from worker.console.users import Role, write_user

    file = _file(context, path)
    if role is None:
        raise click.UsageError("say what the user may do: --role viewer or --role operator")
    write_user(file, name, Role(role), _password())
    if as_json:
        show_json({"name": name, "role": role})
    else:
        click.echo(f"{name} may sign in as {role}")


@users_group.command("remove")
@click.argument("name")
@with_file
@as_json
@click.pass_context
def remove(context: click.Context, *, name: str, path: Path | None, as_json: bool) -> None:
    """Remove a user; open sessions end at once."""
    from worker.console.users import remove_user

    file = _file(context, path)
    if not remove_user(file, name):
        raise ConfigurationError(f"{file} has no user {name!r}")
    if as_json:
        show_json({"removed": name})
    else:
        click.echo(f"removed {name}")


@users_group.command("list")
@with_file
@as_json
@click.pass_context
def list_users(context: click.Context, *, path: Path | None, as_json: bool) -> None:
    """List the users and their roles."""
    from worker.console.users import Users

    users = Users(_file(context, path))
    if as_json:
        listed = [{"name": user.name, "role": user.role.value} for user in users]
        show_json({"users": listed, "next": None})
    else:
        show_table("Users of the console", ("name", "role"), [(user.name, user.role.value) for user in users])


def _file(context: click.Context, path: Path | None) -> Path:
    require_extra("console", "the console", "flask_wtf", "waitress")
    file: Path | None = path or context.obj
    if file is None:
        raise click.UsageError("name the file: --users FILE, or BILLING_CONSOLE_USERS")
    return file


@console.command("user", hidden=True)
@click.argument("name")
@with_role
@with_file
@click.option("--remove", "is_removed", is_flag=True, help="Remove the user.")
@as_json
@click.pass_context
def user(context: click.Context, /, *, is_removed: bool, role: str | None, **parameters: Any) -> None:
    """Add a user, or remove one; `console users add` and `remove` replace it."""
    if is_removed:
        context.invoke(remove, **parameters)
    else:
        context.invoke(add, role=role, **parameters)


def _password() -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.UsageError("the password is not UTF-8") from error


def _proxies(texts: Sequence[str]) -> "TrustedProxies":
    from worker.http.clients import TrustedProxies

    try:
        return TrustedProxies.parse(text for text in map(str.strip, texts) if text)
    except ValueError as error:
        raise click.UsageError(f"--trusted-proxy (BILLING_CONSOLE_TRUSTED_PROXIES) {error}") from None
