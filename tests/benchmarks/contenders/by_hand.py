"""Handwritten loop: pika takes a message, SQLAlchemy applies it, then reply and acknowledgement."""

import sys

import pika

from schemas import DeductUsage
from tests.benchmarks.contenders.ledger_by_hand import apply
from tests.benchmarks.contenders.setup import REPLIES, Setup, utc_now
from worker.runtime.stop import SignalStop


def main(setup: Setup) -> int:
    """Consume until SIGTERM."""
    stop = SignalStop()
    stop.install()
    engine = setup.engine()
    with pika.BlockingConnection(pika.URLParameters(setup.broker_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=setup.prefetch)
        for method, _, body in channel.consume(setup.queue, inactivity_timeout=0.5):
            if stop.requested:
                break
            if method is None:
                continue
            command = DeductUsage.model_validate_json(body)
            reply = apply(engine, command, utc_now())
            # Returns when the broker has it; raises where it refuses it, or has no such queue.
            channel.basic_publish("", REPLIES, reply, _properties(command), mandatory=True)
            channel.basic_ack(method.delivery_tag)
    return 0


def _properties(command: DeductUsage) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        correlation_id=command.reference_id,
        type="billing.reply",
        app_id="by-hand",
    )


if __name__ == "__main__":
    sys.exit(main(Setup.from_environment()))
