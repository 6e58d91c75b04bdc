"""``migrate``: the ledger's database at the newest schema."""

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision


@click.command("migrate")
@with_application("database_url")
@as_json
def migrate_command(application: Application, *, as_json: bool) -> None:
    """Bring the ledger's database to the newest schema. Safe to run again, and by several at once."""
    before = current_revision(application.engine)
    migrate(application.engine)
    after = current_revision(application.engine)
    if as_json:
        show_json({"revision": after, "before": before})
    else:
        click.echo(f"schema at {after}" + (" already" if before == after else f", was {before or 'empty'}"))
