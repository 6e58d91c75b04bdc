"""``stats`` and ``audit``: the whole ledger, summed up and proved."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import reader_of, with_application
from worker.cli.options import as_json, with_wide
from worker.cli.output import Alarm, is_terminal, progress, show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import printable
from worker.ledger.audit import JOBS_MAX, AuditProgress, AuditReport, audit
from worker.ledger.form import LedgerForm
from worker.runtime.shown_money import shown_money

#: Age up to which a claim may still wait for its operation, and an event for a payment that is there.
NEW_CLAIM = timedelta(hours=1)


@click.command()
@with_wide
@with_application("database_url")
@as_json
def stats(application: Application, *, as_json: bool) -> None:
    """Sum up the whole ledger as it is posted: users, tokens, outcomes, revenue.

    \b
    Example:
      billing-worker stats --json | jq .totalDebt
    """
    view = reader_of(application).stats()
    if as_json:
        show_json(view.to_dict())
        return
    show_fields(
        "Ledger",
        [
            ("users", view.users),
            *((f"users on {tier}", count) for tier, count in view.accounts_by_tier.items()),
            ("balance", view.total_balance),
            ("held", view.total_held),
            ("debt", Alarm(f"{view.total_debt:,} owed", str(view.total_debt)) if view.total_debt else 0),
            ("average balance", view.average_balance),
            ("allocated", view.total_allocated),
            ("purchased", view.total_purchased),
            ("bonus", view.total_bonus),
            ("refunded", view.total_refunded),
            ("adjusted", view.total_adjusted),
            ("used", view.total_used),
            ("expired", view.total_expired),
            ("reversed", view.total_reversed),
            ("written off", view.total_uncollected),
            ("payments", view.payments),
            *(
                ("revenue", shown_money(sum_.amount_minor, sum_.currency, grouped=is_terminal()))
                for sum_ in view.revenue
            ),
        ],
    )
    show_table(
        "References by outcome",
        ("type", "status", Column("code", text=True), "count"),
        [(row.type, row.status, row.code, row.count) for row in view.operations],
    )


@click.command("audit")
@click.option(
    "--jobs",
    type=click.IntRange(1, JOBS_MAX),
    default=1,
    show_default=True,
    help="Connections that check side by side. SQLite works with one.",
)
@click.option(
    "--metrics",
    "metrics_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the result for a textfile collector of Prometheus, such as audit.prom.",
)
@with_application("database_url")
@as_json
def audit_command(application: Application, *, as_json: bool, jobs: int, metrics_file: Path | None) -> None:
    """Prove that every balance is explained by its entries. Exit 1 on any finding.

    Reads one state of the ledger while workers go on; of a distributed one, a state of each slot.

    With --metrics the file is replaced as a whole when the audit has ended, with findings or without; where a
    server doesn't answer it stays as it was, and its timestamp grows old.

    \b
    Example, each night:
      billing-worker audit --metrics /var/lib/node_exporter/billing_audit.prom
    """
    from worker.cli.audit_file import require_metrics_file, write_metrics

    if metrics_file is not None:
        require_metrics_file(metrics_file)
    application.require_usable_schema()
    began = application.clock()
    with progress("audit", None) as bar:

        def step(done: AuditProgress) -> None:
            bar.update(bar.task_ids[0], description=done.step, completed=done.done, total=done.total)

        report = audit(application.engine, step, jobs=jobs, **_of_form(application))
    ended = application.clock()
    if as_json:
        show_json(report.to_dict())
    else:
        show_audit(report)
    if metrics_file is not None:
        took_s = (ended - began).total_seconds()
        write_metrics(metrics_file, report, ended_at=ended.timestamp(), took_s=took_s)
    sys.exit(0 if report.is_clean else 1)


def _of_form(application: Application) -> dict[str, Any]:
    """Return what the form of the ledger, and the time, add to an audit."""
    before = application.clock() - NEW_CLAIM
    if application.settings.ledger_form is not LedgerForm.DISTRIBUTED:
        return {"waiting_before": before}
    return {"one_slot": True, "claims_before": before, "waiting_before": before}


def show_audit(report: AuditReport) -> None:
    """Show the result, and each finding with its account and reference."""
    examined = ", ".join(f"{count:,} {table}" for table, count in report.examined.items())
    for finding in report.findings:
        click.echo(f"{click.style('finding', fg='red')}: {printable(str(finding))}")
    if report.unlisted:
        click.echo(f"and {report.unlisted} more")
    result = "every balance explained" if report.is_clean else f"{sum(report.found.values())} findings"
    owed = f"{report.debtors:,} accounts owe {report.debt:,}, {report.uncollected:,} written off"
    click.echo(f"{result}, drift {report.drift} ({examined}); {owed}")
