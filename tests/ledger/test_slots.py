"""Ranges of slots: their condition, and the ranges that a database is read in."""

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from schemas import SLOTS
from worker.bootstrap import Application
from worker.ledger.form import LedgerForm
from worker.ledger.slots import ALL, SLOT_BY_SLOT, WHOLE, Slots, in_slots, parts_of, slot_by_slot
from worker.ledger.tables import accounts
from worker.settings import Settings


def sql(slots: Slots) -> str:
    condition = in_slots(accounts.c.slot, slots)
    return str(condition.compile(compile_kwargs={"literal_binds": True}))


def test_range_of_one_slot_is_an_equality() -> None:
    assert sql(Slots(7, 7)) == "accounts.slot = 7"
    assert sql(Slots(0, 7)) == "accounts.slot BETWEEN 0 AND 7"
    assert sql(ALL) == "accounts.slot BETWEEN 0 AND 63"


def test_parts_have_each_slot_once(engine: Engine) -> None:
    with engine.connect() as connection:
        assert list(parts_of(connection)) == [ALL]
    with slot_by_slot(engine).connect() as connection:
        assert list(parts_of(connection)) == [Slots(slot, slot) for slot in range(SLOTS)]


@pytest.mark.parametrize("form", LedgerForm)
def test_application_reads_slot_by_slot_where_the_ledger_is_distributed(form: LedgerForm) -> None:
    settings = Settings(database_url=SecretStr("sqlite://"), ledger_form=form)
    with Application(settings).engine.connect() as connection:
        assert parts_of(connection) == (SLOT_BY_SLOT if form is LedgerForm.DISTRIBUTED else WHOLE)
