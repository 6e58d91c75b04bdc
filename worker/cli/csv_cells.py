"""Cells of CSV files for spreadsheets, which must not execute a producer's text."""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

# A formula begins with one of these (OWASP, "CSV Injection"), full-width forms too. It may begin inside a
# cell: a spreadsheet that separates columns by semicolons or tabs, as in much of Europe, cuts cells there,
# and a line end is the end of a row to it.
_FORMULA = re.compile(r"(^|[;\t\r\n]) *(?=[=+\-@\t\r\n＝＋－＠])")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def csv_line(cells: Iterable[Any]) -> str:
    """Return a row of RFC 4180 with its line end."""
    line = io.StringIO()
    csv.writer(line).writerow(map(safe_cell, cells))
    return line.getvalue()


def safe_cell(cell: Any) -> Any:
    """Return text marked as text where a spreadsheet would execute it; numbers stay numbers."""
    if not isinstance(cell, str) or _NUMBER.fullmatch(cell):
        return cell
    return _FORMULA.sub(r"\g<0>'", cell)
