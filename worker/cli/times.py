"""Helpers of the commands that read the ledger: the reader, and times as people write and read them."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import click

from schemas.fields import parse_rfc3339
from worker.bootstrap import Application
from worker.ledger.queries import Reader, day_start


def reader_of(application: Application) -> Reader:
    """Return the reader of a ledger that is at the newest schema."""
    application.require_newest_schema()
    return Reader(application.engine)


def moment(value: datetime | None) -> str | None:
    """Return a time to the second, in UTC."""
    return None if value is None else f"{value:%Y-%m-%d %H:%M:%S}Z"


def stamp(value: datetime | None) -> str | None:
    """Return a time as RFC 3339, for JSON and CSV."""
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def as_moment(text: str) -> datetime:
    """Return the time in a text of RFC 3339 with its offset; in UTC."""
    try:
        return parse_rfc3339(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r}: {error}") from error


def as_day_or_moment(text: str) -> date | datetime:
    """Return a day, which begins at midnight in the chosen zone, or a time with its offset."""
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
    """Return the instant in UTC: of a day, its beginning."""
    return value if isinstance(value, datetime) else day_start(value, zone)


def month_of(day: date) -> tuple[date, date]:
    """Return the first day of the month, and of the next."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)
