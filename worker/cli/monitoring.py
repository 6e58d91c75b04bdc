"""``alerts`` and ``dashboard``: what monitoring needs, as files."""

import re

import click

from worker.errors import NotFoundError
from worker.observability.files import dashboard, rules, runbook

#: A link of a page: a terminal shows its text alone.
_LINK, _TEXT = re.compile(r"\[([^]]+)\]\([^)]+\)"), r"\1"


@click.command()
@click.option(
    "--runbook",
    "name",
    metavar="ALERT",
    help="Print what an alert means and what to do instead, such as BillingStuck.",
)
def alerts(name: str | None) -> None:
    """Print the alert rules for Prometheus, a YAML file.

    They need the metrics of every worker and of a scheduler, and those of `audit --metrics` where you keep
    them. Thresholds are a beginning: edit the file where other ones are usual with you.

    \b
    Examples:
      billing-worker alerts >/etc/prometheus/rules/billing-worker.yml
      promtool check rules /etc/prometheus/rules/billing-worker.yml
      billing-worker alerts --runbook BillingLanePaused
    """
    if name is None:
        click.echo(rules(), nl=False)
        return
    paragraphs = runbook()
    if name not in paragraphs:
        raise NotFoundError(f"there is no alert {name!r}; there are {', '.join(sorted(paragraphs))}")
    click.echo(f"{name}\n\n{_LINK.sub(_TEXT, paragraphs[name])}")


@click.command("dashboard")
def dashboard_command() -> None:
    """Print a dashboard for Grafana, a JSON file to import.

    Its variable `datasource` chooses the Prometheus, `job` the scrape jobs that it shows.

    \b
    Example:
      billing-worker dashboard >billing-worker.json
    """
    click.echo(dashboard(), nl=False)
