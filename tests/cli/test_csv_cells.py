"""Cells for spreadsheets: a producer's text is executed by none of them, whatever separates their columns."""

import csv
import io
from typing import Any

import pytest

from worker.cli.csv_cells import csv_line, safe_cell

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

#: Texts, and what stands in the file for each.
TABLE: list[tuple[Any, Any]] = [
    ("=1+1", "'=1+1"),
    ("+cmd", "'+cmd"),
    ("-a", "'-a"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("＝1", "'＝1"),
    ("\t=1", "'\t'=1"),
    ("\r=1", "'\r'=1"),
    ("  =1", "  '=1"),
    ("a;=1", "a;'=1"),
    ("a; =1", "a; '=1"),
    ("a;＋1", "a;'＋1"),
    ("a\t@x", "a\t'@x"),
    ("a\n-x", "a\n'-x"),
    ("a\r\n=x", "a\r'\n'=x"),
    (";=1;=2", ";'=1;'=2"),
    ("a=1", "a=1"),
    ("a,=1", "a,=1"),
    ("ann-7; page 3", "ann-7; page 3"),
    ("", ""),
    (-5, -5),
    ("-5", "-5"),
    ("-5.25", "-5.25"),
    ("+5", "'+5"),
    ("-5;=1", "'-5;'=1"),
    (None, None),
]


@pytest.mark.parametrize(("cell", "written"), TABLE)
def test_text_that_begins_a_formula_is_marked_and_numbers_stay_numbers(cell: Any, written: Any) -> None:
    assert safe_cell(cell) == written


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("before", ["", "a;", 'a"; ', "a\t", "a\n", ";", "\t"])
def test_no_spreadsheet_finds_a_formula(separator: str, beginning: str, before: str) -> None:
    line = csv_line(["entry", f"{before}{beginning}cmd|'/c calc'!A1", 7])
    for row in csv.reader(io.StringIO(line, newline=""), delimiter=separator):
        assert not [cell for cell in row if cell.strip(' "').startswith(BEGINNINGS)], row
