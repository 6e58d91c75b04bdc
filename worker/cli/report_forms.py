"""Cells of reports in each form: for people, for lines in a pipe, and for spreadsheets."""

from collections.abc import Iterator, Sequence

from worker.cli.csv_cells import csv_line
from worker.ledger.queries.reports import Cell, Report, Unit
from worker.runtime.shown_money import decimal_text, shown_money


def shown_cells(report: Report, row: Sequence[Cell]) -> list[Cell]:
    """Return a row for people: money with its currency."""
    currency = report.currency_of(row)
    return [
        shown_money(cell, currency) if column.unit is Unit.MONEY and isinstance(cell, int) else cell
        for column, cell in zip(report.columns, row, strict=True)
    ]


def plain_cells(report: Report, row: Sequence[Cell]) -> list[Cell]:
    """Return a row for programs: money as a decimal number, whose currency is a column."""
    currency = report.currency_of(row) or ""
    return [
        decimal_text(cell, currency) if column.unit is Unit.MONEY and isinstance(cell, int) else cell
        for column, cell in zip(report.columns, row, strict=True)
    ]


def report_csv(report: Report) -> Iterator[str]:
    """Yield a report as RFC 4180: a line of names, then a row a line, without totals."""
    yield csv_line(column.name for column in report.columns)
    for row in report.rows:
        yield csv_line(plain_cells(report, row))
