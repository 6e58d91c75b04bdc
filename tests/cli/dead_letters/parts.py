"""Messages that cannot be applied, a worker that meets them, and the dead letters listed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.cli.console import Cli, Ended
from tests.support.waiting import PATIENCE_S
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.store import Ledger
from worker.settings import load_settings

AWAY = "amqp://guest:guest@127.0.0.1:1/"
BONUS = {"type": "credit.bonus", "referenceId": "bonus-1", "userId": "ann", "tokens": 2_000}


def worker(
    cli: Cli,
    count: int = 1,
    *,
    most: int = 1_000,
    senders: Mapping[str, Sequence[str]] | None = None,
    drains: bool = True,
) -> None:
    """Process the next ``count`` messages with the largest quantity ``most``, then drain dead letters."""
    environment = cli.environment
    application = Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"],
            database_url=environment["BILLING_DATABASE_URL"],
            max_quantity=most,
            senders=senders,
        )
    )
    pipeline = application.pipeline(Ledger(application.engine))
    link = application.link(consume=[queue.name for queue in BILLING.work])
    try:
        while count:
            deliveries = link.receive(count, PATIENCE_S)
            assert deliveries, f"{count} messages have not come"
            items = pipeline.receive(deliveries)
            pipeline.apply(items)
            pipeline.reply_and_acknowledge(link, items)
            count -= len(deliveries)
    finally:
        link.close()
        application.engine.dispose()
    assert not drains or cli("dead-letters", "drain").code == 0


@contextmanager
def working(
    cli: Cli, *, most: int = 5_000, senders: Mapping[str, Sequence[str]] | None = None
) -> Iterator[None]:
    """Run a worker with the largest quantity ``most`` beside the command."""
    application = Application(
        load_settings(
            broker_url=cli.environment["BILLING_BROKER_URL"],
            database_url=cli.environment["BILLING_DATABASE_URL"],
            max_quantity=most,
            senders=senders,
        )
    )
    with running(application):
        yield
    application.engine.dispose()


def replayed(cli: Cli, *arguments: str, **worker_settings: Any) -> Ended:
    """Run a replay beside a worker."""
    with working(cli, **worker_settings):
        return cli("dead-letters", "replay", *arguments, "--reason", "mended")


def dead_letters(cli: Cli, *options: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = cli("dead-letters", "list", "--json", *options).json["deadLetters"]
    return listed


def the_dead_letter(cli: Cli, *options: str) -> dict[str, Any]:
    (dead_letter,) = dead_letters(cli, *options)
    return dead_letter
