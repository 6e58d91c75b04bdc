"""Periods: months counted from an account's anchor, in UTC, so that no clock change moves them."""

from calendar import monthrange
from datetime import date, datetime
from typing import NamedTuple


class Period(NamedTuple):
    """Period from ``start`` until before ``end``."""

    start: datetime
    end: datetime

    @property
    def key(self) -> date:
        """Return the day (UTC) by which quotas name the period."""
        return self.start.date()


def months_after(anchor: datetime, months: int) -> datetime:
    """Return ``anchor`` plus ``months``; from the 31st, the last day of a month that has none."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    month += 1
    day = anchor.day
    return anchor.replace(
        year=year, month=month, day=day if day <= 28 else min(day, monthrange(year, month)[1])
    )


def period_at(anchor: datetime, moment: datetime) -> Period:
    """Return the period that contains ``moment``; both times are aware and in UTC."""
    months = (moment.year - anchor.year) * 12 + moment.month - anchor.month
    start = months_after(anchor, months)
    if start > moment:
        return Period(months_after(anchor, months - 1), start)
    return Period(start, months_after(anchor, months + 1))
