"""The dashboard: Grafana's own types take it, and each panel shows metrics that exist."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.observability.expressions import labels_by_series, series_in, unknown_labels
from tests.support.promtool import run_promtool
from worker.observability.dashboard import text
from worker.observability.files import dashboard

BOARD: dict[str, Any] = json.loads(dashboard())
ROWS = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {"datasource", "job"}


def test_file_is_what_the_module_writes() -> None:
    assert dashboard() == text(), "run python -m worker.observability"


def test_grafana_knows_every_field() -> None:
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(dashboard()))))
    assert list(lost(BOARD, read)) == []


def lost(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Yield the places of ``ours`` that ``theirs``, which may say more, has not."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from lost(value, theirs.get(name, "nothing"), f"{path}/{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (value, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(value, other, f"{path}/{place}")
    elif ours != theirs:
        yield path


def test_numbers_of_panels_are_unique() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_do_not_overlap_and_fit_the_page() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_variables_are_those_that_panels_use() -> None:
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == VARIABLES
    used = set(re.findall(r"\$(\w+)", " ".join(EXPRESSIONS))) - {"__rate_interval"}
    assert used == {"job"}


def test_titles_are_unique_in_the_dashboard() -> None:
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert source == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_asks_for_metrics_and_labels_that_exist(expression: str) -> None:
    assert series_in(expression) - labels_by_series().keys() == set()
    assert unknown_labels(expression) == set()


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_legend_names_labels_that_the_expression_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
        kept = {label for labels in grouped for label in labels.split(", ")} or {"instance"}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$job", "x"),
        }
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in run_promtool("check", "rules", str(file))


def test_every_metric_is_shown_or_alerted_on() -> None:
    """A metric that nobody looks at is a cost."""
    shown = {name for expression in EXPRESSIONS for name in series_in(expression)}
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in labels_by_series()
        if name.startswith("billing_")
    }
    seen = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert ours - seen == {
        "billing_audit_rows", "billing_audit_debtors", "billing_audit_debt_tokens",
        "billing_audit_written_off_tokens",
    }  # fmt: skip
