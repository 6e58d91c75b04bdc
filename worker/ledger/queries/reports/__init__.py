"""Reports over the whole ledger for a range of time: payments, revenue, liability, breakage, usage.

Everything counts when it was posted: so a report on a time that is over never changes, parts of a range add
up to the whole, and all of it adds up to the ledger. What is due and not posted yet is in none of them. Each
report is read in one snapshot by statements that sum up on the server; it is bounded in its rows.
"""

from worker.ledger.queries.reports.reports import COLUMNS_OF, HELP, report
from worker.ledger.queries.reports.request import (
    GROUPINGS,
    Grouping,
    Periods,
    ReportName,
    ReportRequest,
    report_request,
)
from worker.ledger.queries.reports.table import Cell, Report, ReportColumn, Unit

__all__ = [
    "COLUMNS_OF",
    "GROUPINGS",
    "HELP",
    "Cell",
    "Grouping",
    "Periods",
    "Report",
    "ReportColumn",
    "ReportName",
    "ReportRequest",
    "Unit",
    "report",
    "report_request",
]
