"""Passwords of other people's logins: from a folder of secrets, or asked for on the terminal."""

from collections.abc import Iterable
from pathlib import Path

import click

from worker.errors import ConfigurationError
from worker.runtime.secret_file import read_secret

#: RabbitMQ's hash is one SHA-256: whoever reads it can try short passwords by the billion.
PASSWORD_MIN = 16

with_passwords = click.option(
    "--passwords",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with a file for each user, named after it, that holds the password alone.",
)


def passwords_in(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the password of each name, from the file of that name. Raises ConfigurationError."""
    return {name: _long_enough(name, read_secret(folder / name, f"password of {name}")) for name in names}


def passwords_asked(names: Iterable[str]) -> dict[str, str]:
    """Ask for the password of each name, twice. Raises ConfigurationError for one that is too short."""
    return {name: _long_enough(name, _asked(name)) for name in names}


def _asked(name: str) -> str:
    answer: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def _long_enough(name: str, password: str) -> str:
    if len(password) < PASSWORD_MIN:
        raise ConfigurationError(
            f"password of {name}: it is too short, at least {PASSWORD_MIN} characters; "
            "`openssl rand -hex 24` prints a good one"
        )
    return password
