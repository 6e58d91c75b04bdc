"""Money without tokens over RabbitMQ and PostgreSQL: told, listed, mended, tried again, credited once."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from schemas import Notice
from tests.support.processes import run_cli
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.ledger.audit import audit
from worker.settings import Settings

OPEN = {"type": "account.open", "referenceId": "open", "userId": "ann", "tier": "free"}
PAID = {
    "type": "payment.succeeded",
    "referenceId": "stripe:pi_1",
    "userId": "ann",
    "packageId": "promo",
    "amountMinor": 1_999,
    "currency": "USD",
    "provider": "stripe",
    "alsoKnownAs": ["stripe:ch_1"],
}
REFUNDED = {
    "type": "payment.refunded",
    "referenceId": "stripe:re_1",
    "originalReferenceId": "stripe:ch_1",
    "amountMinor": 1_999,
    "currency": "USD",
}
PROMO = '\n[[packages]]\nid = "promo"\ntokens = 500\nprice_minor = 1_999\ncurrency = "USD"\n'


@pytest.fixture
def mended(worker_settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a catalog that has the package."""
    path = tmp_path / "mended.toml"
    path.write_text(Path("worker/catalog.toml").read_text() + PROMO)
    return worker_settings.model_copy(update={"catalog": path})


@pytest.fixture
def notice_queue(rabbit: RabbitClient) -> str:
    """A queue that receives the notices of rejected payments."""
    queue = f"test.notices.{uuid4().hex}"
    rabbit.channel.queue_declare(queue, exclusive=True)
    rabbit.channel.queue_bind(queue, BILLING.events, "payment.rejected")
    return queue


def listed(settings: Settings, *options: str) -> list[dict[str, Any]]:
    shown = run_cli(settings, "payments", "--json", *options)
    found: list[dict[str, Any]] = json.loads(shown.stdout)["incidents"]
    return found


def balance(settings: Settings) -> int:
    found: int = json.loads(run_cli(settings, "balance", "ann", "--json").stdout)["balance"]
    return found


def test_rejected_payment_is_noticed_and_credited_once_when_the_catalog_is_mended(
    application: Application, mended: Settings, rabbit: RabbitClient, notice_queue: str
) -> None:
    settings = application.settings
    with running(application):
        rabbit.request(OPEN)
        for _ in range(2):
            reply = rabbit.request(PAID)
            assert (reply["status"], reply["code"]) == ("rejected", "unknown_package")
        first, again = (Notice.model_validate_json(body) for _, body in rabbit.take(notice_queue, 2))
    assert first == again
    assert (first.reference_id, first.user_id, first.code) == ("stripe:pi_1", "ann", "unknown_package")
    assert (first.amount_minor, first.currency) == (1_999, "USD")
    (incident,) = listed(settings)
    assert (incident["referenceId"], incident["gateway"]) == ("stripe:pi_1", "stripe")

    later = Application(mended)
    with running(later):
        why = ("--reason", "package added", "--actor", "eve", "--timeout", "60")
        for expected in (0, 1):
            tried = run_cli(mended, "retry", "stripe:pi_1", *why)
            assert tried.returncode == expected, tried.stderr
        reply = rabbit.request({**PAID, "attempt": 2})
        assert (reply["status"], reply["duplicate"]) == ("applied", True)
        reply = rabbit.request(PAID)
        assert (reply["status"], reply["attempt"], reply["duplicate"]) == ("applied", 2, True)
    assert listed(mended) == []
    assert balance(mended) == 10_500
    assert audit(later.engine, catalog=later.catalog).is_clean
    (entry,) = later.service().activity_log(action="retry").entries
    assert (entry.actor, entry.reason, entry.subject) == ("eve", "package added", "stripe:pi_1")
    later.engine.dispose()


def test_refund_without_its_payment_is_overdue_until_the_payment_comes(
    worker_settings: Settings, mended: Settings, rabbit: RabbitClient
) -> None:
    past = Application(worker_settings, clock=lambda: utc_now() - timedelta(days=4))
    with running(past):
        rabbit.request(OPEN)
        reply = rabbit.request(REFUNDED)
        assert (reply["status"], reply["code"]) == ("applied", "payment_awaited")
    past.engine.dispose()
    (incident,) = listed(worker_settings)
    assert (incident["referenceId"], incident["isOverdue"]) == ("stripe:re_1", True)
    assert incident["originalReferenceId"] == "stripe:ch_1"

    present = Application(mended)
    watch = present.waiting_watch()
    watch.look()
    value = present.metrics.registry.get_sample_value
    assert value("billing_payments_overdue") == 1
    with running(present):
        reply = rabbit.request(PAID)
        assert (reply["status"], reply["code"]) == ("applied", "tokens_purchased")
    watch.look()
    assert (value("billing_payments_overdue"), value("billing_payments_waiting")) == (0, 0)
    assert listed(mended) == []
    assert balance(mended) == 10_000, "what was paid has gone back"
    explained = json.loads(run_cli(mended, "explain", "stripe:re_1", "--json").stdout)
    assert explained["awaited"]["takenInBy"] == "stripe:pi_1"
    assert audit(present.engine, catalog=present.catalog).is_clean
    present.engine.dispose()


def test_event_that_a_name_learned_later_finds_is_taken_in_by_the_scheduler(
    application: Application, mended: Settings, rabbit: RabbitClient
) -> None:
    present = Application(mended)
    with running(present):
        rabbit.request(OPEN)
        rabbit.request(REFUNDED)
        rabbit.request({name: value for name, value in PAID.items() if name != "alsoKnownAs"})
        assert balance(mended) == 10_500
        rabbit.request(PAID)
        assert present.scheduler().tick(utc_now() + timedelta(minutes=2)) == 1
        eventually(lambda: balance(mended) == 10_000, what="the refund counts")
    assert listed(mended, "--waiting") == []
    assert audit(present.engine, catalog=present.catalog).is_clean
    present.engine.dispose()
