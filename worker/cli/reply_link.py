"""Link with a reply queue of the user's own, for commands that wait for their replies."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from worker.bootstrap import Application
from worker.broker import Link
from worker.cli.application import reply_sender_of
from worker.errors import BrokerUnavailableError


@contextmanager
def reply_link(application: Application, prefetch: int = 1) -> Iterator[tuple[Link, str]]:
    """Link that consumes a reply queue of this user's own; both are removed after the block."""
    queue = f"{application.settings.reply_queue}.{reply_sender_of(application)}.{uuid4().hex}"
    link = application.link()
    try:
        link.declare_temporary(queue)
    finally:
        link.close()
    link = application.link(consume=[queue], prefetch=prefetch)
    try:
        yield link, queue
    finally:
        with suppress(BrokerUnavailableError):
            link.delete(queue)
        link.close()
