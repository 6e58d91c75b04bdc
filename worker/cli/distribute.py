"""``migrate --distribute``: the statements that distribute a ledger over several machines, shown or run."""

import click

from worker.bootstrap import Application
from worker.cli.output import progress, show_json
from worker.ledger.distribution import DistributionPlan, carry_out, read_plan


def show_or_distribute(application: Application, *, run: bool, may_move: bool, as_json: bool) -> None:
    """Print the plan, and run it where ``run`` says so. Raises ConfigurationError where it isn't possible."""
    plan = read_plan(application.engine, may_move=may_move)
    if run:
        plan.require_possible()
        _run(application, plan, may_move=may_move)
    if as_json:
        show_json(
            {
                "form": "distributed" if run or plan.is_done else "whole",
                "done": run or plan.is_done,
                "refusals": list(plan.refusals),
                "statements": [] if plan.is_done else plan.text,
                "remarks": list(plan.remarks),
            }
        )
    elif run or (plan.is_done and not plan.refusals):
        click.echo("the ledger is distributed by slot: set BILLING_LEDGER_FORM=distributed everywhere")
    else:
        for line in plan.text:
            click.echo(line)
        click.echo("nothing was changed; --yes runs these", err=True)
    if not as_json:
        for remark in plan.remarks:
            click.echo(f"note: {remark}", err=True)
    plan.require_possible()


def _run(application: Application, plan: DistributionPlan, *, may_move: bool) -> None:
    with progress("distributing", len(plan.steps)) as bar:
        for _ in carry_out(application.engine, may_move=may_move):
            bar.advance(bar.task_ids[0])
