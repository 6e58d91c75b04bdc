"""Opening at sign-up, on real databases: workers at once, redelivery, and what is shown of it."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from schemas import ChangeSubscription, Command, DeductUsage, SettleAccount
from tests.support.apply_commands import applied
from tests.support.commands import bonus, deduct, opening
from tests.support.strategies import SMALL_CATALOG
from worker.core import decide, reply_for
from worker.errors import ContentionError
from worker.ledger.audit import audit
from worker.ledger.form import LedgerForm
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
DAY = timedelta(days=1)
CATALOG = SMALL_CATALOG.model_copy(update={"auto_open": "keeper"})


def replies(engine: Engine, *commands: Command, now: datetime = NOW) -> list[dict[str, Any]]:
    answers = applied(engine, CATALOG, *commands, now=now)
    return [json.loads(reply_for(*pair).to_json()) for pair in zip(commands, answers, strict=True)]


def test_first_command_opens_the_account_and_its_redelivery_gets_the_same_reply(engine: Engine) -> None:
    for command in (deduct(30, "d", "ann"), deduct(500, "poor", "bob"), deduct(0, "none", "cyd")):
        (first,) = replies(engine, command)
        assert first["openedTier"] == "keeper"
        assert replies(engine, command, now=NOW + DAY) == [{**first, "duplicate": True}]
    assert audit(engine).is_clean


def test_sequence_of_a_reply_is_that_of_the_last_entry_also_when_it_comes_again(engine: Engine) -> None:
    commands = [
        deduct(30, "d", "ann"),
        deduct(5, "e", "ann"),
        deduct(5_000, "f", "ann"),
        deduct(0, "g", "ann"),
    ]
    first = replies(engine, *commands)
    assert [reply.get("sequence") for reply in first] == [2, 3, None, None]
    assert [reply.get("sequence") for reply in replies(engine, *commands)] == [2, 3, None, None]


def test_first_commands_of_one_user_at_once_open_one_account(postgres_engine: Engine) -> None:
    rounds, workers = 15, 4
    start = Barrier(workers)

    def work(worker: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number in range(rounds):
            users = [f"u-{number}", f"v-{number}"]
            batch = [deduct(5, f"{user}-{worker}", user) for user in (users if worker % 2 else users[::-1])]
            start.wait(20)
            found += _despite_contention(postgres_engine, batch)
        return found

    with ThreadPoolExecutor(workers) as pool:
        answered = [reply for found in pool.map(work, range(workers)) for reply in found]
    assert {reply["code"] for reply in answered} == {"tokens_deducted"}
    assert sum("openedTier" in reply for reply in answered) == 2 * rounds
    with postgres_engine.connect() as connection:
        assert connection.execute(select(func.count(), func.sum(accounts.c.balance))).one() == (
            2 * rounds,
            2 * rounds * (80 - 5 * workers),
        )
    assert audit(postgres_engine).is_clean


def _despite_contention(engine: Engine, batch: Sequence[Command]) -> list[dict[str, Any]]:
    for _ in range(20):
        try:
            return replies(engine, *batch)
        except ContentionError:
            continue
    raise AssertionError("the ledger stays contended")


def test_crash_before_the_commit_leaves_no_account(engine: Engine) -> None:
    class Crash(Exception):  # noqa: N818 - nothing of the worker's
        pass

    commands = [deduct(30, "d", "ann")]

    def die() -> None:
        with Ledger(engine).begin(commands, NOW, auto_open="keeper") as transaction:
            transaction.write(decide(commands, transaction.known, NOW, CATALOG))
            raise Crash

    with pytest.raises(Crash):
        die()
    with engine.connect() as connection:
        assert connection.execute(select(accounts)).all() == []
    assert replies(engine, *commands)[0]["openedTier"] == "keeper"


def test_duplicate_and_conflict_leave_no_account(engine: Engine) -> None:
    applied(engine, SMALL_CATALOG, deduct(30, "d", "ann"), now=NOW)  # rejected: nothing opens accounts
    first, other = replies(engine, deduct(30, "d", "ann"), deduct(30, "d", "bob"))
    assert (first["code"], other["code"]) == ("account_not_found", "reference_conflict")
    with engine.connect() as connection:
        assert connection.execute(select(accounts)).all() == []


def test_batch_of_users_who_have_accounts_inserts_none(engine: Engine) -> None:
    users = [f"u{number}" for number in range(20)]
    replies(engine, *(deduct(1, f"first-{user}", user) for user in users))
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
    replies(engine, *(deduct(1, f"second-{user}", user) for user in users))
    assert not [sql for sql in statements if "INSERT INTO accounts" in sql or "lock_accounts_insert" in sql]


def test_rejected_first_command_leaves_an_account_that_is_shown_with_its_allocation(engine: Engine) -> None:
    replies(engine, deduct(500, "poor", "ann"))
    reader = Reader(engine)
    assert reader.balance("ann", NOW, CATALOG).available == 80
    assert audit(engine).is_clean
    replies(engine, SettleAccount(reference_id="due", user_id="ann"))
    assert reader.balance("ann", NOW, CATALOG).available == 80
    assert audit(engine).is_clean


def test_look_back_shows_the_account_as_it_was_opened(engine: Engine) -> None:
    moments = [NOW, NOW + DAY, NOW + 2 * DAY, NOW + 40 * DAY]
    reader, shown = Reader(engine), []
    steps: list[Command] = [
        deduct(500, "poor", "ann"),
        bonus(5, "b", "ann"),
        ChangeSubscription(reference_id="c", user_id="ann", tier="pro"),
        deduct(1, "d", "ann"),
    ]
    for moment, command in zip(moments, steps, strict=True):
        replies(engine, command, now=moment)
        shown.append(reader.balance("ann", moment, CATALOG))
    assert [balance.balance for balance in shown] == [80, 85, 255, 4]
    for moment, balance in zip(moments, shown, strict=True):
        assert reader.balance_at("ann", moment, CATALOG) == balance
    assert [balance.subscription.tier for balance in shown] == ["keeper", "keeper", "pro", "pro"]


def test_explanation_of_the_first_command_has_the_allocation_that_it_posted(engine: Engine) -> None:
    replies(engine, deduct(30, "d", "ann"))
    explanation = Reader(engine).explain("d", NOW, CATALOG)
    entries = [(entry.counter, entry.amount, entry.due_at) for entry in explanation.entries]
    assert entries == [("allocation", 80, NOW), ("usage", -30, None)]
    assert explanation.outcomes[0].detail["openedTier"] == "keeper"
    assert [lot.granted for lot in explanation.lots] == [80]


@pytest.mark.parametrize("form", [LedgerForm.ONE_SLOT])
def test_transactions_of_one_slot_open_accounts_too(postgres_engine: Engine, form: LedgerForm) -> None:
    ledger = Ledger(postgres_engine, form)
    commands: list[Command] = [deduct(5, f"d-{number}", f"u-{number}") for number in range(30)]
    commands.append(opening("o", "u-1"))
    codes = []
    for share in ledger.shares(commands):
        own = [command for _, command in share]
        with ledger.begin(own, NOW, auto_open="keeper") as transaction:
            plan = decide(own, transaction.known, NOW, CATALOG)
            transaction.write(plan)
        codes += [reply_for(*pair).code for pair in zip(own, plan.answers, strict=True)]
    assert sorted(codes) == ["account_exists", *["tokens_deducted"] * 30]
    assert audit(postgres_engine).is_clean


def test_open_tier_opens_where_the_catalog_opens_nothing(engine: Engine) -> None:
    command = DeductUsage(reference_id="d", user_id="ann", tokens=5, open_tier="pro")
    (answer,) = applied(engine, SMALL_CATALOG, command, now=NOW)
    assert reply_for(command, answer).opened_tier == "pro"
    assert audit(engine).is_clean
