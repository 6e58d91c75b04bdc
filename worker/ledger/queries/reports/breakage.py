"""Report on breakage: tokens that expired unused, or were given up with their period, by source.

A lot's tokens expire once; what a hold kept of them, or a refund brings back later, expires then.
"""

from sqlalchemy import Connection

from worker.core import Counter
from worker.ledger.queries.reports.entry_sums import report_on_taken
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.table import Report, ReportColumn, Unit

COLUMNS = (
    ReportColumn("expired", Unit.TOKENS, "expired unused, or given up when the subscription ended"),
    ReportColumn("entries", Unit.COUNT, "entries that took them"),
    ReportColumn("imported", Unit.TOKENS, "expired elsewhere, before the account came here"),
)


def breakage_report(connection: Connection, request: ReportRequest) -> Report:
    """Return the report on breakage."""
    return report_on_taken(connection, request, Counter.EXPIRY, COLUMNS)
