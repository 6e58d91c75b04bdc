"""Writing of the dashboard: ``python -m worker.observability``."""

from worker.observability.dashboard import text
from worker.observability.files import DASHBOARD

if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
