"""Tables that reports are: sums by group and part of the range, folded into rows and totals."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic.alias_generators import to_camel

from worker.errors import QueryError
from worker.ledger.queries.reports.request import Grouping, ReportRequest
from worker.ledger.queries.views import View, stamp
from worker.runtime.shown_money import decimal_text

#: Most rows of a report, and most groups times days or months that it sums up: what it holds in memory.
ROWS_MAX = 100_000

Cell = str | int | None
Group = tuple[str | None, ...]


class Unit(Enum):
    """Unit of a column: a group's name, tokens, a number of rows, or money in its minor units."""

    GROUP = "group"
    TOKENS = "tokens"
    COUNT = "count"
    MONEY = "money"


class Summed(Enum):
    """Rows that a total adds up: all of them, or the first or last of each group."""

    ALL = "all"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """Column of a report; ``meaning`` is its help. A narrow screen drops a higher ``rank`` first."""

    name: str
    unit: Unit
    meaning: str = ""
    summed: Summed = Summed.ALL
    rank: int = 1

    @property
    def title(self) -> str:
        """Name as people see it."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Report(View):
    """Report: rows of cells in the order of ``columns``, and totals, one for each currency of money."""

    request: ReportRequest
    columns: tuple[ReportColumn, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[tuple[Cell, ...], ...]

    def currency_of(self, row: Sequence[Cell]) -> str | None:
        """Return the currency of a row's money; None where it has none."""
        place = next((n for n, column in enumerate(self.columns) if column.name == Grouping.CURRENCY), None)
        return None if place is None else str(row[place])

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON: money as a decimal, and beside it in minor units."""
        request = self.request
        return {
            "report": request.name.value,
            "from": stamp(request.start),
            "to": stamp(request.end),
            "timezone": request.zone.key,
            "by": [grouping.value for grouping in request.by],
            "rows": [self._fields(row) for row in self.rows],
            "totals": [self._fields(row) for row in self.totals],
        }

    def _fields(self, row: Sequence[Cell]) -> dict[str, Cell]:
        fields: dict[str, Cell] = {}
        currency = self.currency_of(row)
        for column, cell in zip(self.columns, row, strict=True):
            name = to_camel(column.name)
            if column.unit is Unit.MONEY and isinstance(cell, int) and currency is not None:
                fields[name] = decimal_text(cell, currency)
                fields[f"{name}Minor"] = cell
            else:
                fields[name] = cell
        return fields


@dataclass(frozen=True, slots=True)
class Stock:
    """Sum that lasts from one part of the range to the next: it changes by measures, each with its sign.

    ``opening`` is left out where it has no name.
    """

    closing: str
    signs: Mapping[str, int]
    opening: str | None = None


class Movements:
    """Sums of measures by group and part of the range; part 0 is what came before it."""

    def __init__(self, request: ReportRequest, measures: Sequence[str]) -> None:
        self._request = request
        self._places = {name: place for place, name in enumerate(measures)}
        self._cells: dict[Group, dict[int, list[int]]] = defaultdict(dict)
        self._count = 0

    def add(self, group: Group, period: int, **amounts: int) -> None:
        """Add to the sums of a group in a part; what comes after the range is left out.

        Raises QueryError where there are more sums than a report may have.
        """
        if period > len(self._request.periods):
            return
        parts = self._cells[group]
        sums = parts.get(period)
        if sums is None:
            sums = parts[period] = [0] * len(self._places)
            self._count += 1
            _check_rows(self._count)
        for name, amount in amounts.items():
            sums[self._places[name]] += amount

    def rows(
        self, columns: Sequence[ReportColumn], stocks: Sequence[Stock] = ()
    ) -> Iterator[tuple[Cell, ...]]:
        """Yield the rows in order, without those in which nothing is and nothing happened."""
        found = []
        for group in self._cells:
            for row in self._rows_of(group, columns, stocks):
                found.append(row)
                _check_rows(len(found))
        width = len(self._request.by)
        yield from sorted(found, key=lambda row: [(cell is None, cell) for cell in row[:width]])

    def _rows_of(
        self, group: Group, columns: Sequence[ReportColumn], stocks: Sequence[Stock]
    ) -> Iterator[tuple[Cell, ...]]:
        parts = self._cells[group]
        empty = [0] * len(self._places)
        before = self._changes(parts.get(0, empty), stocks)
        numbers = {*parts, *range(1, self._request.periods.begun + 1)} if stocks else parts
        for number in sorted(set(numbers) - {0}):
            sums = parts.get(number, empty)
            after = [old + change for old, change in zip(before, self._changes(sums, stocks), strict=True)]
            values = {name: sums[place] for name, place in self._places.items()}
            for stock, opening, closing in zip(stocks, before, after, strict=True):
                values[stock.closing] = closing
                if stock.opening is not None:
                    values[stock.opening] = opening
            if any(values.values()):
                names = self._names(group, number)
                yield tuple(
                    names[column.name] if column.unit is Unit.GROUP else values[column.name]
                    for column in columns
                )
            before = after

    def _changes(self, sums: Sequence[int], stocks: Sequence[Stock]) -> list[int]:
        return [
            sum(sign * sums[self._places[name]] for name, sign in stock.signs.items()) for stock in stocks
        ]

    def _names(self, group: Group, number: int) -> dict[str, str | None]:
        names = dict(zip((grouping.value for grouping in self._request.groups), group, strict=True))
        if self._request.time is not None:
            names[self._request.time.value] = self._request.periods.labels[number - 1]
        return names


def _check_rows(count: int) -> None:
    if count > ROWS_MAX:
        raise QueryError(
            f"this report has more than {ROWS_MAX:,} rows: ask for a shorter range, for months instead of "
            "days, or group by less",
            "by",
        )


def group_columns(request: ReportRequest) -> list[ReportColumn]:
    """Return the columns of the groupings, in their order."""
    return [ReportColumn(grouping.value, Unit.GROUP) for grouping in request.by]


def folded(
    request: ReportRequest,
    movements: Movements,
    measured: Sequence[ReportColumn],
    stocks: Sequence[Stock] = (),
) -> Report:
    """Return the report of ``movements``, with its totals."""
    columns = (*group_columns(request), *measured)
    rows = tuple(movements.rows(columns, stocks))
    return Report(request, columns, rows, tuple(_totals(request, columns, rows)))


def _totals(
    request: ReportRequest, columns: Sequence[ReportColumn], rows: Sequence[Sequence[Cell]]
) -> Iterator[tuple[Cell, ...]]:
    """Yield the sum of all rows, of money one for each currency."""
    names = [column.name for column in columns]
    by_currency = names.index(Grouping.CURRENCY) if Grouping.CURRENCY in request.by else None
    firsts, lasts = _ends(request, names, rows)
    sums: dict[Cell, list[int]] = {} if by_currency is not None else {None: [0] * len(columns)}
    for number, row in enumerate(rows):
        currency = None if by_currency is None else row[by_currency]
        total = sums.setdefault(currency, [0] * len(columns))
        for place, column in enumerate(columns):
            cell = row[place]
            of_end = {Summed.FIRST: firsts, Summed.LAST: lasts}.get(column.summed)
            if isinstance(cell, int) and (of_end is None or number in of_end):
                total[place] += cell
    for currency, total in sorted(sums.items(), key=lambda item: str(item[0])):
        yield tuple(
            (currency if place == by_currency else None) if column.unit is Unit.GROUP else total[place]
            for place, column in enumerate(columns)
        )


def _ends(
    request: ReportRequest, names: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> tuple[set[int], set[int]]:
    """Return the numbers of the first row of each group, and of the last: nothing is before and behind."""
    places = [names.index(grouping) for grouping in request.groups]
    firsts: dict[tuple[Cell, ...], int] = {}
    lasts: dict[tuple[Cell, ...], int] = {}
    for number, row in enumerate(rows):
        group = tuple(row[place] for place in places)
        firsts.setdefault(group, number)
        lasts[group] = number
    return set(firsts.values()), set(lasts.values())
