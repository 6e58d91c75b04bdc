"""Metrics as Prometheus scrapes them: a worker's and a scheduler's, each its own."""

from collections.abc import Mapping
from time import time
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.support.private_server import free_port
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually

OPEN = {"type": "account.open", "referenceId": "o", "userId": "ada", "tier": "free"}
DEDUCT = {"type": "usage.deduct", "referenceId": "d", "userId": "ada", "tokens": 4}


def scraped(port: int) -> Mapping[str, float]:
    """Return the samples of a process by name and values of the labels; none before it listens."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except URLError:
        return {}
    return {
        ".".join((sample.name, *(sample.labels[label] for label in sorted(sample.labels)))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped_once(port: int, name: str) -> Mapping[str, float]:
    """Return the samples of a process, once that of ``name`` is 1."""
    eventually(lambda: scraped(port).get(name) == 1)
    return scraped(port)


def test_worker_and_scheduler_serve_their_own_metrics(workers: WorkerProcesses, rabbit: RabbitClient) -> None:
    of_worker, of_scheduler = free_port(), free_port()
    workers.start("--readers", "0", "--metrics-port", str(of_worker))
    rabbit.request(OPEN)
    rabbit.request(DEDUCT, timestamp=int(time()))
    rabbit.request(DEDUCT)
    worker = scraped_once(of_worker, "billing_worker_duplicates_total")
    assert worker["billing_worker_outcomes_total.tokens_deducted.applied"] == 1
    assert worker["billing_worker_messages_total.usage.deduct"] == 2
    assert worker["billing_worker_lane_messages_total.billing.usage"] == 2
    assert worker["billing_worker_message_age_seconds_count.billing.usage.published"] == 1
    assert worker["billing_worker_message_age_seconds_sum.billing.usage.published"] < 60
    assert worker["billing_worker_connected.worker.broker"] == 1
    assert worker["billing_worker_connected.worker.database"] == 1

    workers.start("--metrics-port", str(of_scheduler), command="scheduler")
    scheduler = scraped_once(of_scheduler, "billing_ledger_accounts")
    assert scheduler["billing_queue_consumers.billing.usage"] == 1
    assert scheduler["billing_ledger_liability_tokens"] == 9_996
    assert scheduler["billing_dead_letters_waiting"] == 0

    def catalogs(scrape: Mapping[str, float]) -> list[str]:
        return [name for name in scrape if name.startswith("billing_worker_catalog_info.")]

    assert catalogs(worker) == catalogs(scheduler) != []
    shared = {name for name in worker.keys() & scheduler.keys() if name.startswith("billing_")}
    assert {name.split(".")[0] for name in shared} == {
        "billing_worker_build_info",
        "billing_worker_catalog_info",
        "billing_worker_outages_total",
    }
