"""Charts as SVG."""

from xml.etree import ElementTree

import pytest

from tests.console.sample_data import HOSTILE
from worker.console.charts import Bar, round_up, share_bar, stacked_bars


def test_chart_of_hostile_text_is_well_formed() -> None:
    bars = [Bar(HOSTILE, HOSTILE, (3, 1)), Bar("b", "b", (0, 0))]
    chart = stacked_bars(bars, (HOSTILE, "x"), title=HOSTILE, description=HOSTILE)
    svg = ElementTree.fromstring(str(chart.svg))  # noqa: S314 - our own
    assert svg.attrib["role"] == "img"
    assert HOSTILE in svg.attrib["aria-label"]
    heights = [float(rect.attrib["height"]) for rect in svg.iter("rect") if rect.attrib["class"] != "hit"]
    assert heights == [150.0, 50.0]  # of 200, which are 4


def test_chart_without_values_is_empty() -> None:
    assert stacked_bars([Bar("a", "a", (0,))], ("x",), title="t", description="d").is_empty
    assert stacked_bars([], ("x",), title="t", description="d").is_empty


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 0), (1, 1), (3, 4), (5, 6), (7, 8), (9, 10), (10, 10), (11, 20), (999, 1000), (2001, 4000)],
)
def test_axis_ends_with_a_round_number(value: int, top: int) -> None:
    assert round_up(value) == top


COLOURS = {"applied": "good", "skipped": "idle", "failed_again": "bad"}


def test_share_bar_has_parts_in_proportion() -> None:
    svg = ElementTree.fromstring(str(share_bar({"failed_again": 1, "applied": 3}, COLOURS)))  # noqa: S314
    assert [(r.attrib["class"], r.attrib["width"]) for r in svg.iter("rect")] == [
        ("good", "750.00"),
        ("bad", "250.00"),
    ]
    assert svg.attrib["aria-label"] == "1 failed again, 3 applied"
    assert share_bar({"applied": 0}, COLOURS) == ""
