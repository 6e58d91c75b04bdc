"""Years by chance: the rules come to what the model says, and to the same whenever somebody looked."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest

from schemas import Code, Command
from tests.support.commands import adjust, opening, settling
from tests.support.fake_ledger import FakeLedger, after
from tests.support.model import Model
from tests.support.model_comparison import assert_like_the_model
from tests.support.strategies import CATALOGS, NOW, SMALL_CATALOG, Day
from tests.support.worlds import named_world
from tests.support.years import years_of
from worker.catalog import Catalog
from worker.core import HoldState, account_now
from worker.core.calendars import present_period
from worker.core.periods import months_after

#: Outcomes without which years would prove little.
_MET = {
    Code.CHANGE_SCHEDULED,
    Code.HOLD_SETTLED_LATE,
    Code.PERIOD_ALREADY_GRANTED,
    Code.PERIOD_OUT_OF_RANGE,
    Code.RENEWAL_SCHEDULED,
    Code.SUBSCRIPTION_CANCELED,
    Code.SUBSCRIPTION_NOT_ACTIVE,
    Code.SUBSCRIPTION_RENEWED,
    Code.TOKENS_REFUNDED,
}


def test_years_come_to_what_the_model_says() -> None:
    codes = {reply["code"] for reply in replies_of(range(150))}
    assert codes >= {str(code) for code in _MET}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_years_come_to_what_the_model_says() -> None:
    assert sum(1 for _ in replies_of(range(150, 20_000))) > 400_000


def replies_of(seeds: range) -> Iterator[dict[str, Any]]:
    for seed, catalog, _, day in _worlds(seeds):
        with named_world(seed):
            yield from assert_like_the_model(FakeLedger(catalog), Model(catalog), day)


# -- the scheduler ----------------------------------------------------------------------------------------


def test_scheduler_changes_nothing() -> None:
    assert_looks_change_nothing(range(200))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scheduler_changes_nothing_in_thousands_of_years() -> None:
    assert_looks_change_nothing(range(200, 12_000))


def assert_looks_change_nothing(seeds: range) -> None:
    """Fail unless the same commands, with and without looks between them, end in the same ledger."""
    for seed, catalog, looks, day in _worlds(seeds):
        with named_world(seed):
            unseen, seen = FakeLedger(catalog), FakeLedger(catalog)
            codes = [_codes_of(unseen, *step) for step in day]
            assert codes == list(_seen_codes(seen, day, looks))
            for user in unseen.accounts:
                assert state_of(unseen, user, day[-1][0]) == state_of(seen, user, day[-1][0])


def _worlds(seeds: range) -> Iterator[tuple[int, Catalog, Day, Day]]:
    """Yield for each seed a catalog, looks at any time, and the commands of years."""
    catalogs = list(CATALOGS.values())
    for seed, years, day in years_of(seeds):
        yield seed, catalogs[seed % len(catalogs)], years.looks(day, 6), day


def _seen_codes(ledger: FakeLedger, day: Day, looks: Day) -> Iterator[list[str]]:
    """Apply the batches with the looks between them; yield the codes of the batches."""
    left = sorted(looks, key=lambda look: look[0])
    for at, batch in day:
        while left and left[0][0] < at:
            moment, look = left.pop(0)
            assert set(_codes_of(ledger, moment, look)) == {"account_settled"}
        yield _codes_of(ledger, at, batch)


def _codes_of(ledger: FakeLedger, at: datetime, batch: Sequence[Command]) -> list[str]:
    return [reply["code"] for reply in ledger.apply(batch, at)]


def state_of(ledger: FakeLedger, user: str, now: datetime) -> dict[str, Any]:
    """Return what an account has at ``now``, with all that is due posted, whoever posted it."""
    holds = [hold for hold in ledger.holds_of(user) if hold.state is HoldState.OPEN]
    account = account_now(ledger.accounts[user], ledger.lots_of(user), holds, now, ledger.catalog)
    own = account.state
    return {
        "balance": (own.balance, own.held, own.debt),
        "sums": (own.allocated, own.bonus, own.adjusted, own.refunded, own.used, own.expired),
        "subscription": (own.tier, own.next_tier, own.next_tier_at, own.ends_at),
        "period": (present_period(own, now), own.granted_until, own.period_granted),
        "quotas": {
            key[1:]: quota.used for key, quota in ledger.quotas.items() if key.account_id == own.account_id
        },
        "lots": sorted(
            (lot.source, lot.free, lot.held, lot.pending, lot.priority, lot.effective_at, str(lot.ends_at))
            for lot in account.lots.values()
            if lot.remaining or lot.pending
        ),
    }


# -- a long absence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["steady", "keeper", "idle"])
@pytest.mark.parametrize("debt", [0, 1_000, 1_000_000])
def test_ten_years_unseen_are_a_few_rows_and_come_to_what_monthly_looks_give(tier: str, debt: int) -> None:
    start, end = NOW, NOW.replace(year=NOW.year + 10)
    monthly = [
        (months_after(start, months), [settling(reference_id=f"s{months}")]) for months in range(1, 121)
    ]
    unseen, seen = (after(opening(tier=tier), now=start) for _ in range(2))
    for ledger, looks in ((unseen, []), (seen, monthly)):
        if debt:
            ledger.apply([adjust(-debt, reference_id="owed", allow_negative=True)], start)
        for at, look in looks:
            ledger.apply(look, at)
        ledger.apply([settling(reference_id="last")], end)
    assert state_of(unseen, "u", end) == state_of(seen, "u", end)
    assert len(unseen.history("u")) <= 16
    assert len(unseen.lots_of("u")) <= 8
    granted = SMALL_CATALOG.tiers[tier].monthly_tokens
    assert unseen.accounts["u"].allocated == 121 * granted
