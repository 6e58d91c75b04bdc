"""``tokens``: the bearer tokens that may ask over HTTP."""

from collections.abc import Sequence
from pathlib import Path

import click

from schemas.http import TokenScope
from worker.bootstrap import utc_now
from worker.cli.options import Decorator, as_json
from worker.cli.output import show_json, show_table
from worker.cli.unknown_names import warn_of_unknown_names
from worker.http.tokens import Tokens, add_token, remove_token
from worker.runtime.logging import configure_logging
from worker.settings import load_settings

_SCOPES = click.Choice([scope.value for scope in TokenScope])

_with_file: Decorator = click.option(
    "--tokens",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of the tokens  [BILLING_HTTP_TOKENS]",
)


@click.group()
def tokens() -> None:
    """Add, list and remove the bearer tokens that may ask over HTTP.

    The file keeps a token's name, its scopes and its SHA-256, a JSON object a line; the token itself is
    shown once. A running `billing-worker serve` reads the file again when it changes.

    To exchange a token without a gap: add one of another name, hand it out, then remove the old one.
    """
    configure_logging("INFO", "text")
    warn_of_unknown_names()


@tokens.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=_SCOPES,
    multiple=True,
    required=True,
    help="Queries that it opens: accounts (users, operations, the catalog) or stats (totals of all). "
    "May be given twice.",
)
@_with_file
@as_json
def add(*, name: str, scopes: Sequence[str], path: Path | None, as_json: bool) -> None:
    """Make a token, and print it this once. The file keeps its SHA-256 alone.

    \b
    Examples:
      billing-worker tokens add app --scope accounts --tokens tokens
      billing-worker tokens add reports --scope accounts --scope stats --tokens tokens
    """
    secret = add_token(_file(path), name, map(TokenScope, scopes), utc_now())
    if as_json:
        show_json({"name": name, "scopes": sorted(set(scopes)), "token": secret})
        return
    click.echo(secret)
    click.echo(
        f"keep it now: the file has only its SHA-256; scope {', '.join(sorted(set(scopes)))}", err=True
    )


@tokens.command("remove")
@click.argument("name")
@_with_file
@as_json
def remove(*, name: str, path: Path | None, as_json: bool) -> None:
    """Remove a token; it opens nothing from then on."""
    remove_token(_file(path), name)
    if as_json:
        show_json({"removed": name})
    else:
        click.echo(f"removed {name}")


@tokens.command("list")
@_with_file
@as_json
def list_tokens(*, path: Path | None, as_json: bool) -> None:
    """List the tokens by their names, with their scopes."""
    found = list(Tokens(_file(path)))
    if as_json:
        listed = [
            {"name": token.name, "scopes": sorted(token.scopes), "createdAt": token.created_at}
            for token in found
        ]
        show_json({"tokens": listed, "next": None})
        return
    rows = [(token.name, ", ".join(sorted(token.scopes)), token.created_at) for token in found]
    show_table("Tokens", ("name", "scopes", "created"), rows)


def _file(path: Path | None) -> Path:
    file = path or load_settings().http_tokens
    if file is None:
        raise click.UsageError("name the file: --tokens FILE, or BILLING_HTTP_TOKENS")
    return file
