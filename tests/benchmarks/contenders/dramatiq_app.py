"""Dramatiq: one actor a deduction; the reply uses the thread's channel in confirm mode."""

import logging
from functools import cache
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries
from sqlalchemy import Engine

from schemas import DeductUsage
from tests.benchmarks.contenders.ledger_by_hand import apply
from tests.benchmarks.contenders.message_formats import TASK
from tests.benchmarks.contenders.setup import REPLIES, Setup, utc_now

_SETUP = Setup.from_environment()

logging.getLogger("pika").setLevel(logging.WARNING)


class _QuorumBroker(RabbitmqBroker):  # type: ignore[misc]  # the extra may not be installed
    """Broker with quorum queues, for which Dramatiq has no setting."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = _QuorumBroker(url=_SETUP.broker_url, confirm_delivery=True, middleware=[Retries()])
dramatiq.set_broker(broker)


@cache
def _engine() -> Engine:
    """Return the engine of this process, made after the fork."""
    return _SETUP.engine()


def _deduct(**message: Any) -> None:
    command = DeductUsage.model_validate(message)
    reply = apply(_engine(), command, utc_now())
    broker.channel.basic_publish(
        "",
        REPLIES,
        reply,
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            correlation_id=command.reference_id,
            type="billing.reply",
            app_id="dramatiq",
        ),
        mandatory=True,
    )


deduct = dramatiq.actor(_deduct, actor_name=TASK, queue_name=_SETUP.queue, broker=broker)
