"""Metrics of a process; served for Prometheus where a port is set.

Each process serves those of its own roles and no others. A number that nobody knows yet is NaN, never zero;
the label sets that can be known are there from the beginning, so that a first count is an increase.
"""

import platform
from collections.abc import Callable, Sequence
from enum import StrEnum
from math import nan
from typing import TypedDict, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app

from schemas import MESSAGE_TYPES, QUERY_TYPES, Code, DeadLetterReason, NoticeType, Status
from worker import __version__
from worker.errors import ConfigurationError
from worker.observability.group import MetricGroup
from worker.runtime.probes import ProbesApp, serve_probes
from worker.runtime.process_health import ProcessHealth

#: Pairs of a sender and a code that have labels of their own; the other senders share one.
REFUSALS_MAX = 8
#: Codes of commands that were refused or failed; all others are applied.
REJECTED = frozenset(
    {
        Code.INSUFFICIENT_BALANCE,
        Code.ACCOUNT_NOT_FOUND,
        Code.ACCOUNT_EXISTS,
        Code.FREE_UPLOAD_LIMIT_EXCEEDED,
        Code.UNKNOWN_PACKAGE,
        Code.UNKNOWN_TIER,
        Code.AMOUNT_MISMATCH,
        Code.CURRENCY_MISMATCH,
        Code.HOLD_NOT_FOUND,
        Code.HOLD_CLOSED,
        Code.HOLD_EXCEEDED,
        Code.UNKNOWN_METER,
        Code.ORIGINAL_REQUIRED,
        Code.ORIGINAL_NOT_FOUND,
        Code.ORIGINAL_NOT_REFUNDABLE,
        Code.REFUND_EXCEEDS_ORIGINAL,
        Code.CREDIT_EXPIRED,
        Code.PERIOD_ALREADY_GRANTED,
        Code.PERIOD_OUT_OF_RANGE,
        Code.SUBSCRIPTION_NOT_ACTIVE,
        Code.TOO_LATE,
        Code.REFERENCE_TAKEN,
        Code.ALLOCATION_OUTLASTS_PERIOD,
        Code.ACCOUNT_FROZEN,
        Code.REFERENCE_CONFLICT,
    }
)
FAILED = frozenset({Code.MALFORMED, Code.UNPROCESSABLE})

#: Codes that no command of a message has: a command batch counts by its commands, and one comes with imports.
_NEVER_COUNTED = frozenset({Code.BATCH_PROCESSED, Code.PAYMENT_IMPORTED})
#: Rejections of usage, of holds and of commands that are about no payment.
_NEVER_OF_A_PAYMENT = frozenset(
    {
        Code.INSUFFICIENT_BALANCE,
        Code.ACCOUNT_EXISTS,
        Code.FREE_UPLOAD_LIMIT_EXCEEDED,
        Code.HOLD_NOT_FOUND,
        Code.HOLD_CLOSED,
        Code.HOLD_EXCEEDED,
        Code.UNKNOWN_METER,
        Code.TOO_LATE,
        Code.REFERENCE_TAKEN,
        Code.REFERENCE_CONFLICT,
    }
)
#: Reasons that a broker gives, or that are found in the queue of dead letters.
_OF_THE_BROKER = frozenset(
    {DeadLetterReason.REJECTED, DeadLetterReason.EXPIRED, DeadLetterReason.MAXLEN, DeadLetterReason.UNKNOWN}
)

_SERVERS = ("broker", "database")
_NOTICE_OUTCOMES = ("published", "returned", "refused")
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGES = (0.02, 0.2, 2, 60, 600, 3600)


class ProcessRole(StrEnum):
    """Work of a process; one process may have several."""

    WORKER = "worker"
    READER = "reader"
    SCHEDULER = "scheduler"
    HTTP = "http"
    BRIDGE = "bridge"


class Since(StrEnum):
    """Times from which the age of a message counts."""

    PUBLISHED = "published"
    OCCURRED = "occurred"


def status_of(code: Code) -> Status:
    """Return the status of replies with ``code``."""
    if code in FAILED:
        return Status.FAILED
    return Status.REJECTED if code in REJECTED else Status.APPLIED


class OutageNotes(TypedDict):
    """Callbacks of an outage, by the names of its arguments."""

    on_begin: Callable[[], None]
    on_end: Callable[[], None]


class Metrics:
    """Metrics of one process. ``lanes`` are the queues of work; ``registry`` has the metrics of all roles."""

    def __init__(self, lanes: Sequence[str] = ()) -> None:
        # A second series for each counter, which nobody reads.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._common = MetricGroup(self.registry)
        self._groups = {role: MetricGroup(self.registry) for role in ProcessRole}
        self._add_common(self._common)
        self._add_outcomes(self._groups[ProcessRole.WORKER], lanes)
        self._add_faults(self._groups[ProcessRole.WORKER])
        self._add_pace(self._groups[ProcessRole.WORKER], lanes)
        self._add_queries(self._groups[ProcessRole.READER])
        self._add_scheduling(self._groups[ProcessRole.SCHEDULER])
        self._add_queues(self._groups[ProcessRole.SCHEDULER])
        self._add_totals(self._groups[ProcessRole.SCHEDULER])
        self._add_durability(self._groups[ProcessRole.SCHEDULER])
        self._add_http(self._groups[ProcessRole.HTTP])
        self._add_webhooks(self._groups[ProcessRole.BRIDGE])

    # -- every process ------------------------------------------------------------------------------------

    def _add_common(self, group: MetricGroup) -> None:
        self.build = group.info("billing_worker_build", "Versions of the program and of Python.")
        self.build.info({"version": __version__, "python": platform.python_version()})
        self.catalog = group.info(
            "billing_worker_catalog", "Digests of the catalog, and of all that judges messages."
        )
        self.outages = group.counter(
            "billing_worker_outages", "Outages of a server.", ["server"], zero=[(one,) for one in _SERVERS]
        )
        self.connected = group.gauge(
            "billing_worker_connected",
            "1 while a loop of this process reaches the server, 0 in an outage; NaN before the first try.",
            ["loop", "server"],
        )

    def describe(self, *, catalog: str, config: str) -> None:
        """Set the digests of the catalog, and of all that judges messages."""
        self.catalog.info({"catalog": catalog, "config": config})

    def notes(self, role: ProcessRole, server: str) -> OutageNotes:
        """Return what notes the begin and the end of an outage, as the loop of ``role`` sees it."""
        outages, connected = self.outages.labels(server), self.connected.labels(role, server)
        connected.set(nan)

        def begin() -> None:
            outages.inc()
            connected.set(0)

        return {"on_begin": begin, "on_end": lambda: connected.set(1)}

    # -- worker -------------------------------------------------------------------------------------------

    def _add_outcomes(self, group: MetricGroup, lanes: Sequence[str]) -> None:
        self.messages = group.counter(
            "billing_worker_messages",
            "Messages acknowledged, by type (unknown: it could not be read).",
            ["type"],
            zero=[(type_,) for type_ in (*MESSAGE_TYPES, "unknown")],
        )
        self.lane_messages = group.counter(
            "billing_worker_lane_messages",
            "Messages acknowledged, by lane.",
            ["lane"],
            zero=[(lane,) for lane in lanes],
        )
        self.outcomes = group.counter(
            "billing_worker_outcomes",
            "Commands by the status and code of their reply, also those of command batches; no duplicates.",
            ["status", "code"],
            zero=[(status_of(code), code) for code in Code if code not in _NEVER_COUNTED],
        )
        self.duplicates = group.counter(
            "billing_worker_duplicates", "Commands whose outcome was stored before, and is replied again."
        )
        self.notices = group.counter(
            "billing_worker_notices",
            "Notices, by type and outcome: published, returned (no queue), refused (now a dead letter).",
            ["type", "outcome"],
            zero=[(type_, outcome) for type_ in get_args(NoticeType) for outcome in _NOTICE_OUTCOMES],
        )
        self.payments_rejected = group.counter(
            "billing_payments_rejected",
            "Rejected payments, and rejected events of payments, by the code of the reply.",
            ["code"],
            zero=[(code,) for code in Code if code in REJECTED - _NEVER_OF_A_PAYMENT],
        )

    def _add_faults(self, group: MetricGroup) -> None:
        self.dead_letters = group.counter(
            "billing_worker_dead_lettered",
            "Dead letters published.",
            ["reason"],
            zero=[(reason,) for reason in DeadLetterReason if reason not in _OF_THE_BROKER],
        )
        self.faults_in_a_row = group.gauge(
            "billing_worker_faults_in_a_row",
            "Consecutive messages that met a fault of the worker, in the worst lane.",
        )
        self.paused = group.gauge(
            "billing_worker_lane_paused",
            "1 while this worker takes nothing of a lane, by reason code; operator_type: of some types.",
            ["lane", "code"],
        )
        self.partitions = group.gauge(
            "billing_worker_partitions", "Partitions whose queues this worker takes."
        )
        self.refusals = group.counter(
            "billing_worker_refusals",
            "Messages refused, by the sender that the broker vouches for and the reason code.",
            ["sender", "code"],
        )
        self._refused: set[tuple[str, str]] = set()
        self.misrouted = group.counter(
            "billing_worker_misrouted",
            "Messages that came by a partition that is not their users'; they are applied all the same.",
        )
        self.unroutable_replies = group.counter(
            "billing_worker_unroutable_replies", "Replies that no queue took; their outcome is stored."
        )
        self.bisections = group.counter(
            "billing_worker_batch_bisections", "Batches split to isolate a fault."
        )
        self.contention = group.counter(
            "billing_worker_contention_retries",
            "Transactions repeated because of contention with another worker.",
        )

    def _add_pace(self, group: MetricGroup, lanes: Sequence[str]) -> None:
        self.batch_size = group.histogram(
            "billing_worker_batch_size",
            "Messages a batch.",
            (1, 10, 100, 500, 1000),
        )
        self.batch_seconds = group.histogram(
            "billing_worker_batch_seconds",
            "From a batch's receipt to its acknowledgement.",
            (0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10),
        )
        self.message_age = group.batch_histogram(
            "billing_worker_message_age_seconds",
            "Age of a message when its outcome is committed, since it was published or its work occurred; "
            "of those that say such a time.",
            _AGES,
            ["lane", "since"],
            zero=[(lane, since) for lane in lanes for since in Since],
        )
        self.confirm_seconds = group.histogram(
            "billing_worker_confirm_seconds",
            "From a batch's commit until the broker has confirmed its replies.",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1),
        )
        self.last_progress = group.unknown(
            "billing_worker_last_progress_timestamp_seconds",
            "Time when a batch was last acknowledged; NaN before the first one.",
        )

    def count_refusal(self, sender: str, code: str) -> None:
        """Count a refusal; only the first pairs of sender and code have labels of their own."""
        if (sender, code) not in self._refused:
            if len(self._refused) < REFUSALS_MAX:
                self._refused.add((sender, code))
            else:
                sender = "others"
        self.refusals.labels(sender, code).inc()

    # -- reader -------------------------------------------------------------------------------------------

    def _add_queries(self, group: MetricGroup) -> None:
        self.queries = group.counter(
            "billing_worker_queries",
            "Queries, by type and outcome: answered, a problem's code, or unaddressed (nobody to answer).",
            ["type", "outcome"],
            zero=[(type_, "answered") for type_ in QUERY_TYPES],
        )
        self.query_seconds = group.histogram(
            "billing_worker_query_seconds",
            "From the receipt of queries that are answered together to the confirmation of their answers.",
            _SHORT,
        )

    # -- scheduler ----------------------------------------------------------------------------------------

    def _add_scheduling(self, group: MetricGroup) -> None:
        self.scheduled = group.counter("billing_worker_scheduled", "Commands published for due entries.")
        self.overdue = group.unknown(
            "billing_worker_overdue_seconds", "Age of the oldest due entry that the scheduler found."
        )
        self.last_tick = group.unknown(
            "billing_worker_last_tick_timestamp_seconds",
            "Time when the scheduler last looked for due entries; NaN before the first time.",
        )

    def _add_queues(self, group: MetricGroup) -> None:
        self.replies_waiting = group.unknown(
            "billing_worker_replies_waiting", "Messages in the default reply queue."
        )
        self.reply_consumers = group.unknown(
            "billing_worker_reply_consumers", "Consumers of the default reply queue."
        )
        self.queue_messages = group.gauge(
            "billing_queue_messages", "Messages that wait in a queue, without those under way.", ["queue"]
        )
        self.queue_consumers = group.gauge("billing_queue_consumers", "Consumers of a queue.", ["queue"])

    def _add_totals(self, group: MetricGroup) -> None:
        self.payments_waiting = group.unknown(
            "billing_payments_waiting", "Events that wait for their payment."
        )
        self.payments_overdue = group.unknown(
            "billing_payments_overdue",
            "Events that wait for their payment longer than the catalog says, or can't count.",
        )
        self.payments_to_retry = group.unknown(
            "billing_payments_to_retry", "Rejected payments, and events of payments, that stay rejected."
        )
        self.dead_letters_waiting = group.unknown(
            "billing_dead_letters_waiting", "Dead letters that are neither resolved nor discarded."
        )
        self.dead_letters_oldest = group.unknown(
            "billing_dead_letters_oldest_timestamp_seconds",
            "Time of the first failure of the oldest waiting dead letter; NaN where none waits.",
        )
        self.dead_letter_tokens = group.unknown(
            "billing_dead_letters_tokens", "Tokens that waiting dead letters are about, where known."
        )
        self.dead_letters_without_tokens = group.unknown(
            "billing_dead_letters_tokens_unknown", "Waiting dead letters whose tokens nobody knows."
        )
        self.accounts = group.unknown("billing_ledger_accounts", "Accounts of the ledger.")
        self.held = group.unknown("billing_ledger_held_tokens", "Tokens on hold.")
        self.debt = group.unknown("billing_ledger_debt_tokens", "Tokens that accounts owe.")
        self.liability = group.unknown(
            "billing_ledger_liability_tokens", "Tokens that lots have left: given, and not used yet."
        )
        self.totals_read = group.unknown(
            "billing_ledger_totals_timestamp_seconds", "Time when the ledger's totals were read."
        )

    def _add_durability(self, group: MetricGroup) -> None:
        self.standbys = group.unknown(
            "billing_database_standbys", "Standbys that are connected to the primary."
        )
        self.synchronous_standbys = group.unknown(
            "billing_database_synchronous_standbys",
            "Standbys that a commit waits for; NaN where the role may not see it.",
        )
        self.commits_at_risk = group.unknown(
            "billing_database_commits_at_risk",
            "1 while acknowledged messages can be lost in a crash or a failover: see `check`.",
        )

    # -- HTTP ---------------------------------------------------------------------------------------------

    def _add_http(self, group: MetricGroup) -> None:
        self.http_requests = group.counter(
            "billing_worker_http_requests",
            "Requests to the HTTP door, by route (other: no such path) and status.",
            ["route", "status"],
        )
        self.http_seconds = group.histogram(
            "billing_worker_http_seconds",
            "Time that the HTTP door takes for a request, without the wait for a thread.",
            _SHORT,
            ["route"],
        )

    def _add_webhooks(self, group: MetricGroup) -> None:
        self.webhooks = group.counter(
            "billing_worker_webhooks",
            "Webhooks at the bridge, by gateway, event type and result: published, unavailable, or a reason.",
            ["gateway", "type", "result"],
        )

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request to the HTTP door."""
        self.http_requests.labels(route, status).inc()
        self.http_seconds.labels(route).observe(seconds)

    # -- serving ------------------------------------------------------------------------------------------

    def registry_of(self, *roles: ProcessRole) -> CollectorRegistry:
        """Return a registry of the metrics of ``roles`` and of the process, and of no other role."""
        registry = CollectorRegistry()
        for group in (self._common, *(self._groups[role] for role in roles)):
            for collector in group.collectors:
                registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        return registry

    def serve(self, host: str, port: int, *roles: ProcessRole, health: ProcessHealth | None = None) -> None:
        """Serve the metrics of ``roles`` and ``health`` on ``port`` of ``host``, in a thread; at 0 nowhere.

        Raises ConfigurationError where the port is taken, or the address is none of this machine's.
        """
        if not port:
            return
        try:
            metrics = make_wsgi_app(self.registry_of(*roles))
            serve_probes(host, port, ProbesApp(metrics, health or ProcessHealth()))
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served on {host}, port {port}: {error.strerror}; "
                "set another BILLING_METRICS_LISTEN or BILLING_METRICS_PORT"
            ) from error
