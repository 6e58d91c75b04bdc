"""Properties of every day: the model predicts it, batches don't matter, a rejection leaves nothing.

The model (``tests/support/model.py``) and the worker were written apart, from the same rules.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas import Command
from tests.support.fake_ledger import FakeLedger
from tests.support.model import Model, predicted
from tests.support.model_comparison import (
    as_hold,
    as_lot,
    assert_like_the_model,
    assert_same_ledger,
    movement_of,
)
from tests.support.strategies import CATALOGS, Day, crowded_days, cut, examples, passing_days
from worker.catalog import Catalog

catalogs = st.sampled_from(list(CATALOGS.values()))
batch_sizes = st.lists(st.integers(1, 8), max_size=24)


@examples(400)
@given(passing_days(), catalogs)
def test_any_day_comes_to_what_the_model_says(day: Day, catalog: Catalog) -> None:
    ledger, model = FakeLedger(catalog), Model(catalog)
    replies = assert_like_the_model(ledger, model, day)
    assert len(replies) == sum(len(batch) for _, batch in day)


@examples(150)
@given(passing_days(max_batch=3), st.lists(catalogs, min_size=1, max_size=4))
def test_a_catalog_that_changes_from_start_to_start_is_followed(day: Day, changes: list[Catalog]) -> None:
    ledger, model = FakeLedger(changes[0]), Model(changes[0])
    for place, (now, batch) in enumerate(day):
        ledger.catalog = model.catalog = changes[place % len(changes)]
        replies = ledger.apply(batch, now)
        assert [predicted(reply) for reply in replies] == [model.apply(command, now) for command in batch]
    assert_same_ledger(ledger, model)


@examples(150)
@given(crowded_days(), batch_sizes, catalogs)
def test_batches_come_to_the_same_as_one_by_one(
    commands: list[Command], sizes: list[int], catalog: Catalog
) -> None:
    batched, single = FakeLedger(catalog), FakeLedger(catalog)
    in_batches = [reply for batch in cut(commands, sizes) for reply in batched.apply(batch)]
    one_by_one = [reply for command in commands for reply in single.apply([command])]
    assert [without_numbers(reply) for reply in in_batches] == [
        without_numbers(reply) for reply in one_by_one
    ]
    assert batched.balances() == single.balances()
    for user_id in single.accounts:
        assert [movement_of(entry) for entry in batched.history(user_id)] == [
            movement_of(entry) for entry in single.history(user_id)
        ]
        assert [as_lot(lot) for lot in batched.lots_of(user_id)] == [
            as_lot(lot) for lot in single.lots_of(user_id)
        ]
        assert [as_hold(hold) for hold in batched.holds_of(user_id)] == [
            as_hold(hold) for hold in single.holds_of(user_id)
        ]


def without_numbers(reply: dict[str, Any]) -> dict[str, Any]:
    """``reply`` without the id that the ledger gives in the order of its writing."""
    return {name: value for name, value in reply.items() if name != "transactionId"}


@examples(100)
@given(passing_days(max_steps=4), catalogs)
def test_a_refusal_leaves_the_ledger_as_it_was_but_for_an_account_that_it_opened(
    day: Day, catalog: Catalog
) -> None:
    ledger = FakeLedger(catalog)
    for now, batch in day:
        for command in batch:
            before = ledger.rows()
            (reply,) = ledger.apply([command], now)
            if reply["duplicate"] or (reply["status"] == "rejected" and "openedTier" not in reply):
                assert ledger.rows() == before


@examples(100)
@given(crowded_days(), st.data())
def test_a_day_delivered_again_in_any_order_moves_nothing_and_gets_its_first_replies(
    commands: list[Command], data: st.DataObject
) -> None:
    ledger = FakeLedger()
    first = ledger.apply(commands)
    before = ledger.rows()
    order = data.draw(st.permutations(range(len(commands))))
    again = dict(zip(order, ledger.apply([commands[index] for index in order]), strict=True))
    assert ledger.rows() == before
    for index, reply in enumerate(first):
        judged = not reply["duplicate"] and reply["code"] != "reference_conflict"
        assert again[index]["duplicate"] or again[index]["code"] == "reference_conflict"
        if judged:
            assert again[index] == {**reply, "duplicate": True}
