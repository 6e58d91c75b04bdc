"""``account export``: all that the database holds about a user, as one JSON document."""

from itertools import chain
from pathlib import Path

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import with_actor
from worker.privacy.account_export import export_account
from worker.privacy.export_file import write_new


@click.command("export")
@click.argument("user")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this new file, which only you may read, and not to standard output.",
)
@with_actor
@with_application("database_url")
def export_command(application: Application, *, user: str, target: Path | None, actor: str) -> None:
    """Write all that the database holds about USER, as one JSON document.

    {"format": "billing-account/1", "user": …, "exportedAt": …, "tables": {…}}: every table with rows about
    users, each row with all its columns. It is read from one snapshot and written as it is read. The activity
    log says who did it. Exit 4 where nothing is about the user.

    \b
    Examples:
      billing-worker account export ada --output ada.json
      billing-worker account export ada | jq '.tables.entries | length'
    """
    application.require_readable_schema()
    document = export_account(application.engine, user, utc_now())
    first = next(document)  # a missing user makes no file
    application.service().record(actor, "export-account", user)
    pieces = chain([first], document)
    if target is None:
        for piece in pieces:
            click.echo(piece, nl=False)
        return
    click.echo(f"exported {write_new(target, pieces).size:,} bytes to {target}")
