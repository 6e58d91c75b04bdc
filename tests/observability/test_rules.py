"""Alert rules: promtool takes them, each fires when it must and only then, and each has its paragraph."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from tests.observability.expressions import labels_by_series, series_in, unknown_labels
from tests.support.promtool import run_promtool
from worker.observability.files import FOLDER, RULES, rules, runbook

TESTS = FOLDER / "rules_test.yml"


def alerts() -> Sequence[dict[str, Any]]:
    """Return every alert of the rules."""
    return [rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]]


ALERTS = {alert["alert"]: alert for alert in alerts()}


def test_rules_are_what_prometheus_takes() -> None:
    assert f"{len(ALERTS)} rules found" in run_promtool("check", "rules", "--lint-fatal", str(RULES))


def test_rules_fire_when_they_must_and_only_then() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", str(TESTS))


def test_every_alert_is_seen_firing_and_silent() -> None:
    worlds = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    moments = [
        {re.findall(r'alertname="(\w+)"', sample["labels"])[0] for sample in moment.get("exp_samples", [])}
        for world in worlds
        for moment in world.get("promql_expr_test", [])
    ]
    assert set().union(*moments) == set(ALERTS)
    assert not set.intersection(*moments)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_asks_for_metrics_and_labels_that_exist(name: str) -> None:
    expression = ALERTS[name]["expr"]
    assert series_in(expression) - labels_by_series().keys() == set()
    assert unknown_labels(expression) == set()


@pytest.mark.parametrize("name", ALERTS)
def test_alert_says_what_is_wrong_and_names_the_way_out(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"billing-worker alerts --runbook {name}"


def test_runbook_has_a_paragraph_for_each_alert_and_no_other() -> None:
    assert sorted(runbook()) == sorted(ALERTS)
    assert all(len(text.split()) > 30 for text in runbook().values())


def test_alerts_cover_what_an_operator_must_not_miss() -> None:
    must = {
        "BillingStuck", "BillingMessagesLate", "BillingDeadLettersArrive", "BillingDeadLettersWait",
        "BillingLanePaused", "BillingPaymentRejected", "BillingDrift", "BillingSchedulerLate",
        "BillingRepliesNotDrained", "BillingCommitsAtRisk", "BillingContention", "BillingRepliesUnroutable",
    }  # fmt: skip
    assert must <= set(ALERTS)
