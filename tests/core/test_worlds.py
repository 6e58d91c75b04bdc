"""Worlds by chance: what the rules make of them is what the model says, and they meet every outcome.

The same worlds meet a database in ``tests/ledger/test_worlds.py``.
"""

from collections.abc import Iterator

import pytest

from schemas import Code
from tests.support.fake_ledger import FakeLedger
from tests.support.model import Model
from tests.support.model_comparison import assert_like_the_model
from tests.support.strategies import CATALOGS
from tests.support.worlds import day_of, named_world

#: Outcomes that a random command hardly meets; a world that lost one of them would prove little.
_RARE = {
    Code.ACCOUNT_IMPORTED,
    Code.ALLOCATION_OUTLASTS_PERIOD,
    Code.HOLD_EXTENDED,
    Code.HOLD_SETTLED,
    Code.HOLD_SETTLED_LATE,
    Code.HOLD_CLOSED,
    Code.HOLD_RELEASED,
    Code.REFERENCE_TAKEN,
    Code.TOO_LATE,
    Code.TOKENS_REFUNDED,
    Code.DISPUTE_WON,
    Code.DISPUTE_LOST,
    Code.PAYMENT_AWAITED,
    Code.RENEWAL_SCHEDULED,
    Code.UNKNOWN_METER,
    Code.UNKNOWN_TIER,
}


def replies_of(seeds: range) -> Iterator[dict[str, object]]:
    """Yield the replies of the worlds, each under one of the catalogs; fail where the model has others."""
    catalogs = list(CATALOGS.values())
    for seed in seeds:
        catalog = catalogs[seed % len(catalogs)]
        with named_world(seed):
            yield from assert_like_the_model(FakeLedger(catalog), Model(catalog), day_of(seed))


def test_worlds_come_to_what_the_model_says_and_meet_rare_outcomes() -> None:
    replies = list(replies_of(range(150)))
    assert {reply["code"] for reply in replies} >= {str(code) for code in _RARE}
    assert {reply["status"] for reply in replies if "openedTier" in reply} == {"applied", "rejected"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_worlds_come_to_what_the_model_says() -> None:
    assert sum(1 for _ in replies_of(range(150, 4_000))) > 100_000


def test_same_seed_is_the_same_world() -> None:
    assert day_of(7) == day_of(7) != day_of(8)
