"""The file of an audit's metrics, for the textfile collector of Prometheus' node exporter."""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from worker.errors import ConfigurationError
from worker.ledger.audit import AuditReport
from worker.ledger.audit.checks import CHECKS


def require_metrics_file(path: Path) -> None:
    """Raise ConfigurationError where no collector would find a file at ``path``, before a long audit."""
    if path.suffix != ".prom":
        raise ConfigurationError(
            f"--metrics {path}: name a file that ends in .prom, the collector reads no other"
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"--metrics {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(
            f"--metrics {path}: the folder {path.parent} may not be written; give this user the right"
        )


def write_metrics(path: Path, report: AuditReport, *, ended_at: float, took_s: float) -> None:
    """Replace the file at ``path``: a reader sees the old one or the new one, and no part of either.

    Raises ConfigurationError where it can't be written.
    """
    try:
        write_to_textfile(str(path), audit_registry(report, ended_at=ended_at, took_s=took_s))
    except OSError as error:
        raise ConfigurationError(f"--metrics {path} can't be written: {error.strerror}") from error


def audit_registry(report: AuditReport, *, ended_at: float, took_s: float) -> CollectorRegistry:
    """Return the metrics of a report; checks without a finding are there with 0."""
    registry = CollectorRegistry()

    def gauge(name: str, documentation: str, value: float) -> None:
        Gauge(f"billing_audit_{name}", documentation, registry=registry).set(value)

    gauge(
        "drift_tokens", "Differences between balances and their entries, without their signs.", report.drift
    )
    gauge("debtors", "Accounts that owe tokens.", report.debtors)
    gauge("debt_tokens", "Tokens that accounts owe.", report.debt)
    gauge("written_off_tokens", "Tokens written off of payments that went back.", report.uncollected)
    gauge("duration_seconds", "Time that the audit took.", took_s)
    gauge("timestamp_seconds", "Time when the audit ended.", ended_at)
    findings = Gauge("billing_audit_findings", "Findings of each check.", ["check"], registry=registry)
    for check in CHECKS:
        findings.labels(check).set(report.found.get(check, 0))
    rows = Gauge("billing_audit_rows", "Rows that were examined.", ["table"], registry=registry)
    for table, count in report.examined.items():
        rows.labels(table).set(count)
    return registry
