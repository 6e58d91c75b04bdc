"""``account``: all that is held about a user, and its erasure."""

import click

from worker.cli.lazy import Lazy, LazyGroup

_COMMANDS = {
    "erase": Lazy(
        "worker.cli.account_erase:erase_command",
        "Erase USER: a pseudonym takes the place of the id, for ever.",
    ),
    "export": Lazy(
        "worker.cli.account_export:export_command",
        "Write all that the database holds about USER, as one JSON document.",
    ),
}


@click.group("account", cls=LazyGroup, lazy=_COMMANDS)
def account() -> None:
    """Export or erase all that is held about a user.

    What is not in the database, such as the journal, backups and logs, is listed under "Privacy" in
    OPERATING.

    \b
    Examples:
      billing-worker account export ada --output ada.json
      billing-worker account erase ada --reason "request 4711"
    """
