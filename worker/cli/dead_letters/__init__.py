"""``dead-letters``: list, show, edit and replay messages that could not be applied."""

import click

from worker.cli.lazy import Lazy, LazyGroup

_HERE = "worker.cli.dead_letters"
_COMMANDS = {
    "discard": Lazy(
        f"{_HERE}.actions:discard", "Discard dead letters; they are kept, and `restore` brings them back."
    ),
    "drain": Lazy(f"{_HERE}.drain:drain", "Drain the dead-letter queue into the database, by hand."),
    "edit": Lazy(f"{_HERE}.edit:edit", "Edit the body that a replay sends: one by hand, or many alike."),
    "export": Lazy(f"{_HERE}.transfer:export", "Write dead letters as JSON lines, whole."),
    "group": Lazy(
        f"{_HERE}.groups:group",
        "Show one group: its senders, its worker versions and its messages, each with its number.",
    ),
    "groups": Lazy(f"{_HERE}.groups:groups", "List groups of dead letters that failed in the same way."),
    "import": Lazy(
        f"{_HERE}.transfer:import_dead_letters", "Add the dead letters of an export that are not here yet."
    ),
    "list": Lazy(f"{_HERE}.listing:list_dead_letters", "List dead letters, newest first, page by page."),
    "note": Lazy(f"{_HERE}.actions:note", "Write a note on a dead letter, for the next operator."),
    "park": Lazy(f"{_HERE}.drain:drain", "The name that `drain` had before.", hidden=True),
    "purge": Lazy(
        f"{_HERE}.purge:purge", "Purge old dead letters that are resolved or discarded, after an export."
    ),
    "replay": Lazy(f"{_HERE}.replay:replay", "Send dead letters again, and watch for their outcomes."),
    "resolve": Lazy(
        f"{_HERE}.actions:resolve", "Resolve dead letters whose operation the ledger has by now."
    ),
    "restore": Lazy(f"{_HERE}.actions:restore", "Restore discarded dead letters: they wait again."),
    "show": Lazy(f"{_HERE}.details:show", "Show one dead letter whole."),
}


@click.group("dead-letters", cls=LazyGroup, lazy=_COMMANDS)
def dead_letters() -> None:
    """See, mend, replay and discard messages that could not be applied.

    The commands work on the dead letters in the ledger's database, and need no broker. `billing-worker
    scheduler` drains the dead-letter queue into it as dead letters come; `dead-letters drain` does so by
    hand. Nothing in the database expires: `purge` alone removes what is old.

    \b
    What to do when there are some:
      billing-worker dead-letters groups              what failed, and how often
      billing-worker dead-letters group 3f2a          its senders, worker versions and messages
      billing-worker dead-letters show 7              a dead letter, its history, the ledger's rows
      billing-worker dead-letters edit 7 --reason "a typo"
      billing-worker dead-letters edit --group 3f2a --rename featureName=feature
      billing-worker dead-letters replay --group 3f2a --dry-run
      billing-worker dead-letters replay --group 3f2a --canary 1,5,25 --reason "fixed"
    """
