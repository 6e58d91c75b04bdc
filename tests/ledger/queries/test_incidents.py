"""Incidents on both databases: each kind is found, filtered, paged in the order of time, and counted."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from schemas import (
    ChangeSubscription,
    Command,
    DeductUsage,
    OpenAccount,
    PaymentRefunded,
    PaymentSucceeded,
)
from tests.support.apply_commands import applied
from tests.support.query_plans import recorded_statements, scanned
from worker.catalog import Catalog, load_catalog
from worker.errors import QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import (
    Incident,
    IncidentCounts,
    IncidentFilter,
    IncidentKind,
    IncidentPage,
    counts,
    incidents,
    overdue_before,
    overdue_events,
)
from worker.ledger.slots import slot_by_slot

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
DAY = timedelta(days=1)
BEFORE = overdue_before(NOW, 3)
FLAGGING = load_catalog().model_copy(
    update={"payments": load_catalog().payments.model_copy(update={"on_mismatch": "credit_and_flag"})}
)


def paid(reference: str, user: str = "ann", package: str = "standard", **more: object) -> Command:
    fields = {"package_id": package, "amount_minor": 1_999, "currency": "USD", **more}
    return PaymentSucceeded.model_validate({"reference_id": reference, "user_id": user, **fields})


def refunded(reference: str, payment: str, **more: object) -> Command:
    fields = {"amount_minor": 500, "currency": "USD", **more}
    return PaymentRefunded.model_validate(
        {"reference_id": reference, "original_reference_id": payment, **fields}
    )


@pytest.fixture
def troubled(engine: Engine, catalog: Catalog) -> Engine:
    """Incidents of each kind, and operations that are none."""
    opening = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in ("ann", "bob")]
    applied(engine, catalog, *opening, paid("fine"), now=NOW - 9 * DAY)
    applied(engine, catalog, refunded("stripe:re_1", "stripe:pi_late"), now=NOW - 5 * DAY)
    applied(engine, catalog, paid("stripe:pi_2", package="gone"), now=NOW - 4 * DAY)
    applied(engine, catalog, refunded("re_2", "pi_young", user_id="bob"), now=NOW - 2 * DAY)
    applied(engine, FLAGGING, paid("odd", "bob", amount_minor=7, provider="paddle"), now=NOW - 1 * DAY)
    applied(
        engine,
        catalog,
        paid("pi_3", "bob", package="gone", provider="stripe"),
        DeductUsage(reference_id="poor", user_id="ann", tokens=10**12),
        ChangeSubscription(reference_id="no-money", user_id="ann", tier="gone"),
        ChangeSubscription.model_validate(
            {
                "reference_id": "sub-1",
                "user_id": "ann",
                "tier": "gone",
                "payment": {"reference_id": "adyen:in_1", "amount_minor": 900, "currency": "EUR"},
            }
        ),
        now=NOW,
    )
    return engine


def page(engine: Engine, filter_: IncidentFilter = IncidentFilter(), **more: object) -> IncidentPage:  # noqa: B008
    with snapshot(engine) as connection:
        return incidents(connection, filter_, BEFORE, **more)  # type: ignore[arg-type]


def references(found: IncidentPage) -> list[str]:
    return [incident.reference_id for incident in found.incidents]


def by_reference(found: Sequence[Incident]) -> dict[str, Incident]:
    return {incident.reference_id: incident for incident in found}


def test_incidents_that_need_somebody_are_listed_newest_first(troubled: Engine) -> None:
    found = page(troubled)
    assert references(found) == ["sub-1", "pi_3", "odd", "stripe:pi_2", "stripe:re_1"]
    assert found.next is None


def test_incident_names_the_money_the_gateway_and_the_way_out(troubled: Engine) -> None:
    found = by_reference(page(troubled).incidents)
    assert [
        (one.kind, one.type, one.user_id, one.gateway, one.amount_minor, one.currency, one.code)
        for one in found.values()
    ] == [
        ("rejected", "subscription.change", "ann", "adyen", 900, "EUR", "unknown_tier"),
        ("rejected", "payment.succeeded", "bob", "stripe", 1_999, "USD", "unknown_package"),
        ("flagged", "payment.succeeded", "bob", "paddle", 7, "USD", "purchase_flagged"),
        ("rejected", "payment.succeeded", "ann", "stripe", 1_999, "USD", "unknown_package"),
        ("waiting", "payment.refunded", None, "stripe", 500, "USD", "payment_awaited"),
    ]
    late = found["stripe:re_1"]
    assert (late.is_overdue, late.original_reference_id) == (True, "stripe:pi_late")
    assert found["pi_3"].what_to_do == "add the package to the catalog, then retry"


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (IncidentFilter(frozenset({IncidentKind.REJECTED})), ["sub-1", "pi_3", "stripe:pi_2"]),
        (IncidentFilter(frozenset({IncidentKind.FLAGGED})), ["odd"]),
        (IncidentFilter(frozenset({IncidentKind.WAITING})), ["re_2", "stripe:re_1"]),
        (
            IncidentFilter(frozenset(IncidentKind)),
            ["sub-1", "pi_3", "odd", "re_2", "stripe:pi_2", "stripe:re_1"],
        ),
        (IncidentFilter(since=NOW - 1 * DAY), ["sub-1", "pi_3", "odd"]),
        (IncidentFilter(until=NOW - 1 * DAY), ["stripe:pi_2", "stripe:re_1"]),
        (IncidentFilter(user_id="bob"), ["pi_3", "odd"]),
        (IncidentFilter(gateway="stripe"), ["pi_3", "stripe:pi_2", "stripe:re_1"]),
        (IncidentFilter(gateway="adyen"), ["sub-1"]),
        (IncidentFilter(gateway="str"), []),
    ],
)  # fmt: skip
def test_filter_finds_its_own(troubled: Engine, filter_: IncidentFilter, expected: list[str]) -> None:
    assert references(page(troubled, filter_)) == expected


def test_pages_have_each_incident_once(engine: Engine, catalog: Catalog) -> None:
    applied(engine, catalog, OpenAccount(reference_id="o", user_id="ann", tier="free"), now=NOW - 9 * DAY)
    for day in (8, 5):  # several of one time, of both sources
        more = [paid(f"p-{day}-{n}", package="gone") for n in range(3)]
        late = [refunded(f"r-{day}-{suffix}", f"x-{day}") for suffix in "aBé"]
        applied(engine, catalog, *more, *late, now=NOW - day * DAY)
    whole = references(page(engine))
    assert len(whole) == len(set(whole)) == 12
    for limit in (1, 2, 5):
        found: list[str] = []
        cursor = None
        while True:
            part = page(engine, limit=limit, cursor=cursor)
            found += references(part)
            cursor = part.next
            if cursor is None:
                break
        assert found == whole


@pytest.mark.parametrize("cursor", ["x", "é", "W10", "WyIyMDI2LTExLTIyIiwwLCJ4Il0", "eyJhIjoxfQ"])
def test_cursor_that_no_page_named_is_refused(troubled: Engine, cursor: str) -> None:
    with pytest.raises(QueryError, match="cursor is none of this list"):
        page(troubled, cursor=cursor)


def test_incident_leaves_the_list_when_it_is_applied(troubled: Engine, catalog: Catalog) -> None:
    applied(troubled, catalog, paid("stripe:pi_late"), now=NOW)
    assert "stripe:re_1" not in references(page(troubled))
    with snapshot(troubled) as connection:
        assert counts(connection, BEFORE).overdue == 0


def test_counts_are_those_of_the_lists(troubled: Engine) -> None:
    with snapshot(troubled) as connection:
        found = counts(connection, BEFORE)
    assert found == IncidentCounts(rejected=3, flagged=1, waiting=2, overdue=1, stuck=0)
    assert found.needing_somebody == len(page(troubled).incidents)


def test_event_that_cannot_count_needs_somebody_at_once(troubled: Engine, catalog: Catalog) -> None:
    applied(troubled, catalog, refunded("re_3", "pi_4", currency="EUR"), now=NOW)
    assert "re_3" not in references(page(troubled))
    applied(troubled, catalog, paid("pi_4"), now=NOW)
    stuck = by_reference(page(troubled).incidents)["re_3"]
    assert (stuck.code, stuck.is_overdue, stuck.user_id) == ("currency_mismatch", False, "ann")
    assert "by hand" in stuck.what_to_do
    with snapshot(troubled) as connection:
        assert counts(connection, BEFORE).stuck == 1


def test_overdue_events_come_in_the_order_in_which_they_wait(troubled: Engine) -> None:
    with snapshot(troubled) as connection:
        (found,) = overdue_events(connection, BEFORE, 10)
        assert (found.reference_id, found.name) == ("stripe:re_1", "stripe:pi_late")
        both = overdue_events(connection, NOW, 10)
        assert [one.reference_id for one in both] == ["stripe:re_1", "re_2"]
        assert overdue_events(connection, NOW, 1) == both[:1]
        assert overdue_events(connection, NOW, 10, after=both[0]) == both[1:]
        assert overdue_events(connection, NOW, 10, after=both[1]) == []


def test_ledger_read_slot_by_slot_has_the_same_incidents(troubled: Engine) -> None:
    divided = slot_by_slot(troubled)
    assert page(divided) == page(troubled)
    assert page(divided, limit=2) == page(troubled, limit=2)
    with snapshot(divided) as one, snapshot(troubled) as other:
        assert counts(one, BEFORE) == counts(other, BEFORE)


def test_list_and_counts_read_no_table_whole(postgres_engine: Engine, catalog: Catalog) -> None:
    applied(postgres_engine, catalog, OpenAccount(reference_id="o", user_id="ann", tier="free"), now=NOW)
    applied(postgres_engine, catalog, *(paid(f"p-{n}", package="gone") for n in range(20)), now=NOW)
    for start in range(0, 3_000, 500):
        use = [DeductUsage(reference_id=f"u-{n}", user_id="ann", tokens=1) for n in range(start, start + 500)]
        applied(postgres_engine, catalog, *use, now=NOW)
    with postgres_engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    with recorded_statements(postgres_engine) as statements:
        assert len(page(postgres_engine).incidents) == 20
        with snapshot(postgres_engine) as connection:
            assert counts(connection, BEFORE).rejected == 20
    assert scanned(postgres_engine, statements, {"operations"}) == []
