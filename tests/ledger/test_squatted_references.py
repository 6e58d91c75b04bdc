"""Squatted references in the database: the taker, the rows kept of earlier owners, and races."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import DBAPIError

from schemas import Command
from tests.ledger.test_store import NOW, counted_statements, replies_to
from tests.support.commands import bonus, deduct, opening, payment, record, upload
from tests.support.in_world import in_world
from tests.support.model import Model, predicted
from tests.support.strategies import SMALL_CATALOG, cut
from worker.core import decide
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.store import Ledger
from worker.ledger.tables import operations, superseded_outcomes

SQUAT = deduct(5, user_id="nobody")


def owners(engine: Engine) -> list[tuple[Any, ...]]:
    """Type, user, attempt and status of all that had the reference ``r``, the present one last."""
    found: list[tuple[Any, ...]] = []
    with engine.connect() as connection:
        for table in (superseded_outcomes, operations):
            columns = (table.c.type, table.c.user_id, table.c.attempt, table.c.status)
            rows = connection.execute(select(*columns).where(table.c.reference_id == "r").order_by(*columns))
            found += map(tuple, rows)
    return found


@pytest.mark.parametrize("squatter", [SQUAT, deduct(5_000), deduct(0), upload(0), record("page", 0)])
def test_payment_takes_its_reference_and_both_outcomes_are_kept(engine: Engine, squatter: Command) -> None:
    ledger = Ledger(engine)
    replies_to(ledger, [opening()])
    (first,) = replies_to(ledger, [squatter])
    (paid,) = replies_to(ledger, [payment()])
    assert (paid["code"], paid["duplicate"]) == ("tokens_purchased", False)
    assert replies_to(ledger, [squatter, payment(), squatter]) == [
        {**first, "duplicate": True},
        {**paid, "duplicate": True},
        {**first, "duplicate": True},
    ]
    assert owners(engine) == [
        (squatter.type, squatter.user_id, 1, first["status"]),
        ("payment.succeeded", "u", 1, "applied"),
    ]
    assert audit(engine).is_clean


def test_every_order_and_cut_of_a_squat_comes_to_what_the_model_says(engine: Engine) -> None:
    ledger = Ledger(engine)
    messages: list[Command] = [
        SQUAT,
        deduct(5, user_id="nobody", attempt=2),
        payment(1),
        payment(attempt=2),
        SQUAT,
    ]
    for world, order in enumerate(permutations(messages)):
        commands = [in_world(world, command) for command in (opening(), *order)]
        model = Model(SMALL_CATALOG)
        expected = [model.apply(command, NOW) for command in commands]
        batches = cut(commands, [world % 5 + 1, world % 3 + 1])
        replies = [predicted(reply) for batch in batches for reply in replies_to(ledger, batch)]
        assert replies == expected
    assert audit(engine).is_clean


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ([payment()], [payment(user_id="v")]),
        ([deduct(5, user_id="nobody", attempt=2)], [payment()]),
        ([payment()], [deduct(5, user_id="nobody", attempt=2)]),
        ([bonus(5, "a"), payment(), bonus(5, "z")], [payment(user_id="v")]),
    ],
    ids=["two owners", "an owner first", "a squatter first", "in a batch"],
)
def test_reference_that_another_worker_took_is_contention(
    postgres_engine: Engine, mine: Sequence[Command], theirs: Sequence[Command]
) -> None:
    """No lock keeps them apart: their users are different."""
    ledger = Ledger(postgres_engine)
    replies_to(ledger, [opening(), opening("o-v", "v"), SQUAT])

    def lose() -> None:
        with ledger.begin(mine, NOW) as transaction:
            known = transaction.known
            plan = decide(mine, known, NOW, SMALL_CATALOG)
            replies_to(Ledger(postgres_engine), theirs)
            transaction.write(plan)

    with pytest.raises(ContentionError, match="judged a reference"):
        lose()
    before = owners(postgres_engine)
    again = [reply["code"] for reply in replies_to(ledger, mine)]
    if theirs[0].type == "payment.succeeded":
        assert "reference_conflict" in again
        assert owners(postgres_engine) == before
    else:
        assert again == ["tokens_purchased"]
    assert audit(postgres_engine).is_clean


def test_zero_usage_writes_its_claim_and_nothing_else(postgres_engine: Engine) -> None:
    ledger = Ledger(postgres_engine)
    replies_to(ledger, [opening()])
    with counted_statements(postgres_engine) as statements:
        replies_to(ledger, [deduct(0), upload(0, "f"), record("page", 0, reference_id="m")])
    verbs = [statement.removeprefix("EXECUTE ").split("_")[0] for statement in statements]
    own = [verb for verb in verbs if verb in ("lock", "select", "write")]
    assert own == ["lock", "select", "select", "select", "write"]  # accounts, outcomes, lots, quotas


def test_only_an_earlier_attempt_reads_superseded_outcomes(postgres_engine: Engine) -> None:
    ledger = Ledger(postgres_engine)
    late = deduct(2, "e")
    replies_to(ledger, [opening(), SQUAT, payment(), deduct(1, "d"), deduct(5_000, "e")])
    with counted_statements(postgres_engine) as statements:
        replies_to(ledger, [payment(), SQUAT, deduct(1, "d"), deduct(2, "e", attempt=2)])
        replies_to(ledger, [deduct(1, "f")])
    assert [statement for statement in statements if statement.startswith("EXECUTE select_superseded")] == []
    with counted_statements(postgres_engine) as statements:
        replies_to(ledger, [late])
    assert len([statement for statement in statements if "EXECUTE select_superseded" in statement]) == 1


@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        ("used", {"type": "payment.succeeded", "user_id": "v"}),
        ("free", {"type": "payment.succeeded"}),
        ("poor", {"type": "usage.record"}),
        ("poor", {"user_id": "v", "attempt": 2}),
        ("poor", {"type": "payment.succeeded", "reference_id": "else"}),
        ("paid", {"type": "credit.bonus"}),
        ("paid", {"type": "usage.deduct", "attempt": 2}),
        ("broke", {"type": "credit.bonus", "attempt": 2}),
    ],
)
def test_database_refuses_every_other_change_of_hands(
    engine: Engine, reference: str, changes: dict[str, Any]
) -> None:
    replies_to(
        Ledger(engine),
        [
            opening(tier="pro"),
            deduct(5, "used"),
            record("page", 2, reference_id="free"),
            deduct(5_000, "poor"),
            payment(reference_id="paid"),
            payment(1, reference_id="broke"),
        ],
    )
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(update(operations).where(operations.c.reference_id == reference).values(**changes))


MOVED = [
    {"amount": 5},
    {"amount": None},
    {"first_entry": 1, "balance_before": None},
    {"code": "hold_settled"},
    {"code": "account_settled"},
    {"code": "usage_recorded", "detail": {"free_quantity": 1}},
    {"type": "payment.succeeded"},
]


@pytest.mark.parametrize("changes", MOVED)
def test_database_takes_no_reference_from_what_moved_something(
    engine: Engine, changes: dict[str, Any]
) -> None:
    replies_to(Ledger(engine), [opening(), deduct(0)])
    with engine.connect() as connection:
        row = connection.execute(select(operations).where(operations.c.reference_id == "r")).mappings().one()
    with pytest.raises(DBAPIError, match="moved_nothing"), engine.begin() as connection:
        connection.execute(insert(operations), {**row, "operation_id": 99, "is_taken": True, **changes})


def test_database_keeps_no_superseded_outcome_but_rejections(engine: Engine) -> None:
    replies_to(Ledger(engine), [opening(), deduct(0)])
    with engine.connect() as connection:
        row = connection.execute(select(operations).where(operations.c.reference_id == "r")).mappings().one()
    outcome = {name: value for name, value in row.items() if name != "is_taken"}
    with pytest.raises(DBAPIError, match="rejected"), engine.begin() as connection:
        connection.execute(insert(superseded_outcomes), outcome)
