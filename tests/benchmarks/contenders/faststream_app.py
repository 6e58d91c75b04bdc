"""FastStream: a subscriber on one event loop, the ledger in a pool of threads, confirmed replies."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from schemas import DeductUsage
from tests.benchmarks.contenders.ledger_by_hand import apply
from tests.benchmarks.contenders.setup import REPLIES, Setup, utc_now


async def main(setup: Setup) -> None:
    """Consume until SIGTERM."""
    broker = RabbitBroker(
        setup.broker_url,
        default_channel=Channel(prefetch_count=setup.prefetch, publisher_confirms=True),
        apply_types=False,
        logger=None,
    )
    engine, threads = setup.engine(), ThreadPoolExecutor(setup.threads)

    async def deduct(message: Any) -> None:
        command = DeductUsage.model_validate(message)
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(threads, apply, engine, command, utc_now())
        await broker.publish(
            reply,
            REPLIES,
            persist=True,
            content_type="application/json",
            correlation_id=command.reference_id,
            message_type="billing.reply",
        )

    queue = RabbitQueue(setup.queue, QueueType.QUORUM, durable=True)
    broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)(deduct)
    await FastStream(broker, logger=None).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Setup.from_environment())))
