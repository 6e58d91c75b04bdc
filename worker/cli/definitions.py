"""``topology definitions``: users with least rights, exchanges, queues and policies, to be imported."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from schemas.partitions import PARTITIONS
from worker.broker import BILLING, JournalLimits
from worker.broker.definitions import definitions, password_hash
from worker.broker.roles import USERS, BrokerUser, own_users, require_apart, sender_rules
from worker.cli.journal_options import with_journal
from worker.cli.passwords import passwords_asked, passwords_in, with_passwords
from worker.errors import ConfigurationError

_SALT_BYTES = 4


@click.command("definitions")
@click.option("--vhost", default="/", show_default=True, help="Virtual host that all of it is in.")
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="ROLE[=NAME]",
    help="A user in this role, named after it or as said; repeat it. Without it: app, gateway, worker, "
    "reader, ops, monitor. Also: producer, listener.",
)
@with_passwords
@click.option("--prompt", is_flag=True, help="Ask for the passwords.")
@click.option("--rights-only", is_flag=True, help="Leave the users out: the broker has them already.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of standard output.",
)
@click.option(
    "--settings",
    is_flag=True,
    help="Print the variables of the workers that fit these users instead, for a shell.",
)
@click.option(
    "--partitions",
    type=click.Choice(["0", *map(str, PARTITIONS)]),
    default="0",
    show_default=True,
    help="Partitions of the queues of work.",
)
@with_journal
def definitions_command(
    *,
    journal: JournalLimits | None,
    partitions: str,
    vhost: str,
    users: Sequence[str],
    folder: Path | None,
    prompt: bool,
    rights_only: bool,
    output: Path | None,
    settings: bool,
) -> None:
    """Print definitions for RabbitMQ: users with least rights, exchanges, queues, policies.

    \b
    They are JSON for one of these:
      rabbitmqctl import_definitions definitions.json
      load_definitions = /etc/rabbitmq/definitions.json   # in rabbitmq.conf

    They hold salted hashes and never a password. Without --passwords or --prompt users have no password and
    can't log in until `rabbitmqctl change_password` gives them one. To import a newer version's rights
    later, say --rights-only: it leaves users and passwords as they are.

    \b
    Examples:
      billing-worker topology definitions --passwords secrets --output definitions.json
      billing-worker topology definitions --user worker --user ops --user app=shop --prompt
      eval "$(billing-worker topology definitions --settings)"
    """
    if sum((folder is not None, prompt, rights_only)) > 1:
        raise click.UsageError("--passwords, --prompt and --rights-only exclude each other")
    chosen = [BrokerUser.parse(text) for text in users] or USERS
    require_apart(chosen)
    if settings:
        _show_settings(chosen)
        return
    names = [user.name for user in chosen]
    hashes = None if rights_only else _hashes(names, folder, prompt=prompt)
    made = definitions(
        BILLING.partitioned(int(partitions)), chosen, vhost=vhost, hashes=hashes, journal=journal
    )
    text = json.dumps(made, indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
    else:
        _write(output, text)
    if hashes == {}:
        click.echo(
            "no user has a password: give each one with `rabbitmqctl change_password NAME`, "
            "or say --passwords FOLDER or --prompt",
            err=True,
        )


def _hashes(names: Sequence[str], folder: Path | None, *, prompt: bool) -> Mapping[str, str]:
    if folder is not None:
        passwords = passwords_in(folder, names)
    else:
        passwords = passwords_asked(names) if prompt else {}
    return {name: password_hash(password, os.urandom(_SALT_BYTES)) for name, password in passwords.items()}


def _show_settings(users: Sequence[BrokerUser]) -> None:
    for name, value in (
        ("BILLING_WORKER_USERS", ",".join(own_users(users))),
        ("BILLING_SENDERS", json.dumps(sender_rules(users))),
    ):
        click.echo(f"export {name}={shlex.quote(value)}")


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all: the broker may read it meanwhile."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(f"{text}\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from error
