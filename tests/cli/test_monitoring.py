"""``alerts`` and ``dashboard``: they print the files that are shipped."""

import json

from tests.cli.console import Cli
from worker.observability.files import dashboard, rules


def test_alerts_prints_the_rules(bare_cli: Cli) -> None:
    assert bare_cli("alerts").out == rules()


def test_runbook_of_an_alert_is_printed(bare_cli: Cli) -> None:
    shown = bare_cli("alerts", "--runbook", "BillingLanePaused").out
    assert shown.startswith("BillingLanePaused\n\nA worker takes nothing from this lane")
    assert "BillingServerAway" not in shown


def test_runbook_on_a_terminal_has_no_links(bare_cli: Cli) -> None:
    shown = bare_cli("alerts", "--runbook", "BillingPaymentsOverdue").out
    assert "payments that need somebody in the manual" in shown
    assert "](" not in shown


def test_unknown_alert_is_named_with_those_that_there_are(bare_cli: Cli) -> None:
    ended = bare_cli("alerts", "--runbook", "BillingStuk")
    assert ended.code == 4
    assert "no alert 'BillingStuk'" in ended.error
    assert "BillingStuck" in ended.error


def test_dashboard_prints_json(bare_cli: Cli) -> None:
    shown = bare_cli("dashboard").out
    assert shown == dashboard()
    assert json.loads(shown)["uid"] == "billing-worker"
