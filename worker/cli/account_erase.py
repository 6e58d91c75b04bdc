"""``account erase``: a pseudonym takes the place of a user's id, and texts and bodies go."""

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import actor_option, as_json, named_operator
from worker.cli.output import show_fields, show_json
from worker.privacy.erasure import Erasure, erase

_TABLES = {"audit_log": "activity log", "superseded_outcomes": "superseded outcomes"}


@click.command("erase")
@click.argument("user")
@click.option("--reason", required=True, help="Why; kept in the activity log, and must not name the user.")
@click.option(
    "--yes", "is_meant", is_flag=True, help="Do it. Without it: show what would go, change nothing."
)
@click.option(
    "--force",
    is_flag=True,
    help="Also with a balance, a debt, holds or a subscription: they go on under the pseudonym.",
)
@actor_option(named_operator)
@with_application("database_url")
@as_json
def erase_command(
    application: Application,
    *,
    user: str,
    reason: str,
    is_meant: bool,
    force: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Erase USER: a pseudonym takes the place of the id, for ever. Exit 4 where nothing is about the user.

    Without --yes it is a dry run: the work is done and taken back, and the counts are true. The id goes out
    of every table, also from within references; descriptions, metadata, reasons and the bodies of dead
    letters go whole. Entries and sums stay, and `audit` proves them as before. The login must have the role
    billing_privacy. There is no way back, and a command of the user is refused from then on: a person who
    returns needs a new id. Run it again for what has come since.

    \b
    Examples:
      billing-worker account erase ada --reason "request 4711"
      billing-worker account erase ada --reason "request 4711" --yes
    """
    application.require_usable_schema()
    done = erase(
        application.engine, utc_now(), user, reason=reason, actor=actor, force=force, dry_run=not is_meant
    )
    if as_json:
        show_json(_as_dict(done))
        return
    show_fields(
        "", [("rows of " + _TABLES.get(name, _words(name)), count) for name, count in done.rows.items()]
    )
    if done.kept or done.left:
        click.echo(
            f"{done.kept + done.left} references of other users hold the id, and stay: "
            "they decide what counts once",
            err=True,
        )
    if done.is_done:
        click.echo(f"erased: the account is {done.pseudonym} from now on" if done.had_account else "erased")
    else:
        click.echo("a dry run: nothing changed; give --yes to do it")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _as_dict(done: Erasure) -> dict[str, object]:
    return {
        "done": done.is_done,
        "pseudonym": done.pseudonym if done.is_done else None,
        "rows": dict(done.rows),
        "left": done.left + done.kept,
    }
