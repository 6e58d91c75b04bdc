"""Accounts: search by prefix; balance, lots, holds, history, usage, statement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.cli.times import month_of
from worker.console.charts import Bar, Chart, Series, stacked_bars
from worker.console.context import context
from worker.console.downloads import csv_download
from worker.console.heavy import heavy, heavy_when
from worker.console.parameters import day_in, number_in, text_in, whole
from worker.errors import QueryError
from worker.ledger.queries import day_start, snapshot, zone_of
from worker.ledger.queries.account_list import SORTS, AccountFilter, AccountSort, listed_accounts
from worker.ledger.queries.search import accounts_by_prefix

page = Blueprint("accounts", __name__)

_LINES, _ENTRIES, _LOTS, _HOLDS = 50, 50, 100, 50
USAGE_DAYS = (7, 30, 90, 366)


def _is_in_order() -> bool:
    return bool(request.args.get("sort") or request.args.get("only"))


@page.get("/accounts")
@heavy_when(_is_in_order)
def index() -> ResponseReturnValue:
    """Show a page of accounts: by the beginning of the user, in debt, or in the order of an amount."""
    values = request.args
    if (elsewhere := _found_by_operations()) is not None:
        return redirect(elsewhere, 303)
    prefix = values.get("prefix", "").strip()[:200]
    after = values.get("after") or None
    sort, only = _one_of("sort", SORTS), _one_of("only", _ONLY)
    with snapshot(context().application.engine) as connection:
        if _is_in_order():
            wanted = AccountFilter(prefix, in_debt=only == "in_debt", negative=only == "negative")
            order = sort or ("most_debt" if only else "most_balance")
            listed = listed_accounts(connection, wanted, cast("AccountSort", order), _LINES, after)
            found, following = listed.accounts, listed.next_cursor
        else:
            page_ = accounts_by_prefix(connection, prefix, after, _LINES)
            found, following = page_.accounts, page_.next_after
    given = {"prefix": prefix, "sort": sort, "only": only}
    return render_template(
        "accounts.html",
        accounts=found,
        next_after=following,
        after=after,
        sorts=SORTS,
        given={name: value for name, value in given.items() if value},
        by=_BY,
    )


_ONLY = ("in_debt", "negative")
#: What accounts are found by beside their user, and the parameter of the operations page that does it.
_BY = {"reference": "prefix", "metadata": "metadata", "tokens": "tokens"}


def _found_by_operations() -> str | None:
    """Return the page of the operations that a search is for; None where it is for users."""
    by, text = text_in(request.args, "by"), text_in(request.args, "q")
    if by is None or text is None:
        return None
    if by == "user":
        return url_for("accounts.index", prefix=text)
    if by not in _BY:
        raise QueryError(f"no such search: {by[:40]!r}; there are user, {', '.join(_BY)}", "by")
    if by == "tokens":
        tokens = whole("tokens", text)
        return url_for("operations.index", least=tokens, most=tokens)
    named: dict[str, Any] = {_BY[by]: text}
    return url_for("operations.index", **named)


def _one_of(name: str, known: Sequence[str]) -> str | None:
    text = text_in(request.args, name)
    if text is not None and text not in known:
        raise QueryError(f"no such {name}: {text[:40]!r}; there are {', '.join(known)}", name)
    return text


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
    series = Series.largest(tokens for _, tokens in daily)
    rows = [(day, sum(tokens.values()), series.values(tokens)) for day, tokens in daily]
    bars = [
        Bar(f"{day:%d %b}", _bar_text(day, total, series.text(values)), values) for day, total, values in rows
    ]
    total = sum(tokens for _, tokens, _ in rows)
    chart = stacked_bars(bars, series.titles, title=title, description=f"{total:,} tokens in all")
    columns = [sum(values[place] for _, _, values in rows) for place in range(len(series.titles))]
    return UsageTable(chart, series.titles, rows, columns, total)


def _bar_text(day: date, total: int, parts: str) -> str:
    return f"{day:%a %d %b}: {total:,}{f' ({parts})' if parts else ''}"


# -- statement --------------------------------------------------------------------------------------------


@page.get("/account/statement")
@heavy
def statement() -> ResponseReturnValue:
    """Show the sums of a statement; with ``format=csv`` download all of it."""
    console, user = context(), _user()
    zone = zone_of(text_in(request.args, "timezone") or "UTC")
    first, next_first = month_of(g.now.astimezone(zone).date())
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
