"""What the commands that look at the ledger share: the reader, and times as people write and read them."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import click

from schemas.fields import parse_rfc3339
from worker.bootstrap import Application
from worker.ledger.queries import Reader, day_start


def reader_of(application: Application) -> Reader:
    """The reader of a ledger that is at the newest schema."""
    application.require_newest_schema()
    return Reader(application.engine)


def moment(value: datetime | None) -> str | None:
    """A time to the second, in UTC."""
    return None if value is None else f"{value:%Y-%m-%d %H:%M:%S}Z"


def stamp(value: datetime | None) -> str | None:
    """A time as it stands in JSON and CSV: RFC 3339."""
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def as_moment(text: str) -> datetime:
    """A time with its offset, as RFC 3339 writes it; in UTC."""
    try:
        return parse_rfc3339(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r}: {error}") from error


def as_day_or_moment(text: str) -> date | datetime:
    """A day, which begins at midnight in the zone that is asked for, or a time with its offset."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return parse_rfc3339(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{text!r} must be a day such as 2026-11-01, or a time such as 2026-11-01T12:00:00Z"
        ) from error


def begins(value: date | datetime, zone: ZoneInfo) -> datetime:
    """The instant that is meant, in UTC: of a day, its beginning."""
    return value if isinstance(value, datetime) else day_start(value, zone)


def month_of(day: date) -> tuple[date, date]:
    """The first day of the month, and of the next."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)
