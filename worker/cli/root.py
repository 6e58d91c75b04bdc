"""``billing-worker`` itself: the table of its commands, and the exit codes of errors.

Nothing heavy may be imported here: ``--help`` and shell completion take as long as these imports.
"""

import os
import sys
from contextlib import suppress
from typing import Any

import click

from worker import __version__
from worker.cli.encoding import encoding_fault
from worker.cli.lazy import Lazy, LazyGroup
from worker.cli.streams import drop_unwritten, is_of_output, prepare_streams
from worker.cli.text import printable
from worker.errors import (
    BillingError,
    ConfigurationError,
    NotFoundError,
    QueryError,
    TransientError,
    UnsupportedStatementError,
)


class _ReaderGoneError(Exception):
    """Nobody reads our output any more."""


class _Cli(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        """Translate a closed output; click would end with 1 there, which says "no" here."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error


_COMMANDS = {
    "account": Lazy("worker.cli.account:account", "Export or erase all that is held about a user."),
    "accounts": Lazy(
        "worker.cli.accounts:accounts",
        "List accounts whose user begins with PREFIX (all without it), in an order that you choose.",
    ),
    "activity": Lazy(
        "worker.cli.activity:activity",
        "List what operators did, newest first: who, on which host, to what, and why.",
    ),
    "adjust": Lazy("worker.cli.adjust:adjust", "Give a user TOKENS, or take them with a negative number."),
    "alerts": Lazy("worker.cli.monitoring:alerts", "Print the alert rules for Prometheus, a YAML file."),
    "audit": Lazy("worker.cli.totals:audit_command", "Prove that every balance is explained by its entries."),
    "balance": Lazy(
        "worker.cli.balance:balance",
        "Show a user's balance, its parts, the subscription, and the period's quotas.",
    ),
    "bridge": Lazy(
        "worker.cli.bridge:bridge",
        "Publish the webhooks of Stripe and Paddle Billing as commands; until SIGTERM.",
    ),
    "can-afford": Lazy(
        "worker.cli.balance:can_afford", "Tell whether a deduction of TOKENS would be applied now."
    ),
    "check": Lazy(
        "worker.cli.check:check",
        "Check configuration, connections, topology, schema and workers; a line each.",
    ),
    "config": Lazy(
        "worker.cli.config:config",
        "Show the effective settings: each with its value, its default, and where it comes from.",
    ),
    "console": Lazy(
        "worker.cli.console:console",
        "Serve the console: queues, dead letters and accounts in the browser.",
    ),
    "dashboard": Lazy(
        "worker.cli.monitoring:dashboard_command", "Print a dashboard for Grafana, a JSON file to import."
    ),
    "dead-letters": Lazy(
        "worker.cli.dead_letters:dead_letters",
        "See, mend, replay and discard messages that could not be applied.",
    ),
    "demo": Lazy(
        "worker.demo.command:demo",
        "Run a realistic day of messages through a worker, and show the result.",
    ),
    "deploy": Lazy(
        "worker.cli.deploy:deploy",
        "Write the units for systemd, or the manifests for Kubernetes, with the page about them.",
    ),
    "expiring": Lazy(
        "worker.cli.holdings:expiring",
        "List credit that will expire soon if nobody uses it: of USER, or of everybody.",
    ),
    "explain": Lazy(
        "worker.cli.explain:explain",
        "Explain one REFERENCE: what was asked, its result, and what followed.",
    ),
    "history": Lazy("worker.cli.history:history", "List a user's entries, newest first."),
    "holds": Lazy(
        "worker.cli.holdings:holds",
        "List a user's holds: tokens kept for work to come, and how those that ended did.",
    ),
    "import": Lazy(
        "worker.cli.imports.command:import_command",
        "Move accounts from another system: check CSV files, send them, compare the sums.",
    ),
    "lots": Lazy(
        "worker.cli.holdings:lots",
        "List a user's lots: each credit with what is left of it, the next to be spent first.",
    ),
    "migrate": Lazy(
        "worker.cli.migrate:migrate_command", "Bring the ledger's database to the newest schema."
    ),
    "operations": Lazy(
        "worker.cli.operations:operations",
        "List operations, newest first: what was applied, and what was rejected and why.",
    ),
    "pause": Lazy(
        "worker.cli.pause:pause",
        "Pause a LANE (payments, usage or bulk; without LANE all three) until `billing-worker resume`.",
    ),
    "payments": Lazy(
        "worker.cli.payments:list_incidents",
        "List payments that need somebody: money without tokens.",
    ),
    "plan": Lazy(
        "worker.cli.capacity.command:plan",
        "Plan the machines for a rate of messages: cores, worker processes, memory and disk.",
    ),
    "publish": Lazy(
        "worker.cli.publish:publish",
        "Publish a file of JSON lines, one message a line; each is confirmed by the broker.",
    ),
    "quiesce": Lazy(
        "worker.cli.pause:quiesce",
        "Finish what workers hold of a LANE and take nothing more, until `billing-worker resume`.",
    ),
    "readers": Lazy("worker.cli.run:readers", "Answer queries; until SIGTERM."),
    "recover": Lazy(
        "worker.cli.recover:recover",
        "Publish again what the journal has kept since a time, after the ledger was restored to it.",
    ),
    "replies": Lazy(
        "worker.cli.replies:replies", "Show the replies that wait in a queue, one JSON object a line."
    ),
    "report": Lazy(
        "worker.cli.report:report",
        "Report on the whole ledger over a range of time.",
    ),
    "resume": Lazy(
        "worker.cli.resume:resume",
        "Resume a LANE that operators or workers have paused, such as usage; without LANE all of them.",
    ),
    "retry": Lazy("worker.cli.retry:retry", "Try rejected payments again, once their cause is mended."),
    "reverse": Lazy(
        "worker.cli.reverse:reverse",
        "Give back the charges that a filter finds: tokens to the lots they came from, free units as well.",
    ),
    "run": Lazy("worker.cli.run:run", "Consume messages, apply them to the ledger, reply; until SIGTERM."),
    "scheduler": Lazy(
        "worker.cli.run:scheduler",
        "Publish a command for each account of which something falls due; until SIGTERM.",
    ),
    "serve": Lazy("worker.cli.serve:serve", "Serve the queries over HTTP, read only; until SIGTERM."),
    "statement": Lazy(
        "worker.cli.statement:statement",
        "Write a user's statement: opening balance, each entry, the sums, closing balance.",
    ),
    "stats": Lazy(
        "worker.cli.totals:stats",
        "Sum up the whole ledger as it is posted: users, tokens, outcomes, revenue.",
    ),
    "status": Lazy("worker.cli.status:status", "Show lanes and workers, and what needs somebody."),
    "tokens": Lazy(
        "worker.cli.tokens:tokens", "Add, list and remove the bearer tokens that may ask over HTTP."
    ),
    "topology": Lazy(
        "worker.cli.topology:topology", "Declare or verify the exchanges and queues on the broker."
    ),
    "usage": Lazy(
        "worker.cli.usage:usage", "Show a user's usage by day and feature, as a chart on a terminal."
    ),
}


@click.group(
    cls=_Cli,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the answer is no; 2 wrong usage or configuration; "
    "3 a server does not answer; 4 not found; 5 a limit of faults is passed (run --on-limit exit); "
    "6 the database does not support a statement.",
)
@click.version_option(__version__, prog_name="billing-worker")
def cli() -> None:
    """Keep a prepaid token ledger true: usage and payment messages in, replies out.

    Settings come from flags, then BILLING_… variables, then a .env file. To see it work without any
    server: `billing-worker demo`.

    \b
    Shell completion, for bash in ~/.bashrc (zsh_source and fish_source for the others):
      eval "$(_BILLING_WORKER_COMPLETE=bash_source billing-worker)"
    """


def main() -> None:
    """Run a command, as the entry point; errors end in one line and an exit code."""
    prepare_streams()
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, _ReaderGoneError):
        sys.exit(0)  # the reader of our output has seen enough, as in `| head`
    except OSError as error:
        if not is_of_output(error):
            raise
        _complain(f"the output can't be written: {error.strerror}")
        sys.exit(2)
    finally:
        drop_unwritten()


def _main() -> None:
    if (fault := encoding_fault(sys.argv[1:], os.environ)) is not None:
        _complain(fault)
        sys.exit(2)
    try:
        cli.main(prog_name="billing-worker", standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except BillingError as error:
        _complain(str(error))
        sys.exit(_exit_code(error))


def _complain(text: str) -> None:
    """Show one line on standard error; where it can't be shown, the exit code says it alone."""
    with suppress(OSError):
        click.echo(f"error: {printable(' '.join(text.split()))}", err=True)


def _exit_code(error: BillingError) -> int:
    match error:
        case ConfigurationError() | QueryError():
            return 2
        case TransientError():
            return 3
        case NotFoundError():
            return 4
        case UnsupportedStatementError():
            return 6
        case _:
            return 1
