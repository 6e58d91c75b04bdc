"""Local days: their beginnings and ends in UTC, also where clocks change."""

from bisect import bisect_right
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from math import gcd
from zoneinfo import ZoneInfo

from worker.errors import QueryError
from worker.ledger.queries.snapshots import in_utc


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name. Raises QueryError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise QueryError(
            f"the time zone {name!r} is not known; give an IANA name such as Europe/Berlin", "timezone"
        ) from error


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant of a local day, in UTC. Raises QueryError at the ends of the calendar.

    A midnight that doesn't exist becomes the instant the clock jumped, one that comes twice the first.
    """
    return in_utc(f"the day {day}", datetime.combine(day, time(), zone))


class Calendar:
    """Consecutive local days and the instants, in seconds since 1970, at which each of them begins.

    ``step`` divides every day, so that a slice of that length belongs to one day: 86,400 s where no clock
    changes, an hour or less where one does.
    """

    def __init__(self, last: date, days: int, zone: ZoneInfo) -> None:
        self.days = [last - timedelta(days=back) for back in range(days - 1, -1, -1)]
        starts = [int(day_start(day, zone).timestamp()) for day in (*self.days, last + timedelta(days=1))]
        self.starts, self.end = starts[:-1], starts[-1]
        self.step = gcd(*(after - before for before, after in pairwise(starts)))

    @property
    def start(self) -> int:
        """Return the first instant of the first day."""
        return self.starts[0]

    def index(self, piece: int) -> int:
        """Return the index of the day that the slice number ``piece`` belongs to."""
        return bisect_right(self.starts, self.start + piece * self.step) - 1
