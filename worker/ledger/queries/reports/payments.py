"""Report on payments: money taken, what of it went back and why, and what is left, for each currency.

A payment counts when it was posted, and what went back of it when that was posted: so a month that is over
stays as it was. The net of a month may be negative, where more went back than came.
"""

from typing import Any

from sqlalchemy import Connection, Select, func, select

from worker.catalog import PaymentPolicy
from worker.ledger.queries.reports.paid import (
    by_operation,
    group_labels,
    group_of,
    returned_payments,
    was_imported,
)
from worker.ledger.queries.reports.reading import period_of, streamed
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.table import Movements, Report, ReportColumn, Unit, folded
from worker.ledger.slots import Slots, in_slots
from worker.ledger.tables import operations, payments

COLUMNS = (
    ReportColumn("payments", Unit.COUNT, "payments taken", rank=2),
    ReportColumn("gross", Unit.MONEY, "money taken"),
    ReportColumn("refunded", Unit.MONEY, "refunds, without those that failed"),
    ReportColumn("disputed", Unit.MONEY, "disputes that were lost, or that the catalog's policy counts"),
    ReportColumn("failed", Unit.MONEY, "payments that failed after all", rank=2),
    ReportColumn("net", Unit.MONEY, "gross less refunded, disputed and failed"),
    ReportColumn(
        "imported", Unit.MONEY, "taken elsewhere, before the account came here: not in gross", rank=3
    ),
)


def payments_report(connection: Connection, request: ReportRequest, policy: PaymentPolicy) -> Report:
    """Return the report on payments."""
    movements = Movements(request, [column.name for column in COLUMNS])

    def select_in(slots: Slots) -> Select[Any]:
        kinds = (
            period_of(connection, payments.c.recorded_at, request.periods).label("period"),
            was_imported().label("is_import"),
            *group_labels(connection, request),
        )
        return (
            select(*kinds, func.count().label("number"), func.sum(payments.c.amount_minor).label("minor"))
            .select_from(payments)
            .join(operations, by_operation())
            .where(in_slots(payments.c.slot, slots))
            .where(payments.c.recorded_at >= request.start, payments.c.recorded_at < request.end)
            .group_by(*kinds)
        )

    for row in streamed(connection, select_in):
        group, minor = group_of(row, request), int(row.minor)
        if row.is_import:
            movements.add(group, row.period, imported=minor)
        else:
            movements.add(group, row.period, payments=row.number, gross=minor, net=minor)
    for paid in returned_payments(connection, request, policy):
        for moved in paid.moved:
            if moved.posted_at >= request.start:
                movements.add(
                    paid.group,
                    request.periods.number_of(moved.posted_at),
                    **moved.money._asdict(),
                    net=-moved.money.minor,
                )
    return folded(request, movements, COLUMNS)
