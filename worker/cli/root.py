"""``billing-worker`` itself: the group of all commands, and the exit codes of errors."""

import io
import os
import sys
from typing import Any

import click

from worker import __version__
from worker.cli.accounts import audit_command, balance, can_afford, history, stats, usage
from worker.cli.adjust import adjust
from worker.cli.console import console
from worker.cli.dead_letters import dead_letters
from worker.cli.explain import explain
from worker.cli.holdings import expiring, holds, lots
from worker.cli.messages import publish, replies
from worker.cli.operate import check, migrate_command, resume, run, scheduler, topology
from worker.cli.output import printable
from worker.cli.statement import statement
from worker.demo import demo
from worker.errors import BillingError, ConfigurationError, NotFoundError, QueryError, TransientError


class _ReaderGoneError(Exception):
    """Nobody reads our output any more."""


class _Cli(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Translate a closed output; click would end with 1 there, which says "no" here."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error


@click.group(
    cls=_Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the answer is no; 2 wrong usage or configuration; "
    "3 a server does not answer; 4 not found; 5 a limit of faults is passed (run --on-limit exit).",
)
@click.version_option(__version__, prog_name="billing-worker")
def cli() -> None:
    """Keeps a prepaid token ledger true: usage and payment messages in, replies out.

    Settings come from flags, then BILLING_… variables, then a .env file. To see it work without any
    server: `billing-worker demo`.
    """


for command in (
    demo,
    run,
    scheduler,
    migrate_command,
    check,
    resume,
    topology,
    publish,
    replies,
    balance,
    can_afford,
    lots,
    holds,
    expiring,
    history,
    statement,
    explain,
    usage,
    stats,
    audit_command,
    adjust,
    dead_letters,
    console,
):
    cli.add_command(command)


def main() -> None:
    """Run a command, as the entry point; errors end in one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no terminal is too poor to be told something
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, _ReaderGoneError):
        # The reader of our output has seen enough, as in `| head`; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _main() -> None:
    try:
        cli.main(prog_name="billing-worker", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except BillingError as error:
        click.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(_exit_code(error))


def _exit_code(error: BillingError) -> int:
    match error:
        case ConfigurationError() | QueryError():
            return 2
        case TransientError():
            return 3
        case NotFoundError():
            return 4
        case _:
            return 1
