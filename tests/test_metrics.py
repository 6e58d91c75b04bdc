"""Metrics of a process: those of its roles, few of them, and what nobody knows is no zero."""

from math import isnan
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from schemas import MESSAGE_TYPES, Code, DeadLetterReason, NoticeType
from tests.observability.expressions import registries
from tests.support.promtool import run_promtool
from worker.broker import BILLING
from worker.contract.codes import REPLY_CODES
from worker.messages.dead_letter_limit import PauseCode
from worker.metrics import FAILED, REFUSALS_MAX, REJECTED, Metrics, ProcessRole, Since, status_of

LANES = [queue.name for queue in BILLING.work]
SERIES_MAX = 300
#: Reasons that are a sender's fault; the others are the worker's and the broker's.
REFUSALS = [
    reason
    for reason in DeadLetterReason
    if reason
    not in {"unprocessable", "delivery_limit", "notice_refused", "rejected", "expired", "maxlen", "unknown"}
]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(LANES)


def names(registry: CollectorRegistry) -> set[str]:
    return {family.name for family in registry.collect()}


def series(registry: CollectorRegistry) -> int:
    """Return the number of lines that a scrape gets."""
    lines = generate_latest(registry).decode().splitlines()
    return sum(not line.startswith("#") for line in lines)


def common(metrics: Metrics) -> set[str]:
    return names(metrics.registry_of())


def test_process_serves_the_metrics_of_its_roles_alone(metrics: Metrics) -> None:
    own = {role: names(metrics.registry_of(role)) - common(metrics) for role in ProcessRole}
    assert all(own.values())
    for role, others in (
        (role, own[other]) for role in ProcessRole for other in ProcessRole if other is not role
    ):
        assert own[role].isdisjoint(others)
    assert "billing_worker_outcomes" in own[ProcessRole.WORKER]
    assert "billing_ledger_debt_tokens" in own[ProcessRole.SCHEDULER]


def test_process_of_two_roles_serves_both(metrics: Metrics) -> None:
    both = names(metrics.registry_of(ProcessRole.WORKER, ProcessRole.SCHEDULER))
    assert both == names(metrics.registry_of(ProcessRole.WORKER)) | names(
        metrics.registry_of(ProcessRole.SCHEDULER)
    )


def test_every_metric_belongs_to_a_role(metrics: Metrics) -> None:
    assert names(metrics.registry) <= names(metrics.registry_of(*ProcessRole))


def test_every_process_serves_its_version_and_its_resources(metrics: Metrics) -> None:
    assert {
        "billing_worker_build", "billing_worker_outages", "process_cpu_seconds",
        "process_resident_memory_bytes", "python_info",
    } <= common(metrics)  # fmt: skip


def test_worker_has_at_most_300_series_whatever_it_meets(metrics: Metrics) -> None:
    metrics.describe(catalog="a", config="b")
    for code in Code:
        metrics.outcomes.labels(status_of(code), code).inc()
        metrics.payments_rejected.labels(code) if code in REJECTED else None
    for sender in range(200):
        for reason in REFUSALS:
            metrics.count_refusal(f"sender-{sender}", reason)
    for lane in LANES:
        for pause in PauseCode:
            metrics.paused.labels(lane, pause).set(1)
        for since in Since:
            metrics.message_age.observe((lane, since), [5.0])
    for server in ("broker", "database"):
        metrics.notes(ProcessRole.WORKER, server)["on_begin"]()
    assert series(metrics.registry_of(ProcessRole.WORKER)) <= SERIES_MAX


def test_refusals_name_few_senders_and_lose_none(metrics: Metrics) -> None:
    for sender in range(200):
        metrics.count_refusal(f"sender-{sender}", "not_json")
    counted = {
        sample.labels["sender"]: sample.value
        for family in metrics.refusals.collect()
        for sample in family.samples
    }
    assert sum(counted.values()) == 200
    assert counted["sender-0"] == 1
    assert counted["others"] == 200 - REFUSALS_MAX


def test_label_sets_begin_with_zero(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    for type_ in (*MESSAGE_TYPES, "unknown"):
        assert value("billing_worker_messages_total", {"type": type_}) == 0
    for code in Code:
        found = value("billing_worker_outcomes_total", {"status": status_of(code), "code": code})
        assert (found == 0) is (code not in {Code.BATCH_PROCESSED, Code.PAYMENT_IMPORTED})
    for type_ in get_args(NoticeType):
        assert value("billing_worker_notices_total", {"type": type_, "outcome": "published"}) == 0
    for lane in LANES:
        assert value("billing_worker_lane_messages_total", {"lane": lane}) == 0
        labels = {"lane": lane, "since": "published"}
        assert value("billing_worker_message_age_seconds_count", labels) == 0
    assert value("billing_worker_dead_lettered_total", {"reason": "unprocessable"}) == 0
    assert value("billing_payments_rejected_total", {"code": "unknown_package"}) == 0


def test_status_of_a_code_is_that_of_the_contract() -> None:
    assert {code: status_of(code) for code in Code} == {
        code: entry.status for code, entry in REPLY_CODES.items()
    }
    assert FAILED.isdisjoint(REJECTED)


def test_gauges_of_the_ledger_begin_unknown(metrics: Metrics) -> None:
    gauges = [
        sample
        for family in metrics.registry_of(ProcessRole.SCHEDULER).collect()
        if family.type == "gauge" and family.name.startswith("billing_")
        for sample in family.samples
    ]
    assert len(gauges) > 15
    assert all(isnan(sample.value) for sample in gauges)


def test_connection_is_unknown_then_reached_then_lost(metrics: Metrics) -> None:
    def connected() -> float | None:
        labels = {"loop": "worker", "server": "broker"}
        return metrics.registry.get_sample_value("billing_worker_connected", labels)

    assert connected() is None, "no such loop runs"
    notes = metrics.notes(ProcessRole.WORKER, "broker")
    assert isnan(connected() or 0)
    notes["on_end"]()
    assert connected() == 1
    notes["on_begin"]()
    assert connected() == 0
    assert metrics.registry.get_sample_value("billing_worker_outages_total", {"server": "broker"}) == 1


@pytest.mark.parametrize("registry", list(registries()), ids=[*ProcessRole, "audit"])
def test_names_follow_the_conventions_of_prometheus(registry: CollectorRegistry) -> None:
    assert run_promtool("check", "metrics", given=generate_latest(registry).decode()) == ""
