"""Accounts: search by prefix; balance, lots, holds, history, usage, statement."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from flask import Blueprint, g, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.charts import SERIES_MAX, Bar, Chart, stacked_bars
from worker.console.context import context
from worker.console.downloads import csv_download
from worker.console.heavy import heavy
from worker.console.parameters import day_in, number_in, text_in
from worker.errors import QueryError
from worker.ledger.queries import day_start, snapshot, zone_of
from worker.ledger.queries.search import accounts_by_prefix

page = Blueprint("accounts", __name__)

_LINES, _ENTRIES, _LOTS, _HOLDS = 50, 50, 100, 50
USAGE_DAYS = (7, 30, 90, 366)


@page.get("/accounts")
def index() -> ResponseReturnValue:
    """Show a page of the accounts whose user begins with a prefix."""
    prefix = request.args.get("prefix", "").strip()[:200]
    after = request.args.get("after") or None
    with snapshot(context().application.engine) as connection:
        found = accounts_by_prefix(connection, prefix, after, _LINES)
    return render_template("accounts.html", page=found, prefix=prefix, after=after)


@page.get("/account")
def one() -> ResponseReturnValue:
    """Show an account: balance, lots, open holds and the last ended ones."""
    console, user = context(), _user()
    reader, catalog = console.reader, console.catalog
    return render_template(
        "account.html",
        user=user,
        balance=reader.balance(user, g.now, catalog),
        lots=reader.lots(user, g.now, catalog).lots,
        holds=reader.holds(user, g.now, catalog, ended=True, limit=_HOLDS),
        expiring=reader.expiring(user, g.now, 30, catalog),
        recent=reader.history(user, 8),
        lots_shown=_LOTS,
    )


@page.get("/account/history")
def history() -> ResponseReturnValue:
    """Show a page of the entries, newest first."""
    user = _user()
    found = context().reader.history(user, _ENTRIES, cursor=request.args.get("cursor") or None)
    return render_template("account_history.html", user=user, history=found)


# -- usage ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UsageTable:
    """Tokens used, a row per day and a column per series, with the sums of both."""

    chart: Chart
    series: Sequence[str]
    rows: Sequence[tuple[date, int, Sequence[int]]]
    sums: Sequence[int]
    total: int


@page.get("/account/usage")
@heavy
def usage() -> ResponseReturnValue:
    """Show usage by day, and by type of command or by feature."""
    console, user = context(), _user()
    days = number_in(request.args, "days") or 30
    zone = text_in(request.args, "timezone") or "UTC"
    by = "feature" if request.args.get("by") == "feature" else "type"
    found = console.reader.usage(user, g.now, console.catalog, days, zone)
    daily = [(day.day, day.by_feature if by == "feature" else day.by_type) for day in found.by_day]
    return render_template(
        "account_usage.html",
        user=user,
        usage=found,
        table=_table(daily, f"Tokens used by day and {by}, {days} days"),
        by=by,
        days=days,
        timezone=zone,
        choices=USAGE_DAYS,
    )


def _table(daily: Sequence[tuple[date, Mapping[str, int]]], title: str) -> UsageTable:
    """Return the table of usage: the largest series by name, the others summed up."""
    sums: Counter[str] = Counter()
    for _, tokens in daily:
        sums.update(tokens)
    names = [name for name, _ in sums.most_common()]
    named = names if len(names) <= SERIES_MAX else names[: SERIES_MAX - 1]
    others = len(names) - len(named)
    series = [*named, *([f"{others} others"] if others else [])]
    rows = [
        (day, sum(tokens.values()), _values(tokens, named, with_others=bool(others))) for day, tokens in daily
    ]
    bars = [Bar(f"{day:%d %b}", _bar_text(day, total, series, values), values) for day, total, values in rows]
    total = sum(sums.values())
    chart = stacked_bars(bars, series, title=title, description=f"{total:,} tokens in all")
    columns = [sum(values[place] for _, _, values in rows) for place in range(len(series))]
    return UsageTable(chart, series, rows, columns, total)


def _values(tokens: Mapping[str, int], named: Sequence[str], *, with_others: bool) -> tuple[int, ...]:
    own = tuple(tokens.get(name, 0) for name in named)
    return (*own, sum(tokens.values()) - sum(own)) if with_others else own


def _bar_text(day: date, total: int, series: Sequence[str], values: Sequence[int]) -> str:
    of = ", ".join(f"{name} {value:,}" for name, value in zip(series, values, strict=True) if value)
    return f"{day:%a %d %b}: {total:,}{f' ({of})' if of else ''}"


# -- statement --------------------------------------------------------------------------------------------


@page.get("/account/statement")
@heavy
def statement() -> ResponseReturnValue:
    """Show the sums of a statement; with ``format=csv`` download all of it.

    The statement is written to a file before its first byte is sent: an error leaves no half of it, and a
    slow client holds no transaction.
    """
    console, user = context(), _user()
    zone = zone_of(text_in(request.args, "timezone") or "UTC")
    first, next_first = _month(g.now.astimezone(zone).date())
    start, end = day_in(request.args, "from") or first, day_in(request.args, "to") or next_first
    with console.reader.statement(user, day_start(start, zone), day_start(end, zone)) as found:
        if request.args.get("format") == "csv":
            return csv_download(console.as_csv(found), f"statement_{start}_{end}.csv")
        summary = found.summary
    return render_template(
        "account_statement.html", user=user, summary=summary, start=start, end=end, timezone=zone.key
    )


def _user() -> str:
    user = request.args.get("user", "")
    if not user or len(user) > 1_000:
        raise QueryError("name the user, as in /account?user=ada")
    return user


def _month(day: date) -> tuple[date, date]:
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)
