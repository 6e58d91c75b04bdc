"""Counters of a running worker; served for Prometheus where a port is set."""

from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from worker.errors import ConfigurationError

_SENDERS_MAX = 100


class Metrics:
    """The counters of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "billing_worker_messages",
            "Messages processed, by type and outcome (a code of the reply, or duplicate).",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.batch_items = Counter(
            "billing_worker_batch_items",
            "Commands in command batches, by type and outcome.",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.notices = Counter(
            "billing_worker_notices",
            "Notices, by type and outcome: published, returned (no queue), refused (now a dead letter).",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.payments_rejected = Counter(
            "billing_payments_rejected",
            "Rejected payments, and rejected events of payments, by the code of the reply.",
            ["code"],
            registry=self.registry,
        )
        # Nobody has looked yet: that is not nothing.
        self.payments_waiting = Gauge(
            "billing_payments_waiting",
            "Events that wait for their payment, as the scheduler's process last saw; NaN where unknown.",
            registry=self.registry,
        )
        self.payments_overdue = Gauge(
            "billing_payments_overdue",
            "Those that wait longer than the catalog says, or can't count; NaN where unknown.",
            registry=self.registry,
        )
        for gauge in (self.payments_waiting, self.payments_overdue):
            gauge.set(nan)
        self.dead_letters = Counter(
            "billing_worker_dead_lettered", "Dead letters published.", ["reason"], registry=self.registry
        )
        self.faults_in_a_row = Gauge(
            "billing_worker_faults_in_a_row",
            "Consecutive messages that met a fault of the worker, in the worst lane.",
            registry=self.registry,
        )
        self.paused = Gauge(
            "billing_worker_lane_paused",
            "1 while this worker has paused a lane, by reason code.",
            ["lane", "code"],
            registry=self.registry,
        )
        self.partitions = Gauge(
            "billing_worker_partitions",
            "Partitions whose queues this worker takes.",
            registry=self.registry,
        )
        self.refusals = Counter(
            "billing_worker_refusals",
            "Messages refused, by the sender that the broker vouches for and the reason code.",
            ["sender", "code"],
            registry=self.registry,
        )
        self._senders: set[str] = set()
        self.misrouted = Counter(
            "billing_worker_misrouted",
            "Messages that came by a partition that is not their users'; they are applied all the same.",
            registry=self.registry,
        )
        self.unroutable_replies = Counter(
            "billing_worker_unroutable_replies",
            "Replies that no queue took; their outcome is stored.",
            registry=self.registry,
        )
        self.bisections = Counter(
            "billing_worker_batch_bisections", "Batches split to isolate a fault.", registry=self.registry
        )
        self.contention = Counter(
            "billing_worker_contention_retries",
            "Transactions repeated because of contention with another worker.",
            registry=self.registry,
        )
        self.outages = Counter(
            "billing_worker_outages", "Outages of a server.", ["server"], registry=self.registry
        )
        self.batch_size = Histogram(
            "billing_worker_batch_size",
            "Messages a batch.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "billing_worker_batch_seconds",
            "From a batch's receipt to its acknowledgement.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
            registry=self.registry,
        )
        self.last_progress = Gauge(
            "billing_worker_last_progress_timestamp_seconds",
            "Time when a batch was last acknowledged.",
            registry=self.registry,
        )

        self.queries = Counter(
            "billing_worker_queries",
            "Queries, by type and outcome: answered, a problem's code, or unaddressed (nobody to answer).",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.query_seconds = Histogram(
            "billing_worker_query_seconds",
            "From the receipt of queries that are answered together to the confirmation of their answers.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        # Nobody has looked yet: that is not nothing.
        self.replies_waiting = Gauge(
            "billing_worker_replies_waiting",
            "Messages in the default reply queue, as the scheduler's process last saw; NaN where unknown.",
            registry=self.registry,
        )
        self.replies_waiting.set(nan)
        self.reply_consumers = Gauge(
            "billing_worker_reply_consumers",
            "Consumers of the default reply queue, as the scheduler's process last saw; NaN where unknown.",
            registry=self.registry,
        )
        self.reply_consumers.set(nan)
        self.scheduled = Counter(
            "billing_worker_scheduled", "Commands published for due entries.", registry=self.registry
        )
        self.overdue = Gauge(
            "billing_worker_overdue_seconds",
            "Age of the oldest due entry that the scheduler found.",
            registry=self.registry,
        )
        self.last_tick = Gauge(
            "billing_worker_last_tick_timestamp_seconds",
            "Time when the scheduler last looked for due entries.",
            registry=self.registry,
        )

        self.http_requests = Counter(
            "billing_worker_http_requests",
            "Requests to the HTTP door, by route (other: no such path) and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.http_seconds = Histogram(
            "billing_worker_http_seconds",
            "Time that the HTTP door takes for a request, without the wait for a thread.",
            ["route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )

        self.webhooks = Counter(
            "billing_worker_webhooks",
            "Webhooks at the bridge, by gateway, event type and result: published, unavailable, or a reason.",
            ["gateway", "type", "result"],
            registry=self.registry,
        )

    def count_refusal(self, sender: str, code: str) -> None:
        """Count a refusal; at most a hundred senders have a label of their own."""
        if sender not in self._senders:
            if len(self._senders) >= _SENDERS_MAX:
                sender = "others"
            self._senders.add(sender)
        self.refusals.labels(sender, code).inc()

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request to the HTTP door."""
        self.http_requests.labels(route, status).inc()
        self.http_seconds.labels(route).observe(seconds)

    def serve(self, host: str, port: int) -> None:
        """Serve the metrics on ``port`` of the address ``host``, in a thread; with port 0 nowhere.

        Raises ConfigurationError where the port is taken, or the address is none of this machine's.
        """
        if not port:
            return
        try:
            start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served on {host}, port {port}: {error.strerror}; "
                "set another BILLING_METRICS_LISTEN or BILLING_METRICS_PORT"
            ) from error
