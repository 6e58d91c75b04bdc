"""``migrate``: the ledger's database at the newest schema, and the roles that use it."""

from collections.abc import Sequence
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.cli.passwords import passwords_in, with_passwords
from worker.ledger.engine import translated_errors
from worker.ledger.form import is_distributed
from worker.ledger.migrations import migrate
from worker.ledger.revisions import current_revision, newest_revision
from worker.ledger.roles import RoleNames, RolesWanted, grant_rights, prepare_roles, role_statements


@click.command("migrate")
@click.option(
    "--distribute",
    is_flag=True,
    help="Print the statements that distribute the migrated ledger by slot over the nodes of a Citus cluster,"
    " and what forbids it; change nothing.",
)
@click.option("--yes", "is_sure", is_flag=True, help="Run what --distribute prints. There is no way back.")
@click.option(
    "--yes-move",
    "may_move",
    is_flag=True,
    help="With --distribute: also where the tables have rows, which are copied to the nodes meanwhile.",
)
@click.option(
    "--roles",
    is_flag=True,
    help="Make the database roles billing_owner, billing_worker, billing_reader and billing_privacy with"
    " least rights, too.",
)
@click.option(
    "--role",
    "renamed",
    multiple=True,
    metavar="KIND=NAME",
    help="Another name for the owner, worker, reader or privacy, such as owner=billing; with --roles.",
)
@with_passwords
@click.option("--dry-run", is_flag=True, help="Print the statements of --roles, and change nothing.")
@with_application("database_url")
@as_json
def migrate_command(
    application: Application,
    *,
    as_json: bool,
    distribute: bool,
    is_sure: bool,
    may_move: bool,
    roles: bool,
    renamed: Sequence[str],
    folder: Path | None,
    dry_run: bool,
) -> None:
    """Bring the ledger's database to the newest schema. Safe to run again, and by several at once.

    With --roles it also makes four roles, as a superuser or another login that may: the owner of the tables;
    the workers' (SELECT, INSERT, UPDATE; no DELETE on the ledger, no DDL); one that reads; and one without a
    login, which is granted to those who erase accounts. Rights on tables are set anew each time. --passwords
    FOLDER gives the worker and the reader theirs, from the files billing_worker and billing_reader; the
    server keeps a hash, and logs see no more. Where BILLING_SESSION_SETTINGS is `role`, they get the settings
    of their sessions as well.

    \b
    Examples:
      billing-worker migrate --roles --dry-run
      billing-worker migrate --roles --passwords secrets
      billing-worker migrate --roles --role owner=billing
      billing-worker migrate --distribute
      billing-worker migrate --distribute --yes
    """
    if (is_sure or may_move) and not distribute:
        raise click.UsageError("--yes and --yes-move go with --distribute")
    if distribute and roles:
        raise click.UsageError("--distribute and --roles are two runs: make the roles first")
    if distribute:
        from worker.cli.distribute import show_or_distribute

        show_or_distribute(application, run=is_sure, may_move=may_move, as_json=as_json)
        return
    if not roles and (renamed or folder is not None or dry_run):
        raise click.UsageError("--role, --passwords and --dry-run go with --roles")
    wanted = _roles_wanted(application, _names(renamed), folder) if roles else None
    if wanted is not None and dry_run:
        _show_statements(application, wanted, as_json=as_json)
        return
    engine = application.engine
    before = current_revision(engine)
    if wanted is not None:
        prepare_roles(engine, wanted)
    migrate(engine, owner=None if wanted is None else wanted.names.owner)
    after = current_revision(engine)
    with translated_errors(), engine.begin() as connection:
        form = "distributed" if is_distributed(connection) else "whole"
    if wanted is not None:
        grant_rights(engine, wanted)
    if as_json:
        made = {} if wanted is None else {"roles": _as_dict(wanted.names)}
        show_json({"revision": after, "before": before, "form": form, **made})
        return
    click.echo(f"schema at {after}" + (" already" if before == after else f", was {before or 'empty'}"))
    if form == "distributed":
        click.echo("the tables are distributed by slot")
    if wanted is not None:
        _show_roles(wanted)


def _names(renamed: Sequence[str]) -> RoleNames:
    """Return the names of the roles. Raises UsageError."""
    names = _as_dict(RoleNames())
    for text in renamed:
        kind, _, name = text.partition("=")
        if kind not in names or not name:
            raise click.UsageError(f"--role {text}: say {' or '.join(f'{each}=NAME' for each in names)}")
        names[kind] = name
    return RoleNames(**names)


def _as_dict(names: RoleNames) -> dict[str, str]:
    return {
        "owner": names.owner,
        "worker": names.worker,
        "reader": names.reader,
        "privacy": names.privacy,
    }


def _roles_wanted(application: Application, names: RoleNames, folder: Path | None) -> RolesWanted:
    # The tables of dead letters are the database's as well.
    from worker.deadletters.store.tables import dead_letters

    on_role = application.settings.session_settings == "role"
    return RolesWanted(
        names,
        ("alembic_version", *dead_letters.metadata.tables),
        {} if folder is None else passwords_in(folder, names.logins),
        application.settings_of_roles(names) if on_role else {},
    )


def _show_statements(application: Application, wanted: RolesWanted, *, as_json: bool) -> None:
    before, after = role_statements(application.engine, wanted)
    if as_json:
        show_json({"before": before, "after": after, "roles": _as_dict(wanted.names)})
        return
    current = current_revision(application.engine) or "empty"
    migration = (
        f"-- the migration, as {wanted.names.owner}: the schema is {current}, needed is {newest_revision()}"
    )
    for line in (*before, migration, *after):
        click.echo(line)


def _show_roles(wanted: RolesWanted) -> None:
    names = wanted.names
    click.echo(f"{names.owner}: owns the tables")
    click.echo(f"{names.worker}: works with them")
    click.echo(f"{names.reader}: reads them")
    click.echo(f"{names.privacy}: erases accounts; grant it to who may")
    for name in names.logins:
        if name not in wanted.passwords:
            click.echo(f"{name}: its password stays as it is; set one with --passwords", err=True)
