"""Times at which a message was published and its work occurred, as far as it says them.

AMQP's ``timestamp`` counts whole seconds. A broker that stamps what comes in adds the header
``timestamp_in_ms``, see https://www.rabbitmq.com/docs/message-interceptors; so do our clients and commands.
"""

from calendar import timegm
from datetime import datetime

from schemas import Message
from schemas.dead_letter import SENDER_HEADER
from worker.broker import Delivery

#: Header of the time at which a message was published, in milliseconds of the epoch.
STAMP_HEADER = "timestamp_in_ms"
#: Seconds of the epoch between which every clock of a sender is: from 2001 to 2286.
_EARLIEST, _LATEST = 10**9, 10**10


def published_at(delivery: Delivery) -> float | None:
    """Return when a message was published, in seconds of the epoch; None where nobody says it.

    One that is published again, by a replay or a recovery, has the stamp of the first time: it isn't late.
    """
    if SENDER_HEADER in delivery.headers:
        return None
    stamp = delivery.headers.get(STAMP_HEADER)
    if type(stamp) is int:
        return _plausible(stamp / 1000)
    stamp = delivery.properties.get("timestamp")
    if isinstance(stamp, datetime):  # the client's reading: naive, in UTC
        return _plausible(float(timegm(stamp.timetuple())))
    return _plausible(float(stamp)) if type(stamp) is int else None


def _plausible(seconds: float) -> float | None:
    """Return a time that a clock may show; None for another unit or an invention: no sum would recover."""
    return seconds if _EARLIEST < seconds < _LATEST else None


def occurred_at(message: Message) -> float | None:
    """Return when the work of a message occurred; None where it doesn't say it."""
    moment: datetime | None = getattr(message, "occurred_at", None)
    return None if moment is None else moment.timestamp()
