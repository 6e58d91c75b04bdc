"""Accounts on tiers that the catalog lacks: now, or from a later time on; counted up to a bound."""

import pytest
from sqlalchemy import Engine

from schemas import OpenAccount
from tests.conftest import Apply
from worker.ledger.queries import snapshot
from worker.ledger.queries.tiers import accounts_on_missing_tiers
from worker.ledger.slots import slot_by_slot


def open_accounts(apply: Apply, count: int) -> None:
    apply(*(OpenAccount(reference_id=f"o{n}", user_id=f"u{n}", tier="free") for n in range(count)))


@pytest.mark.parametrize("is_distributed", [False, True])
def test_accounts_are_counted_by_the_tier_that_is_missing(
    engine: Engine, apply: Apply, *, is_distributed: bool
) -> None:
    open_accounts(apply, 5)
    asked = slot_by_slot(engine) if is_distributed else engine
    with snapshot(asked) as connection:
        assert accounts_on_missing_tiers(connection, {"free", "pro"}, 100) == {}
        assert accounts_on_missing_tiers(connection, {"pro"}, 100) == {"free": 5}
        assert accounts_on_missing_tiers(connection, {"pro"}, 2)["free"] >= 3


def test_tier_that_follows_counts_as_well(engine: Engine, apply: Apply) -> None:
    open_accounts(apply, 2)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounts SET next_tier = 'gold' WHERE user_id = 'u1'")
    with snapshot(engine) as connection:
        assert accounts_on_missing_tiers(connection, {"free"}, 100) == {"gold": 1}
