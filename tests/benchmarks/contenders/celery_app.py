"""Celery: one task a deduction, acknowledged late; a producer with confirms sends the reply."""

from functools import cache
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from sqlalchemy import Engine

from schemas import DeductUsage
from tests.benchmarks.contenders.ledger_by_hand import apply
from tests.benchmarks.contenders.message_formats import TASK
from tests.benchmarks.contenders.setup import REPLIES, Setup, utc_now

_SETUP = Setup.from_environment()

app = Celery("contender", broker=_SETUP.broker_url)
app.conf.update(
    task_queues=[Queue(_SETUP.queue, Exchange(""), _SETUP.queue, queue_arguments={"x-queue-type": "quorum"})],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_track_started=False,
    worker_prefetch_multiplier=_SETUP.prefetch,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    broker_heartbeat=0,
    broker_connection_retry_on_startup=False,
    broker_transport_options={"confirm_publish": True},
)


@cache
def _engine() -> Engine:
    """Return the engine of this process, made after the fork."""
    return _SETUP.engine()


def _deduct(**message: Any) -> None:
    command = DeductUsage.model_validate(message)
    reply = apply(_engine(), command, utc_now())
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            reply,
            exchange="",
            routing_key=REPLIES,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            correlation_id=command.reference_id,
            type="billing.reply",
            app_id="celery",
        )


deduct = app.task(name=TASK)(_deduct)
