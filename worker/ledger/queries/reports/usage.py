"""Report on usage: tokens that were used, by feature, type of command, tier, day or month.

All that was taken for usage counts: at once, of a hold, or by a meter, when it was posted. What refunds gave
back is beside it and not taken off. It adds up to the entries.
"""

from sqlalchemy import Connection

from worker.core import Counter
from worker.ledger.queries.reports.entry_sums import report_on_taken
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.table import Report, ReportColumn, Unit

COLUMNS = (
    ReportColumn("used", Unit.TOKENS, "taken for usage: at once, of a hold, or by a meter"),
    ReportColumn("entries", Unit.COUNT, "entries that took them; of two lots it is two"),
    ReportColumn("imported", Unit.TOKENS, "used elsewhere, before the account came here"),
)


def usage_report(connection: Connection, request: ReportRequest) -> Report:
    """Return the report on usage."""
    return report_on_taken(connection, request, Counter.USAGE, COLUMNS)
