"""Charts of reports: one measure by day or month, with a series for each group, or a bar for each."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from worker.console.charts import Bar, Chart, Series, stacked_bars
from worker.console.formats import compact, words
from worker.ledger.queries.reports import Cell, Grouping, Report, ReportName, Unit
from worker.runtime.shown_money import shown_money

#: Measure that the chart of a report shows.
_MEASURES: Mapping[ReportName, str] = {
    ReportName.PAYMENTS: "gross",
    ReportName.REVENUE: "recognised",
    ReportName.LIABILITY: "closing",
    ReportName.BREAKAGE: "expired",
    ReportName.USAGE: "used",
}
#: Most bars of a chart: more are too thin to see.
_BARS_MAX = 400
#: Most charts: money has one for each currency.
_CHARTS_MAX = 4

_Shown = Callable[[int], str]
#: Values of a chart: by the label of its bar, then by the name of its series.
_Values = Mapping[str, Counter[str]]


def report_charts(report: Report) -> list[Chart]:
    """Return the charts of a report: one, or of money one for each currency.

    None where nothing is to be drawn, or too many bars.
    """
    found = []
    for currency in _currencies(report)[:_CHARTS_MAX]:
        values = _values(report, currency)
        if any(values.values()) and len(values) <= _BARS_MAX:
            found.append(_chart(report, currency, values))
    return found


def _currencies(report: Report) -> Sequence[str | None]:
    if Grouping.CURRENCY not in report.request.by:
        return [None]
    return sorted({currency for row in report.rows if (currency := report.currency_of(row)) is not None})


def _values(report: Report, currency: str | None) -> _Values:
    request = report.request
    names = [column.name for column in report.columns]
    measure = names.index(_MEASURES[request.name])
    time = None if request.time is None else names.index(request.time)
    groups = [
        place
        for place, column in enumerate(report.columns)
        if column.unit is Unit.GROUP and place != time and column.name != Grouping.CURRENCY
    ]
    labels = request.periods.labels[: request.periods.begun]
    values: dict[str, Counter[str]] = {} if time is None else {str(label): Counter() for label in labels}
    for row in report.rows:
        if report.currency_of(row) != currency:
            continue
        group = ", ".join(_name(names[place], row[place]) for place in groups) or names[measure]
        bar, series = (group, names[measure]) if time is None else (str(row[time]), group)
        amount = row[measure]
        if isinstance(amount, int) and amount > 0:  # a debt is in the table, and no bar
            values.setdefault(bar, Counter())[series] += amount
    return values


def _name(column: str, cell: Cell) -> str:
    """Return the name of a group: a source in words, names that others gave as they are."""
    if cell is None:
        return "unknown"
    return words(cell) if column == Grouping.SOURCE else str(cell)


def _chart(report: Report, currency: str | None, values: _Values) -> Chart:
    series = Series.largest(values.values())
    shown: _Shown = "{:,}".format if currency is None else partial(shown_money, currency=currency)
    bars = [_bar(label, series.values(amounts), series, shown) for label, amounts in values.items()]
    measure = _MEASURES[report.request.name]
    title = f"{report.request.name.capitalize()}: {measure}{f' in {currency}' if currency else ''}"
    highest = max((sum(bar.values) for bar in bars), default=0)
    return stacked_bars(
        bars,
        series.titles,
        title=title,
        description=f"{len(bars)} bars, the highest {shown(highest)}",
        tick=compact if currency is None else shown,
    )


def _bar(label: str, values: tuple[int, ...], series: Series, shown: _Shown) -> Bar:
    return Bar(label, f"{label}: {series.text(values, shown) or 'nothing'}", values)
