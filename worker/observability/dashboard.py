"""The dashboard of Grafana as data: rows of panels, each with its expressions.

``python -m worker.observability`` writes ``dashboard.json``. Rates and sums are over all processes of the
jobs. Numbers of the whole ledger are the same in every scheduler, and shown once (``max``).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_COLUMNS = 24
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """Panel with a title, a description, a unit of Grafana and expressions by their legends.

    ``kind`` is a kind of Grafana. ``alarm`` is the value from which a stat is red, ``width`` counts columns.
    """

    title: str
    description: str
    unit: str
    series: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    alarm: float | None = None


@dataclass(frozen=True, slots=True)
class PanelRow:
    """Titled row of panels, which follow one another from left to right."""

    title: str
    panels: Sequence[Panel]


def _stat(title: str, description: str, unit: str, expr: str, alarm: float | None = None) -> Panel:
    return Panel(title, description, unit, [("", expr)], "stat", width=4, height=4, alarm=alarm)


def _rate(name: str, by: str = "") -> str:
    """Return the rate of a counter over all processes, by a label."""
    grouped = f" by ({by})" if by else ""
    return f'sum{grouped} (rate({name}{{job=~"$job"}}[$__rate_interval]))'


def _latest(name: str, by: str = "") -> str:
    """Return a gauge that several processes have alike, by a label."""
    grouped = f" by ({by})" if by else ""
    return f'max{grouped} ({name}{{job=~"$job"}})'


def _quantile(share: float, name: str, by: str = "", where: str = "") -> str:
    grouped = f"{by}, le" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({grouped}) "
        f'(rate({name}_bucket{{job=~"$job"{where}}}[$__rate_interval])))'
    )


def _quantiles(name: str) -> list[tuple[str, str]]:
    return [(f"p{round(share * 100)}", _quantile(share, name)) for share in (0.5, 0.95, 0.99)]


_AGE = "billing_worker_message_age_seconds"
_WORK = 'job=~"$job", queue=~"billing[.](payments|usage|bulk)"'
_REFUSED = 'billing_worker_outcomes_total{job=~"$job", status!="applied"}'

ROWS: Final = (
    PanelRow(
        "Now",
        [
            _stat(
                "Paused lanes",
                "Lanes that a worker has paused. It keeps their backlog.",
                "short",
                f"sum({_latest('billing_worker_lane_paused', 'lane, code')})",
                alarm=1,
            ),
            _stat(
                "Backlog",
                "Messages that wait in the queues of work.",
                "short",
                f"sum(max by (queue) (billing_queue_messages{{{_WORK}}}))",
            ),
            _stat(
                "Dead letters waiting",
                "Dead letters that are neither resolved nor discarded.",
                "short",
                _latest("billing_dead_letters_waiting"),
                alarm=1,
            ),
            _stat(
                "Payments to retry",
                "Rejected payments that stay rejected: money without tokens.",
                "short",
                _latest("billing_payments_to_retry"),
                alarm=1,
            ),
            _stat(
                "Drift",
                "Differences between balances and their entries, as the last audit found them.",
                "short",
                _latest("billing_audit_drift_tokens"),
                alarm=1,
            ),
            _stat(
                "Commits at risk",
                "1 while acknowledged messages can be lost in a crash or a failover.",
                "short",
                _latest("billing_database_commits_at_risk"),
                alarm=1,
            ),
        ],
    ),
    PanelRow(
        "Messages",
        [
            Panel(
                "Messages by type",
                "Messages that workers acknowledged.",
                "ops",
                [("{{type}}", _rate("billing_worker_messages_total", "type"))],
            ),
            Panel(
                "Messages by lane",
                "Messages of each lane that workers acknowledged.",
                "ops",
                [("{{lane}}", _rate("billing_worker_lane_messages_total", "lane"))],
            ),
            Panel(
                "Rejected and failed commands",
                "Commands that were refused, by the code of their reply.",
                "ops",
                [
                    (
                        "{{status}} {{code}}",
                        f"sum by (status, code) (rate({_REFUSED}[$__rate_interval])) > 0",
                    )
                ],
            ),
            Panel(
                "Applied commands and duplicates",
                "Commands that moved the ledger, and those whose outcome was stored before.",
                "ops",
                [
                    ("{{status}}", _rate("billing_worker_outcomes_total", "status")),
                    ("duplicate", _rate("billing_worker_duplicates_total")),
                ],
            ),
            Panel(
                "Messages that wait",
                "Depth of each queue, as the scheduler saw it within a minute.",
                "short",
                [("{{queue}}", _latest("billing_queue_messages", "queue"))],
            ),
            Panel(
                "Consumers",
                "Consumers of each queue.",
                "short",
                [("{{queue}}", _latest("billing_queue_consumers", "queue"))],
            ),
            Panel(
                "Default reply queue",
                "Replies that nobody has read yet, and the readers.",
                "short",
                [
                    ("waiting", _latest("billing_worker_replies_waiting")),
                    ("consumers", _latest("billing_worker_reply_consumers")),
                ],
            ),
        ],
    ),
    PanelRow(
        "Pace",
        [
            Panel(
                "Age at commit, since publishing",
                "95 % of the messages of a lane are applied within this time.",
                "s",
                [("{{lane}}", _quantile(0.95, _AGE, "lane", ', since="published"'))],
            ),
            Panel(
                "Age at commit, since the work occurred",
                "The same from occurredAt: with what the producer waited before it published.",
                "s",
                [("{{lane}}", _quantile(0.95, _AGE, "lane", ', since="occurred"'))],
            ),
            Panel(
                "Commit to confirmed replies",
                "Time from a batch's commit until the broker has its replies.",
                "s",
                _quantiles("billing_worker_confirm_seconds"),
            ),
            Panel(
                "Batch time",
                "From a batch's receipt to its acknowledgement.",
                "s",
                _quantiles("billing_worker_batch_seconds"),
            ),
            Panel(
                "Messages a batch",
                "Size of batches: near 500 under a backlog, near 1 when idle.",
                "short",
                _quantiles("billing_worker_batch_size"),
            ),
            Panel(
                "Contention and bisections",
                "Transactions that were repeated, and batches that were split to find a fault.",
                "ops",
                [
                    ("contention", _rate("billing_worker_contention_retries_total")),
                    ("bisections", _rate("billing_worker_batch_bisections_total")),
                ],
            ),
            Panel(
                "Since the last acknowledged batch",
                "Grows while a worker has nothing to do, or hangs.",
                "s",
                [
                    (
                        "{{instance}}",
                        'time() - billing_worker_last_progress_timestamp_seconds{job=~"$job"}',
                    )
                ],
            ),
            Panel(
                "Lanes paused",
                "1 while a worker has paused a lane.",
                "short",
                [("{{lane}} {{code}}", _latest("billing_worker_lane_paused", "lane, code"))],
            ),
            Panel(
                "Faults in a row",
                "Consecutive messages that met a fault of the worker; the lane pauses above the limit.",
                "short",
                [("{{instance}}", 'billing_worker_faults_in_a_row{job=~"$job"}')],
            ),
        ],
    ),
    PanelRow(
        "Dead letters and refusals",
        [
            Panel(
                "Dead letters that arrive",
                "Dead letters that workers published, by reason.",
                "ops",
                [("{{reason}}", f"{_rate('billing_worker_dead_lettered_total', 'reason')} > 0")],
            ),
            Panel(
                "Dead letters that wait",
                "Their number, and those of them whose tokens nobody knows.",
                "short",
                [
                    ("waiting", _latest("billing_dead_letters_waiting")),
                    ("tokens unknown", _latest("billing_dead_letters_tokens_unknown")),
                ],
            ),
            Panel(
                "Tokens of dead letters",
                "Tokens that waiting dead letters are about, where known.",
                "short",
                [("tokens", _latest("billing_dead_letters_tokens"))],
            ),
            Panel(
                "Age of the oldest dead letter",
                "Time since the oldest waiting dead letter failed first.",
                "s",
                [("oldest", f"time() - {_latest('billing_dead_letters_oldest_timestamp_seconds')}")],
            ),
            Panel(
                "Refusals by sender",
                "Messages that were refused, by the broker's user and the reason.",
                "ops",
                [("{{sender}} {{code}}", _rate("billing_worker_refusals_total", "sender, code"))],
            ),
            Panel(
                "Replies and notices nobody took",
                "Replies whose queue is gone, and notices by what became of them.",
                "ops",
                [
                    ("unroutable replies", _rate("billing_worker_unroutable_replies_total")),
                    ("{{type}} {{outcome}}", _rate("billing_worker_notices_total", "type, outcome")),
                ],
            ),
        ],
    ),
    PanelRow(
        "Payments",
        [
            Panel(
                "Rejected payments",
                "Payments, and events of payments, that were rejected.",
                "ops",
                [("{{code}}", f"{_rate('billing_payments_rejected_total', 'code')} > 0")],
            ),
            Panel(
                "Payments that need somebody",
                "Rejected ones, and events that wait for their payment.",
                "short",
                [
                    ("to retry", _latest("billing_payments_to_retry")),
                    ("waiting", _latest("billing_payments_waiting")),
                    ("overdue", _latest("billing_payments_overdue")),
                ],
            ),
            Panel(
                "Webhooks",
                "Webhooks at the bridge, by what came of them.",
                "ops",
                [("{{gateway}} {{result}}", _rate("billing_worker_webhooks_total", "gateway, result"))],
            ),
        ],
    ),
    PanelRow(
        "Ledger",
        [
            Panel(
                "Tokens outstanding",
                "Tokens that lots have left, and those of them on hold.",
                "short",
                [
                    ("liability", _latest("billing_ledger_liability_tokens")),
                    ("held", _latest("billing_ledger_held_tokens")),
                ],
            ),
            Panel(
                "Debt",
                "Tokens that accounts owe.",
                "short",
                [("debt", _latest("billing_ledger_debt_tokens"))],
            ),
            Panel(
                "Accounts",
                "Accounts of the ledger.",
                "short",
                [("accounts", _latest("billing_ledger_accounts"))],
            ),
            Panel(
                "Age of the totals",
                "Time since the ledger's totals were read; a large ledger is read more rarely.",
                "s",
                [("totals", f"time() - {_latest('billing_ledger_totals_timestamp_seconds')}")],
            ),
            Panel(
                "Findings of the last audit",
                "Findings of each check that has any.",
                "short",
                [("{{check}}", "max by (check) (billing_audit_findings) > 0")],
            ),
            Panel(
                "Age of the last audit",
                "Time since an audit with --metrics ended, and how long it took.",
                "s",
                [
                    ("age", "time() - max(billing_audit_timestamp_seconds)"),
                    ("took", "max(billing_audit_duration_seconds)"),
                ],
            ),
        ],
    ),
    PanelRow(
        "Scheduler, servers and processes",
        [
            Panel(
                "What falls due",
                "Age of the oldest due entry, and time since a scheduler last looked.",
                "s",
                [
                    ("overdue", 'min(billing_worker_overdue_seconds{job=~"$job"})'),
                    ("last look", f"time() - {_latest('billing_worker_last_tick_timestamp_seconds')}"),
                ],
            ),
            Panel(
                "Commands for what falls due",
                "Commands that schedulers published.",
                "ops",
                [("published", _rate("billing_worker_scheduled_total"))],
            ),
            Panel(
                "Standbys",
                "Standbys of the database, and those that a commit waits for.",
                "short",
                [
                    ("connected", _latest("billing_database_standbys")),
                    ("synchronous", _latest("billing_database_synchronous_standbys")),
                ],
            ),
            Panel(
                "Connected",
                "1 while a loop reaches its server, 0 in an outage.",
                "short",
                [
                    (
                        "{{loop}} {{server}}",
                        'min by (loop, server) (billing_worker_connected{job=~"$job"})',
                    )
                ],
            ),
            Panel(
                "Outages",
                "Times that a server went away.",
                "short",
                [("{{server}}", 'sum by (server) (increase(billing_worker_outages_total{job=~"$job"}[1h]))')],
            ),
            Panel(
                "Partitions",
                "Partitions whose queues each worker takes.",
                "short",
                [("{{instance}}", 'billing_worker_partitions{job=~"$job"}')],
            ),
            Panel(
                "Misrouted",
                "Messages by a partition that is not their users': somebody publishes by another number.",
                "ops",
                [("misrouted", _rate("billing_worker_misrouted_total"))],
            ),
            Panel(
                "Versions and catalogs",
                "Processes of each version, and of each catalog.",
                "short",
                [
                    ("version {{version}}", 'count by (version) (billing_worker_build_info{job=~"$job"})'),
                    ("catalog {{catalog}}", 'count by (catalog) (billing_worker_catalog_info{job=~"$job"})'),
                ],
            ),
            Panel(
                "Processor time",
                "Seconds of processor time a second, of each process.",
                "short",
                [("{{instance}}", 'rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval])')],
            ),
            Panel(
                "Memory",
                "Resident memory of each process.",
                "bytes",
                [("{{instance}}", 'process_resident_memory_bytes{job=~"$job"}')],
            ),
            Panel(
                "Open files",
                "Open file descriptors of each process.",
                "short",
                [("{{instance}}", 'process_open_fds{job=~"$job"}')],
            ),
        ],
    ),
    PanelRow(
        "Queries",
        [
            Panel(
                "Queries over the broker",
                "Queries, by type and outcome.",
                "ops",
                [("{{type}} {{outcome}}", _rate("billing_worker_queries_total", "type, outcome"))],
            ),
            Panel(
                "Time of queries",
                "From the receipt of queries to the confirmation of their answers.",
                "s",
                _quantiles("billing_worker_query_seconds"),
            ),
            Panel(
                "HTTP requests",
                "Requests to `serve` and `bridge`, by route and status.",
                "reqps",
                [("{{route}} {{status}}", _rate("billing_worker_http_requests_total", "route, status"))],
            ),
            Panel(
                "Time of HTTP requests",
                "95 % of the requests of a route are answered within this time.",
                "s",
                [("{{route}}", _quantile(0.95, "billing_worker_http_seconds", "route"))],
            ),
        ],
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "billing-worker",
        "title": "billing-worker",
        "description": "Prepaid token ledger: messages, dead letters, payments, totals and processes.",
        "tags": ["billing-worker"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "schemaVersion": 36,
        "panels": list(_placed(ROWS)),
        "templating": {"list": [_datasource_variable(), _job_variable()]},
    }


def text() -> str:
    """Return the dashboard as JSON text."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _placed(rows: Sequence[PanelRow]) -> Iterator[dict[str, Any]]:
    """Yield rows and panels, each with its number and its place: from left to right, then below."""
    number = y = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": _place(0, y, _COLUMNS, 1),
            "panels": [],
        }
        x, y = 0, y + 1
        height = max(panel.height for panel in row.panels)
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + height
            number += 1
            yield _panel(panel, number, _place(x, y, panel.width, panel.height))
            x += panel.width
        y += height


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"h": height, "w": width, "x": x, "y": y}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(_SOURCE),
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": dict(_SOURCE),
                "expr": expr,
                "legendFormat": legend,
            }
            for place, (legend, expr) in enumerate(panel.series)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, **_thresholds(panel)}, "overrides": []},
        "options": {},
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    """Return green, and red from the alarm on; no number is grey, for it is unknown and not fine."""
    if panel.kind != "stat":
        return {}
    steps: list[dict[str, Any]] = [{"value": None, "color": "green"}]
    if panel.alarm is not None:
        steps.append({"value": panel.alarm, "color": "red"})
    unknown = {
        "options": {"match": "null+nan", "result": {"text": "unknown", "color": "text"}},
        "type": "special",
    }
    return {"thresholds": {"mode": "absolute", "steps": steps}, "mappings": [unknown]}


def _datasource_variable() -> dict[str, Any]:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "hide": 0,
        "skipUrlSync": False,
        "multi": False,
        "includeAll": False,
    }


def _job_variable() -> dict[str, Any]:
    return {
        "type": "query",
        "name": "job",
        "label": "Job",
        "datasource": dict(_SOURCE),
        "query": "label_values(billing_worker_build_info, job)",
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "skipUrlSync": False,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }
