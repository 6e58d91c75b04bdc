"""Identities of reports: each adds up to the rows of the ledger, which are summed up here in Python."""

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, select

from worker.catalog import PaymentPolicy
from worker.core.known import Happened, Payment, PaymentEvent
from worker.core.reversals import money_back
from worker.ledger.queries import Reader, snapshot
from worker.ledger.queries.reports import Report, report, report_request
from worker.ledger.tables import entries, lots, operations, payment_events, payments

#: A zone with clock changes, whose days are not those of UTC.
ZONE = ZoneInfo("Europe/Berlin")

Row = Mapping[str, Any]


class ReportReader:
    """Reports of one ledger with one policy, as rows that are named."""

    def __init__(self, engine: Engine, policy: PaymentPolicy, now: datetime) -> None:
        self.engine, self.policy, self.now = engine, policy, now

    def read(self, name: str, start: datetime, end: datetime, *by: str) -> Report:
        """Return a report."""
        return report(self.engine, report_request(name, start, end, ZONE, by, self.now), self.policy)

    def rows(self, name: str, start: datetime, end: datetime, *by: str) -> list[dict[str, Any]]:
        """Return the rows of a report, by the names of its columns."""
        return named(self.read(name, start, end, *by))

    def totals(self, name: str, start: datetime, end: datetime, *by: str) -> list[dict[str, Any]]:
        """Return the totals of a report, without the names of groups but the currency."""
        found = self.read(name, start, end, *by)
        dropped = {"day", "month", "package", "tier", "gateway", "feature", "type", "source"}
        return [
            {name: cell for name, cell in _named(found, row).items() if name not in dropped}
            for row in found.totals
        ]


def named(found: Report) -> list[dict[str, Any]]:
    """Return the rows of a report, by the names of its columns."""
    return [_named(found, row) for row in found.rows]


def _named(found: Report, row: Iterable[Any]) -> dict[str, Any]:
    return dict(zip((column.name for column in found.columns), row, strict=True))


def assert_tokens_add_up(reader: ReportReader, cuts: list[datetime]) -> None:
    """Fail the test unless reports about tokens add up to the ledger, in the whole and between the cuts.

    ``cuts`` are in order; the first is before all entries, the last behind them.
    """
    rows = _rows(reader)
    assert_liability_adds_up(reader, cuts, rows)
    assert_taking_adds_up(reader, cuts, rows)


def assert_money_adds_up(reader: ReportReader, cuts: list[datetime]) -> None:
    """Fail the test unless reports about money add up to the ledger, in the whole and between the cuts."""
    rows = _rows(reader)
    operation_times = {row["operation_id"]: row["recorded_at"] for row in rows["operations"]}
    assert_payments_add_up(reader, cuts, rows, operation_times)
    assert_revenue_adds_up(reader, cuts, rows)


def _rows(reader: ReportReader) -> dict[str, list[Row]]:
    with snapshot(reader.engine) as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in _TABLES
        }


_TABLES = (entries, lots, operations, payments, payment_events)
_IMPORTS = ("account.import", "payment.import")


# -- tokens -----------------------------------------------------------------------------------------------

_GIVING = ("imported", "allocated", "purchased", "bonus", "refunded", "adjusted", "transferred")
_TAKING = ("used", "expired", "reversed")


def assert_liability_adds_up(
    reader: ReportReader, cuts: list[datetime], rows: Mapping[str, list[Row]]
) -> None:
    """Opening and movements make the closing; that of now is the ledger, that of a cut its entries."""
    start, end = cuts[0], cuts[-1]
    (total,) = reader.totals("liability", start, end)
    stats = Reader(reader.engine).stats()
    assert (total["closing"], total["held"]) == (stats.total_balance, stats.total_held)
    left: Tally[str] = Tally()
    held: Tally[str] = Tally()
    for lot in rows["lots"]:
        left[lot["source"]] += lot["remaining"]
        held[lot["source"]] += lot["held"]
    left["debt"] = -stats.total_debt
    by_source = {row["source"]: row for row in reader.rows("liability", start, end)}
    assert {name: row["closing"] for name, row in by_source.items() if row["closing"]} == +left | _less(left)
    assert {name: row["held"] for name, row in by_source.items() if row["held"]} == dict(+held)
    for row in reader.rows("liability", start, end, "month", "tier"):
        moved = sum(row[name] for name in _GIVING) - sum(row[name] for name in _TAKING)
        assert row["opening"] + moved == row["closing"]
    assert reader.totals("liability", start, end, "month", "tier") == [total]
    for before, after in pairwise(cuts):
        closing = {row["source"]: row["closing"] for row in reader.rows("liability", start, after)}
        assert {name: tokens for name, tokens in closing.items() if tokens} == _outstanding(rows, after)
        (part,) = reader.totals("liability", before, after)
        assert part["opening"] == sum(_outstanding(rows, before).values())


def _less(tally: Mapping[str, int]) -> dict[str, int]:
    return {name: amount for name, amount in tally.items() if amount < 0}


def _outstanding(rows: Mapping[str, list[Row]], before: datetime) -> dict[str, int]:
    source_of = {(lot["account_id"], lot["number"]): lot["source"] for lot in rows["lots"]}
    found: Tally[str] = Tally()
    for entry in rows["entries"]:
        if entry["recorded_at"] < before:
            found[source_of.get((entry["account_id"], entry["lot"]), "debt")] += entry["amount"]
    return {name: tokens for name, tokens in found.items() if tokens}


def assert_taking_adds_up(reader: ReportReader, cuts: list[datetime], rows: Mapping[str, list[Row]]) -> None:
    """Usage and breakage are the entries, whatever they are grouped by."""
    groupings = {"usage": ("feature", "type", "tier", "day", "month"), "breakage": ("tier", "day", "source")}
    counters = {"usage": "usage", "breakage": "expiry"}
    brought = {row["operation_id"] for row in rows["operations"] if row["type"] in _IMPORTS}
    for name, groups in groupings.items():
        taken = "used" if name == "usage" else "expired"
        for start, end in ((cuts[0], cuts[-1]), (cuts[1], cuts[-2])):
            own = [
                entry
                for entry in rows["entries"]
                if entry["counter"] == counters[name] and start <= entry["recorded_at"] < end
            ]
            is_past = [row["operation_id"] in brought and not row["is_due"] for row in own]
            expected = {
                taken: -sum(row["amount"] for row, past in zip(own, is_past, strict=True) if not past),
                "entries": is_past.count(False),
                "imported": -sum(row["amount"] for row, past in zip(own, is_past, strict=True) if past),
            }
            for by in ([], *([group] for group in groups), list(groups[:3])):
                assert reader.totals(name, start, end, *by) == [expected]


# -- money ------------------------------------------------------------------------------------------------


def assert_payments_add_up(
    reader: ReportReader,
    cuts: list[datetime],
    rows: Mapping[str, list[Row]],
    operation_times: Mapping[int, datetime],
) -> None:
    """Gross is all that was paid, and parts of the range add up to the whole."""
    whole = {row["currency"]: row for row in reader.totals("payments", cuts[0], cuts[-1])}
    stats = Reader(reader.engine).stats()
    assert {name: row["gross"] + row["imported"] for name, row in whole.items()} == {
        sum_.currency: sum_.amount_minor for sum_ in stats.revenue
    }
    assert {name: row["net"] + row["imported"] for name, row in whole.items()} == _net(
        reader, rows, operation_times, cuts[-1]
    )
    for row in reader.rows("payments", cuts[0], cuts[-1], "day", "package", "gateway"):
        assert row["net"] == row["gross"] - row["refunded"] - row["disputed"] - row["failed"]
    for by in (("month",), ("package", "tier"), ("day", "gateway")):
        assert reader.totals("payments", cuts[0], cuts[-1], *by) == list(whole.values())
    assert _in_parts(reader, "payments", cuts) == {name: _numbers(row) for name, row in whole.items()}


def _net(
    reader: ReportReader,
    rows: Mapping[str, list[Row]],
    operation_times: Mapping[int, datetime],
    before: datetime,
) -> dict[str, int]:
    found: Tally[str] = Tally()
    for row in rows["payments"]:
        events = [
            _event(event)
            for event in rows["payment_events"]
            if event["payment_reference"] == row["reference_id"]
            and operation_times[event["operation_id"]] < before
        ]
        back = money_back(_payment(row), events, reader.policy).minor if row["amount_minor"] else 0
        found[row["currency"]] += row["amount_minor"] - back
    return dict(found)


def _payment(row: Row) -> Payment:
    names = ("account_id", "reference_id", "amount_minor", "currency", "recorded_at", "occurred_at")
    return Payment(
        user_id="", base_tokens=0, bonus_tokens=0, provider=None, **{name: row[name] for name in names}
    )


def _event(row: Row) -> PaymentEvent:
    names = ("reference_id", "recorded_at", "dispute_id", "refund_reference", "amount_minor", "currency")
    return PaymentEvent(
        name=row["payment_reference"],
        happened=Happened(row["happened"]),
        occurred_at=row["occurred_at"],
        **{name: row[name] for name in names},
    )


_FLOWS = ("payments", "gross", "net", "imported", "recognised", "breakage", "sold", "used", "expired")


def _numbers(row: Row) -> dict[str, int]:
    return {name: row[name] for name in _FLOWS if row.get(name)}


def _in_parts(reader: ReportReader, name: str, cuts: list[datetime]) -> dict[str, dict[str, int]]:
    found: dict[str, Tally[str]] = {}
    for start, end in pairwise(cuts):
        for row in reader.totals(name, start, end):
            tally = found.setdefault(row["currency"], Tally())
            for column, amount in _numbers(row).items():
                tally[column] += amount
    return {name: {column: n for column, n in tally.items() if n} for name, tally in found.items()}


def assert_revenue_adds_up(reader: ReportReader, cuts: list[datetime], rows: Mapping[str, list[Row]]) -> None:
    """Deferred revenue begins and ends as its movements say; sold tokens outstanding are in their lots."""
    start, end = cuts[0], cuts[-1]
    whole = {row["currency"]: row for row in reader.totals("revenue", start, end)}
    paid = {row["currency"]: row for row in reader.totals("payments", start, end)}
    for currency, row in whole.items():
        assert (row["gross"], row["net"]) == (paid[currency]["gross"], paid[currency]["net"])
    assert {name: row["outstanding"] for name, row in whole.items()} == _left_of_sold(rows)
    for row in reader.rows("revenue", start, end, "month", "package", "tier", "gateway"):
        moved = row["imported"] + row["net"] - row["recognised"] - row["breakage"]
        assert row["opening"] + moved == row["closing"]
        assert row["closing"] >= 0
        if row["closing"]:
            assert row["outstanding"]
    for by in (("month",), ("package", "tier"), ("gateway",)):
        assert reader.totals("revenue", start, end, *by) == list(whole.values())
    assert _in_parts(reader, "revenue", cuts) == {name: _numbers(row) for name, row in whole.items()}
    for before, after in pairwise(cuts[1:]):
        openings = {row["currency"]: row["opening"] for row in reader.totals("revenue", before, after)}
        closings = {row["currency"]: row["closing"] for row in reader.totals("revenue", start, before)}
        assert {name: money for name, money in openings.items() if money} == {
            name: money for name, money in closings.items() if money
        }


def _left_of_sold(rows: Mapping[str, list[Row]]) -> dict[str, int]:
    """Return what is left of the lots of payments, as the rows of the lots say."""
    found: Tally[str] = Tally()
    in_order = sorted(rows["lots"], key=lambda lot: (lot["account_id"], lot["number"]))
    for payment in rows["payments"]:
        made = [lot for lot in in_order if lot["operation_id"] == payment["operation_id"]]
        own: list[Row] = []
        if payment["tier"] is None:
            for source in ("purchase", "purchase_bonus"):
                own += [lot for lot in made if lot["source"] == source][:1]
        elif payment["base_tokens"]:
            own += [lot for lot in made if lot["source"] == "allocation" and lot["parent"] is None][-1:]
            own += [
                lot
                for lot in rows["lots"]
                if lot["source"] == "allocation"
                and any(
                    (lot["account_id"], lot["parent"]) == (one["account_id"], one["number"]) for one in own
                )
            ]
        found[payment["currency"]] += sum(lot["remaining"] + lot["pending"] for lot in own)
    return dict(found)


def cuts_of(connection: Connection, parts: int = 4) -> list[datetime]:
    """Return times that cut what was posted into parts, some exactly at an entry; all of it is between."""
    times = sorted(set(connection.execute(select(entries.c.recorded_at)).scalars()))
    inner = [times[len(times) * part // parts] for part in range(1, parts)]
    return [times[0] - timedelta(days=1), *sorted(set(inner)), times[-1] + timedelta(days=1)]
