"""Ids that the ledger has, on both databases and in every form: users, operations, names of payments."""

import pytest
from sqlalchemy import Engine

from schemas import PaymentSucceeded
from tests.support.apply_commands import applied
from tests.support.commands import opening
from tests.support.strategies import SMALL_CATALOG
from worker.ledger.known_ids import known_ids
from worker.ledger.slots import slot_by_slot


@pytest.mark.parametrize("is_slot_by_slot", [False, True])
def test_ids_of_users_operations_and_payments_are_known(engine: Engine, *, is_slot_by_slot: bool) -> None:
    user, charge = "zoe\u0308", "ch_e\u0301"
    paid = PaymentSucceeded(
        reference_id="pi_1",
        user_id=user,
        package_index=0,
        amount_minor=499,
        currency="USD",
        also_known_as=(charge,),
    )
    applied(engine, SMALL_CATALOG, opening(user_id=user, reference_id="open-1"), paid)
    asked = slot_by_slot(engine) if is_slot_by_slot else engine
    known = known_ids(asked, [user, charge, "pi_1", "open-1", "zo\u00eb", "nobody"])
    # The table of claims is empty here: references are known by it where the ledger is distributed.
    assert known == {user, charge, "pi_1"} | (set() if is_slot_by_slot else {"open-1"})


def test_no_id_asks_the_database_nothing(engine: Engine) -> None:
    engine.dispose()
    assert known_ids(engine, []) == frozenset()
