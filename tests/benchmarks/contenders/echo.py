"""Echo: receive, reply with confirms and acknowledge, through the worker's own client.

Nothing is decoded, nothing is kept. The replies are of the worker's size.
"""

import sys

from schemas import Code, Reply, Status
from tests.benchmarks.contenders.setup import REPLIES, Setup, utc_now
from worker.broker import Delivery, Outgoing, open_link
from worker.runtime.stop import SignalStop

_BATCH = 500


def main(setup: Setup) -> int:
    """Consume until SIGTERM."""
    stop = SignalStop()
    stop.install()
    body = _body()
    link = open_link(setup.broker_url, consume=[setup.queue], prefetch=setup.prefetch, name="echo")
    while not stop.requested:
        deliveries = link.receive(_BATCH, 0.5)
        if deliveries:
            link.publish([_reply(delivery, body) for delivery in deliveries]).raise_if_refused()
            link.acknowledge(deliveries)
    link.close()
    return 0


def _body() -> bytes:
    """Reply of the worker's size to a deduction of the benchmark."""
    return Reply(
        status=Status.APPLIED,
        code=Code.TOKENS_DEDUCTED,
        message="Deducted 1 tokens. Balance: 499.9K",
        type="usage.deduct",
        reference_id=f"upload-{0:08}-{'0' * 36}",
        user_id="user-000000",
        attempt=1,
        transaction_id="100000",
        unit="tokens",
        amount=1,
        balance_before=499_991,
        balance_after=499_990,
        recorded_at=utc_now(),
    ).to_json()


def _reply(delivery: Delivery, body: bytes) -> Outgoing:
    return Outgoing(
        body,
        "",
        REPLIES,
        {
            "content_type": "application/json",
            "type": "billing.reply",
            "app_id": "billing-worker",
            "correlation_id": delivery.text("message_id"),
            "message_id": f"{delivery.tag:032}",
        },
    )


if __name__ == "__main__":
    sys.exit(main(Setup.from_environment()))
