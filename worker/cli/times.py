"""Times as people write them, and as they are shown."""

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import click

from schemas.fields import parse_rfc3339

FORMS = (
    "15m, 2h or 3d (ago), today, yesterday, 14:05, 2026-11-26, 2026-11-26 11:03, "
    "or RFC 3339 such as 2026-11-26T11:03:00Z"
)

_AGO = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CLOCK = re.compile(r"\d{2}:\d{2}(:\d{2})?", re.ASCII)
_DAY_AND_CLOCK = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}(?::\d{2})?)", re.ASCII)
_DAYS_BACK = {"today": 0, "yesterday": 1}


def parse_time(text: str, now: datetime, zone: tzinfo) -> datetime:
    """Return the time, in UTC, that ``text`` means at ``now`` in ``zone``; a day means its first instant.

    Raises ValueError, which names the forms.
    """
    text = text.strip()
    try:
        return (_ago(text, now) or _local(text, now, zone) or parse_rfc3339(text)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time; write {FORMS}") from error


def _ago(text: str, now: datetime) -> datetime | None:
    match = _AGO.fullmatch(text)
    return None if match is None else now - timedelta(**{_UNITS[match[2]]: int(match[1])})


def _local(text: str, now: datetime, zone: tzinfo) -> datetime | None:
    """Return the time on the clocks of ``zone``; None where ``text`` is in another form."""
    today = now.astimezone(zone).date()
    if text in _DAYS_BACK:
        return datetime.combine(today - timedelta(days=_DAYS_BACK[text]), time(), zone)
    if _CLOCK.fullmatch(text):
        return datetime.combine(today, time.fromisoformat(text), zone)
    if match := _DAY_AND_CLOCK.fullmatch(text):
        return datetime.combine(date.fromisoformat(match[1]), time.fromisoformat(match[2]), zone)
    try:
        return datetime.combine(date.fromisoformat(text), time(), zone)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class TimeText:
    """A time as somebody wrote it, and the option; the command knows the present time and the zone."""

    text: str
    option: str | None = field(default=None, compare=False)

    def at(self, now: datetime, zone: tzinfo = UTC) -> datetime:
        """Return the time in UTC. Raises UsageError where ``zone`` moves it out of the calendar."""
        try:
            return parse_time(self.text, now, zone)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=self.option) from error


def time_range(
    start: TimeText | None, end: TimeText | None, now: datetime, zone: tzinfo = UTC
) -> tuple[datetime | None, datetime | None]:
    """Return both ends in UTC. Raises UsageError where the first is after the last."""
    first = None if start is None else start.at(now, zone)
    last = None if end is None else end.at(now, zone)
    if start and end and first and last and first > last:
        raise click.UsageError(f"{start.option} {start.text} is after {end.option} {end.text}")
    return first, last


class _TimeType(click.ParamType[TimeText, str | TimeText]):
    name = "time"

    def convert(
        self, value: str | TimeText, param: click.Parameter | None, ctx: click.Context | None
    ) -> TimeText:
        if isinstance(value, TimeText):
            return value
        try:
            parse_time(value, datetime.now(UTC), UTC)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return TimeText(value, None if param is None else param.get_error_hint(ctx))


TIME = _TimeType()


def moment(value: datetime | None) -> str | None:
    """Return a time to the second, in UTC."""
    return None if value is None else f"{value:%Y-%m-%d %H:%M:%S}Z"


def stamp(value: datetime | None) -> str | None:
    """Return a time as RFC 3339, for JSON and CSV."""
    return None if value is None else value.isoformat().replace("+00:00", "Z")


def month_of(day: date) -> tuple[date, date]:
    """Return the first day of the month, and of the next."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)
