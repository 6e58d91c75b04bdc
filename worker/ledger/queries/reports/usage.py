"""Report on usage: tokens that were used, by feature, type of command, tier, day or month.

All that was taken for usage counts: at once, of a hold, or by a meter, when it was posted. What refunds gave
back is beside it and not taken off. It adds up to the entries.
"""

from sqlalchemy import Connection

from worker.core import Counter
from worker.ledger.queries.reports.entry_sums import entry_sums
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.table import Movements, Report, ReportColumn, Unit, folded

COLUMNS = (
    ReportColumn("used", Unit.TOKENS, "taken for usage: at once, of a hold, or by a meter"),
    ReportColumn("entries", Unit.COUNT, "entries that took them; of two lots it is two"),
    ReportColumn("imported", Unit.TOKENS, "used elsewhere, before the account came here"),
)


def usage_report(connection: Connection, request: ReportRequest) -> Report:
    """Return the report on usage."""
    movements = Movements(request, [column.name for column in COLUMNS])
    for found in entry_sums(connection, request, counter=Counter.USAGE):
        if found.is_brought:
            movements.add(found.group, found.period, imported=-found.amount)
        else:
            movements.add(found.group, found.period, used=-found.amount, entries=found.entries)
    return folded(request, movements, COLUMNS)
