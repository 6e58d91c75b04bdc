"""The files of this room: alert rules, runbook and dashboard, as they are shipped."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent
RULES, RUNBOOK, DASHBOARD = (FOLDER / name for name in ("rules.yml", "RUNBOOK.md", "dashboard.json"))

_PARAGRAPH = re.compile(r"^## (\w+)\n\n(.+?)(?=\n\n## |\Z)", re.MULTILINE | re.DOTALL)


def rules() -> str:
    """Return the alert rules of Prometheus, as YAML."""
    return RULES.read_text(encoding="utf-8")


def dashboard() -> str:
    """Return the dashboard of Grafana, as JSON."""
    return DASHBOARD.read_text(encoding="utf-8")


def runbook() -> dict[str, str]:
    """Return the paragraph of each alert, by its name."""
    return {name: text.rstrip() for name, text in _PARAGRAPH.findall(RUNBOOK.read_text(encoding="utf-8"))}
