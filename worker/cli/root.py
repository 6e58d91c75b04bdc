"""``billing-worker`` itself: the group of all commands, and what becomes of errors."""

import sys

import click

from worker import __version__
from worker.cli.accounts import audit_command, balance, can_afford, history, stats, usage
from worker.cli.letters import dead_letters
from worker.cli.messages import publish, replies
from worker.cli.operate import check, migrate_command, run, topology
from worker.errors import BillingError, ConfigurationError, NotFoundError, TransientError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the answer is no; 2 wrong usage or configuration; "
    "3 a server does not answer; 4 not found.",
)
@click.version_option(__version__, prog_name="billing-worker")
def cli() -> None:
    """Keeps a prepaid token ledger true: usage and payment messages in, replies out.

    Settings come from flags, then BILLING_… variables, then a .env file. To see it work without any
    server: `billing-worker demo`.
    """


for command in (
    run,
    migrate_command,
    check,
    topology,
    publish,
    replies,
    balance,
    can_afford,
    history,
    usage,
    stats,
    audit_command,
    dead_letters,
):
    cli.add_command(command)


def main() -> None:
    """The entry point: runs a command; errors end in one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except BillingError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_exit_code(error))
    except BrokenPipeError:
        # The reader of our output has seen enough, as in `| head`.
        sys.stderr.close()
        sys.exit(0)


def _exit_code(error: BillingError) -> int:
    match error:
        case ConfigurationError():
            return 2
        case TransientError():
            return 3
        case NotFoundError():
            return 4
        case _:
            return 1
