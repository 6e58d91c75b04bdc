"""``migrate``: the ledger's database at the newest schema."""

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.ledger.engine import translated_errors
from worker.ledger.form import distribute as make_distributed
from worker.ledger.form import is_distributed
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision


@click.command("migrate")
@click.option(
    "--distribute",
    is_flag=True,
    help="Then give the key of the references the slot, and every reference a claim: the tables can be"
    " distributed. Stop all workers, and set BILLING_LEDGER_FORM=distributed. There is no way back.",
)
@with_application("database_url")
@as_json
def migrate_command(application: Application, *, as_json: bool, distribute: bool) -> None:
    """Bring the ledger's database to the newest schema. Safe to run again, and by several at once."""
    engine = application.engine
    before = current_revision(engine)
    migrate(engine)
    after = current_revision(engine)
    with translated_errors(), engine.begin() as connection:
        if distribute:
            make_distributed(connection)
        form = "distributed" if is_distributed(connection) else "whole"
    if as_json:
        show_json({"revision": after, "before": before, "form": form})
        return
    click.echo(f"schema at {after}" + (" already" if before == after else f", was {before or 'empty'}"))
    if form == "distributed":
        click.echo("the tables can be distributed by slot")
