"""Each report by its name: how it is read, its columns, and the help that people see."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import assert_never

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from worker.catalog import PaymentPolicy
from worker.errors import LedgerUnavailableError, QueryError
from worker.ledger.driver_errors import was_canceled
from worker.ledger.queries.reports import breakage, liability, payments, revenue, usage
from worker.ledger.queries.reports.reading import ReportTimeoutError
from worker.ledger.queries.reports.request import ReportName, ReportRequest
from worker.ledger.queries.reports.table import Report, ReportColumn
from worker.ledger.queries.snapshots import snapshot

#: Columns of each report, behind those of its groupings.
COLUMNS_OF: Mapping[ReportName, Sequence[ReportColumn]] = {
    ReportName.PAYMENTS: payments.COLUMNS,
    ReportName.REVENUE: revenue.COLUMNS,
    ReportName.LIABILITY: liability.COLUMNS,
    ReportName.BREAKAGE: breakage.COLUMNS,
    ReportName.USAGE: usage.COLUMNS,
}

#: What each report tells, in the words of accounting.
HELP: Mapping[ReportName, str] = {
    ReportName.PAYMENTS: (
        "Money taken, what of it went back and why, and what is left, for each currency. A payment counts "
        "when it was posted, and a refund or a dispute when that was: a month that is over stays as it was."
    ),
    ReportName.REVENUE: (
        "Money for tokens is deferred revenue until they are used (recognised) or expire unused (breakage, "
        "which is recognised as well). The money of a payment, without what went back, is shared by its "
        "tokens, bonus included, without those taken back: in whole minor units that add up, by the largest "
        "remainder. Free credit has no money. Money that bought no tokens is recognised at once."
    ),
    ReportName.LIABILITY: (
        "Tokens outstanding by source when the range begins and ends, and what moved them: opening and the "
        "movements add up to closing. The source debt is what users owe, so that all sources add up to the "
        "balances of the ledger. Tokens that take effect later are not in it."
    ),
    ReportName.BREAKAGE: "Tokens that expired unused, or were given up with their period, by source.",
    ReportName.USAGE: (
        "Tokens taken for usage, at once, of a hold or by a meter. What refunds gave back is not taken off."
    ),
}


def report(
    engine: Engine, request: ReportRequest, policy: PaymentPolicy, *, timeout_s: float | None = None
) -> Report:
    """Return a report, read in one snapshot that is given up after ``timeout_s``.

    Raises QueryError where it has too many rows or takes too long, and LedgerUnavailableError.
    """
    try:
        with snapshot(engine) as connection:
            if timeout_s is not None:
                _limit(connection, timeout_s)
            return read(connection, request, policy)
    except (ReportTimeoutError, LedgerUnavailableError) as error:
        cause = error.__cause__
        is_late = isinstance(error, ReportTimeoutError) or (
            isinstance(cause, DBAPIError) and was_canceled(cause)
        )
        if timeout_s is None or not is_late:
            raise
        raise QueryError(
            f"this report takes longer than {timeout_s:.0f} s here: ask for a shorter range, or run "
            f"`billing-worker report {request.name}`, which takes the time it needs",
            "from",
        ) from error


def _limit(connection: Connection, timeout_s: float) -> None:
    connection.execution_options(report_deadline=monotonic() + timeout_s)
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = {timeout_s * 1000:.0f}"))


def read(connection: Connection, request: ReportRequest, policy: PaymentPolicy) -> Report:
    """Return a report of the snapshot that ``connection`` has."""
    match request.name:
        case ReportName.PAYMENTS:
            return payments.payments_report(connection, request, policy)
        case ReportName.REVENUE:
            return revenue.revenue_report(connection, request, policy)
        case ReportName.LIABILITY:
            return liability.liability_report(connection, request)
        case ReportName.BREAKAGE:
            return breakage.breakage_report(connection, request)
        case ReportName.USAGE:
            return usage.usage_report(connection, request)
    assert_never(request.name)
