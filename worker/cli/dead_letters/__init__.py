"""``dead-letters``: list, show, edit and replay messages that could not be applied."""

import click

from worker.cli.dead_letters.acting import discard, edit, note, restore
from worker.cli.dead_letters.carrying import export, import_dead_letters, park
from worker.cli.dead_letters.looking import groups, list_dead_letters, show
from worker.cli.dead_letters.replaying import replay


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that could not be applied: see them, mend them, send them again, put them away.

    Each command first drains the dead-letter queue into the ledger's database, where looking at a letter
    disturbs nothing and nothing expires.

    \b
    What to do when there are some:
      billing-worker dead-letters groups              what failed, and how often
      billing-worker dead-letters show 7              a letter, its story, what the ledger has
      billing-worker dead-letters edit 7 --reason "a typo"
      billing-worker dead-letters replay --group 3f2a --dry-run
      billing-worker dead-letters replay --group 3f2a --canary 1,5,25 --reason "fixed"
    """


for command in (
    groups,
    list_dead_letters,
    show,
    edit,
    replay,
    discard,
    restore,
    note,
    export,
    import_dead_letters,
    park,
):
    dead_letters.add_command(command)

__all__ = ["dead_letters"]
