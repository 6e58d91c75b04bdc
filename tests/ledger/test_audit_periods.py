"""The audit of periods: one that was given up may be granted again, and no other one."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from schemas import Code, Command
from tests.support.commands import cancel, change, deduct, opening, renew, settling
from tests.support.strategies import NOW, SMALL_CATALOG
from tests.support.true_ledger import unguarded
from worker.catalog import Catalog
from worker.ledger.audit import audit

Apply = Callable[..., Any]
NEXT = NOW + timedelta(days=30)
EARLY, MINUTE = NEXT - timedelta(hours=12), timedelta(minutes=1)


@pytest.fixture
def catalog() -> Catalog:
    return SMALL_CATALOG


def renewing(reference_id: str) -> Command:
    return renew(NEXT, reference_id=reference_id)


def ending(reference_id: str) -> Command:
    return cancel("now", reference_id=reference_id)


#: The tier that goes on after the next period was given up; and what happens until that is granted again.
GOING_ON: dict[str, tuple[str, list[tuple[datetime, Command]], Code]] = {
    "a renewal ahead": (
        "saver",
        [(EARLY + 2 * MINUTE, renewing("again"))],
        Code.RENEWAL_SCHEDULED,
    ),
    "a renewal ahead by a clock that is behind": (
        "saver",
        [(EARLY - 2 * MINUTE, renewing("again"))],
        Code.RENEWAL_SCHEDULED,
    ),
    "a renewal in time": ("saver", [(NEXT + MINUTE, renewing("again"))], Code.SUBSCRIPTION_RENEWED),
    "time": ("keeper", [(NEXT + MINUTE, settling(reference_id="again"))], Code.ACCOUNT_SETTLED),
    "usage after its time": ("keeper", [(NEXT + MINUTE, deduct(1, "again"))], Code.TOKENS_DEDUCTED),
    "a renewal between two ends at one time": (
        "saver",
        [
            (EARLY + 2 * MINUTE, renewing("second")),
            (EARLY + 3 * MINUTE, ending("end-2")),
            (EARLY + 3 * MINUTE, change("saver", reference_id="change-2")),
            (EARLY + 3 * MINUTE, renewing("again")),
            (EARLY + 3 * MINUTE, ending("end-3")),
        ],
        Code.RENEWAL_SCHEDULED,
    ),
}


@pytest.mark.parametrize("granting", GOING_ON)
def test_period_that_was_given_up_is_granted_again(engine: Engine, apply: Apply, granting: str) -> None:
    tier, going_on, code = GOING_ON[granting]
    apply(opening(tier="saver"), now=NOW)
    apply(renewing("ahead"), now=EARLY)
    apply(ending("end"), now=EARLY + MINUTE)
    apply(change(tier, reference_id="change"), now=EARLY + MINUTE)
    codes = {c.reference_id: apply(c, now=now)[0].outcome.code for now, c in going_on}
    assert codes["again"] is code
    with engine.connect() as connection:
        same = "SELECT count(*) FROM lots WHERE parent IS NULL GROUP BY expires_at HAVING count(*) > 1"
        assert connection.execute(text(same)).scalar_one() > 1
    assert audit(engine, catalog=SMALL_CATALOG).findings == ()


def test_period_that_was_granted_twice_is_found_though_a_cancellation_ended_both(
    engine: Engine, apply: Apply, database_url: str
) -> None:
    apply(opening(tier="free"), now=NOW)
    apply(change("pro", reference_id="change"), now=NOW + MINUTE)
    apply(deduct(10, "use"), now=NOW + 2 * MINUTE)
    apply(ending("end"), now=NOW + 3 * MINUTE)
    assert audit(engine, catalog=SMALL_CATALOG).is_clean
    corruptible = unguarded(database_url)
    with corruptible.begin() as connection:
        use = "(SELECT operation_id FROM operations WHERE reference_id = 'use')"
        connection.execute(text(f"UPDATE lots SET operation_id = {use} WHERE number = 2"))  # noqa: S608
    corruptible.dispose()
    findings = audit(engine, catalog=SMALL_CATALOG).findings
    assert [(one.check, one.reference_id, one.lot, one.actual) for one in findings] == [
        ("allocation_twice", "use", 2, 150)
    ]
