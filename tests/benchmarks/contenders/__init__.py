"""Contenders of the worker: the same ledger work with other frameworks, one transaction a message.

Each consumes a quorum queue of its own with persistent messages, applies ``usage.deduct`` once through
``ledger_by_hand``, replies to ``billing.replies`` with the publisher's confirm, and acknowledges last. The
echo keeps no ledger: it is what the worker's own client costs.

Nothing here needs the packages of the extra before a queue is filled for them or their processes run.
"""

from tests.benchmarks.contenders.contender import Contender
from tests.benchmarks.contenders.message_formats import (
    celery_message,
    dramatiq_message,
    plain_message,
)

_HERE = __name__
_LEDGER = ("sqlalchemy", "psycopg2-binary")

CELERY = Contender(
    name="Celery",
    queue="bench.celery",
    packages=("celery", "kombu", "amqp", *_LEDGER),
    processes=4,
    prefetch=16,
    arguments=(
        "celery",
        f"--app={_HERE}.celery_app",
        "worker",
        "--pool=solo",  # a third faster than as many prefork processes under one parent
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel=ERROR",
    ),
    kept="solo, acks_late, no result backend, no events, no remote control, no gossip, mingle, heartbeats",
    encode=celery_message,
)
DRAMATIQ = Contender(
    name="Dramatiq",
    queue="bench.dramatiq",
    queue_arguments={
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "bench.dramatiq.XQ",
    },
    packages=("dramatiq", "pika", *_LEDGER),
    processes=2,
    threads=4,
    prefetch=64,
    is_forking=True,
    arguments=(
        "dramatiq",
        f"{_HERE}.dramatiq_app",
        "--processes={processes}",
        "--threads={threads}",
        "--skip-logging",
        "--worker-shutdown-timeout=10000",
    ),
    environment={"dramatiq_queue_prefetch": "{prefetch}"},
    kept="no middleware but retries",
    encode=dramatiq_message,
)
FASTSTREAM = Contender(
    name="FastStream",
    queue="bench.faststream",
    packages=("faststream", "aio-pika", *_LEDGER),
    processes=2,
    threads=8,
    prefetch=32,
    arguments=(f"{_HERE}.faststream_app",),
    kept="the ledger in a pool of threads, no dependency injection, no log",
    encode=plain_message,
)
BY_HAND = Contender(
    name="pika + SQLAlchemy by hand",
    queue="bench.by_hand",
    packages=("pika", *_LEDGER),
    processes=4,
    prefetch=50,
    arguments=(f"{_HERE}.by_hand",),
    kept="a BlockingConnection each",
    encode=plain_message,
)
ECHO = Contender(
    name="echo",
    queue="bench.echo",
    packages=("kombu", "amqp"),
    processes=1,
    prefetch=1000,
    arguments=(f"{_HERE}.echo",),
    kept="the worker's client, batches of up to 500, replies with pipelined confirms",
    encode=plain_message,
    keeps_ledger=False,
)

CONTENDERS: tuple[Contender, ...] = (CELERY, DRAMATIQ, FASTSTREAM, BY_HAND, ECHO)

__all__ = ["BY_HAND", "CELERY", "CONTENDERS", "DRAMATIQ", "ECHO", "FASTSTREAM", "Contender"]
