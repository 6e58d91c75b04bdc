"""Overview: queues, rate, outcomes and health; unknown values are shown as unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Blueprint, g, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.charts import Bar, Chart, stacked_bars
from worker.console.context import ConsoleContext, context, or_unknown
from worker.console.queues import QueueStatus
from worker.console.tiles import tiles_of
from worker.deadletters.store.arrivals import failures_between
from worker.ledger.queries import snapshot
from worker.ledger.queries.pace import Pace, PaceBucket, pace
from worker.ledger.slots import parts_of
from worker.runtime.cached_value import KnownValue, Unknown
from worker.runtime.durations import lasting
from worker.runtime.health import Health, HealthState
from worker.status import InstallationStatus

page = Blueprint("overview", __name__)

_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Window:
    """Time range of the chart: a number of buckets of one length, with a label format."""

    text: str
    length: timedelta
    buckets: int
    label: str


WINDOWS: Mapping[str, Window] = {
    "hour": Window("last hour", timedelta(minutes=1), 60, "%H:%M"),
    "day": Window("last 24 hours", timedelta(minutes=30), 48, "%H:%M"),
    "week": Window("last 7 days", timedelta(hours=4), 42, "%d %b"),
    "month": Window("last 30 days", timedelta(hours=12), 60, "%d %b"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of health: healthy, failing, or unknown."""

    name: str
    is_healthy: bool | None
    text: str


@page.get("/")
def index() -> ResponseReturnValue:
    """Show the overview."""
    name = request.args.get("window", "hour")
    window = WINDOWS.get(name, WINDOWS["hour"])
    return render_template(
        "overview.html", windows=WINDOWS, window=window, **_template_values(context(), window)
    )


@page.get("/overview/live")
def live() -> ResponseReturnValue:
    """Show the part of the overview that refreshes itself."""
    window = WINDOWS.get(request.args.get("window", "hour"), WINDOWS["hour"])
    return render_template("overview_live.html", window=window, **_template_values(context(), window))


def _template_values(console: ConsoleContext, window: Window) -> dict[str, object]:
    now: datetime = g.now
    queues = console.queues()
    found = or_unknown(lambda: _pace(console, now, window))
    failures = found if isinstance(found, Unknown) else or_unknown(lambda: _failures(console, found))
    counts = or_unknown(console.service.counts)
    groups = or_unknown(lambda: console.service.groups(order="last", limit=_GROUPS))
    totals = counts if isinstance(counts, Unknown) else console.totals()
    status = console.status()
    return {
        "queues": queues,
        "status": status,
        "tiles": tiles_of(status, counts, found, totals),
        "chart": found if isinstance(found, Unknown) else _chart(found, failures, window),
        "rows": () if isinstance(found, Unknown) else _rows(found, failures),
        "groups": groups,
        "totals": totals,
        "checks": _checks(console.health(), queues, found, status, now),
    }


# -- rate and outcomes ------------------------------------------------------------------------------------


def _pace(console: ConsoleContext, now: datetime, window: Window) -> Pace:
    # Bucket borders on round times: the bars keep their places between two refreshes.
    seconds = int(window.length.total_seconds())
    end = datetime.fromtimestamp((int(now.timestamp()) // seconds + 1) * seconds, now.tzinfo)
    with snapshot(console.application.engine) as connection:
        return pace(connection, end, window.length, window.buckets, shares=parts_of(connection))


def _failures(console: ConsoleContext, found: Pace) -> Sequence[int]:
    """Return the dead letters of each bucket, by the time of their last failure."""
    with snapshot(console.application.engine) as connection:
        return failures_between(connection, [*(bucket.start for bucket in found.buckets), found.end])


def _rows(found: Pace, failures: Sequence[int] | Unknown) -> list[tuple[PaceBucket, int | None]]:
    """Return the buckets with their dead letters, None where they are unknown."""
    dead = [None] * len(found.buckets) if isinstance(failures, Unknown) else failures
    return list(zip(found.buckets, dead, strict=True))


def _chart(found: Pace, failures: Sequence[int] | Unknown, window: Window) -> Chart:
    dead = [0] * len(found.buckets) if isinstance(failures, Unknown) else failures
    bars = [_bar(bucket, count, window) for bucket, count in zip(found.buckets, dead, strict=True)]
    total, rejected = sum(b.count for b in found.buckets), sum(b.rejected for b in found.buckets)
    about = "about " if any(not bucket.is_counted for bucket in found.buckets) else ""
    description = (
        f"{about}{total:,} operations, {rejected:,} of them rejected, and {sum(dead):,} dead letters"
    )
    title = f"Operations by outcome and dead letters, {window.text}"
    return stacked_bars(
        bars,
        ("applied", "rejected", "dead letters"),
        title=title,
        description=description,
        colours=("good", "warn", "bad"),
    )


def _bar(bucket: PaceBucket, dead: int, window: Window) -> Bar:
    about = "" if bucket.is_counted else "≈ "
    reasons = ", ".join(f"{code.replace('_', ' ')} {count:,}" for code, count in bucket.codes.items())
    text = (
        f"{bucket.start:%d %b %H:%M}–{bucket.end:%H:%M}: {about}{bucket.applied:,} applied, "
        f"{bucket.rejected:,} rejected{f' ({reasons})' if reasons else ''}, {dead:,} dead letters"
    )
    values = (bucket.applied, bucket.rejected, dead)
    return Bar(f"{bucket.start:{window.label}}", text, values, is_estimated=not bucket.is_counted)


# -- health -----------------------------------------------------------------------------------------------


_IS_HEALTHY = {
    HealthState.OK: True,
    HealthState.NOTE: None,
    HealthState.BAD: False,
    HealthState.UNKNOWN: None,
}


def _checks(
    health: KnownValue[Sequence[Health]] | Unknown,
    queues: KnownValue[QueueStatus] | Unknown,
    found: Pace | Unknown,
    status: KnownValue[InstallationStatus] | Unknown,
    now: datetime,
) -> list[Check]:
    """Return what `billing-worker check` says, and whether work goes on; what fails comes first."""
    progress = _progress_check(queues, found, status, now)
    if isinstance(health, Unknown):
        return [Check("Health", is_healthy=None, text=f"unknown: {health.why}"), progress]
    return sorted([*map(_check_of, health.value), progress], key=lambda check: check.is_healthy is not False)


def _check_of(health: Health) -> Check:
    unknown = "unknown: " if health.state is HealthState.UNKNOWN else ""
    return Check(health.name.capitalize(), _IS_HEALTHY[health.state], f"{unknown}{health.text}")


def _progress_check(
    queues: KnownValue[QueueStatus] | Unknown,
    found: Pace | Unknown,
    status: KnownValue[InstallationStatus] | Unknown,
    now: datetime,
) -> Check:
    """Check that messages don't wait while nothing is posted; the status says what to do."""
    if isinstance(found, Unknown):
        return Check("Progress", is_healthy=None, text="unknown: the ledger does not answer")
    last = f"last posted {lasting(now - found.last_at)} ago" if found.last_at else "nothing posted yet"
    if isinstance(queues, Unknown) or isinstance(queues.value.work, Unknown):
        return Check("Progress", is_healthy=None, text=f"{last}; waiting messages are unknown")
    waiting = queues.value.work
    is_idle = found.last_at is None or now - found.last_at > _STALLED
    if waiting and is_idle:
        advice = () if isinstance(status, Unknown) else status.value.advice
        needed = "; ".join(one.text for one in advice if one.needs_somebody)
        return Check(
            "Progress", is_healthy=False, text=f"{waiting:,} wait and {last}{needed and f': {needed}'}"
        )
    return Check("Progress", is_healthy=True, text=last)


_STALLED = timedelta(seconds=30)
