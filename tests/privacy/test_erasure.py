"""Erasure of a user: the id is nowhere, the ledger is proven as before, and nothing brings the user back."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Thread

import pytest
from sqlalchemy import Engine, func, select, text

from schemas import (
    AdjustCredit,
    BonusCredit,
    Command,
    DeductUsage,
    FreezeAccount,
    OpenAccount,
    SettleAccount,
    slot_of,
)
from tests.deadletters.parts import World
from tests.reversing.parts import ReverseWorld
from tests.support.apply_commands import applied
from tests.support.commands import payment, went_back
from tests.support.person_world import AFTER_ALL, OTHER, PERSON, commands_of, everything, fill, tables_with
from tests.support.strategies import SMALL_CATALOG
from tests.support.waiting import eventually
from worker.broker import BILLING, Outgoing
from worker.catalog import load_catalog
from worker.core import Answer, Decided, decide
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.store import groups
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import ConfigurationError, NotFoundError, NotPossibleError
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.erased_ids import digest_of
from worker.ledger.form import distribute
from worker.ledger.queries import snapshot
from worker.ledger.senders import Sender
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, catalogs, entries, erased_ids, operations
from worker.privacy.erasure import Erasure, erase, pseudonym_for
from worker.reversing import store

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ENDED = datetime(2026, 1, 1, tzinfo=UTC)
CATALOG = load_catalog()
OPENING = CATALOG.model_copy(update={"auto_open": "free"})


def erased(
    engine: Engine,
    user_id: str = PERSON,
    *,
    force: bool = True,
    dry_run: bool = False,
    reason: str = "request",
) -> Erasure:
    return erase(engine, NOW, user_id, reason=reason, actor="eve", force=force, dry_run=dry_run)


def codes(answers: Sequence[Answer]) -> list[str]:
    return [str(answer.outcome.code) for answer in answers if isinstance(answer, Decided)]


def entries_of(engine: Engine, user_id: str) -> list[tuple[int, ...]]:
    entry, account = entries.c, accounts.c
    statement = (
        select(entry.sequence, entry.amount, entry.balance_after, entry.lot)
        .join(accounts, (account.account_id == entry.account_id) & (account.slot == entry.slot))
        .where(account.user_id == user_id)
        .order_by(entry.sequence)
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement)]


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(operations)).scalar_one()


# -- a whole world ----------------------------------------------------------------------------------------


def assert_erased_from_a_world(engine: Engine, seed: int) -> None:
    days = fill(engine, seed)
    before = entries_of(engine, PERSON)
    assert {"accounts", "operations", "dead_letters", "audit_log", "senders"} <= tables_with(engine, PERSON)
    done = erased(engine)
    # References of others stay: they decide what counts once. Most worlds have none with the id.
    held = {row for _, row in everything(engine) if PERSON in row}
    assert bool(held) == bool(done.left + done.kept), held
    assert entries_of(engine, done.pseudonym) == before
    assert audit(engine).findings == ()
    with snapshot(engine) as connection:
        assert groups.drifts(connection) == []
    rows = sorted(everything(engine))
    late = [command for command in commands_of(days, PERSON) if command.type != "payment.named"]
    applied(engine, SMALL_CATALOG, *late, now=AFTER_ALL, sender=Sender("app", f"client-of-{PERSON}"))
    assert sorted(everything(engine)) == rows, "no late copy leaves a row"


@pytest.mark.parametrize("seed", [3, 8])
def test_erased_id_is_nowhere_and_the_ledger_is_as_true(postgres_engine: Engine, seed: int) -> None:
    assert_erased_from_a_world(postgres_engine, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 60))
def test_erased_id_is_nowhere_in_many_worlds(postgres_engine: Engine, seed: int) -> None:
    assert_erased_from_a_world(postgres_engine, seed)


def test_dry_run_counts_what_goes_and_changes_nothing(postgres_engine: Engine) -> None:
    fill(postgres_engine, 3)
    before = sorted(everything(postgres_engine))
    tried = erased(postgres_engine, dry_run=True)
    assert sorted(everything(postgres_engine)) == before
    done = erased(postgres_engine)
    assert (tried.rows, tried.is_done, done.is_done) == (done.rows, False, True)
    assert done.rows["accounts"] == 1
    assert done.rows["operations"] > 10


def test_rows_of_others_lose_the_id_and_nothing_else(postgres_engine: Engine) -> None:
    world = World(postgres_engine)
    world.open(PERSON, OTHER)
    gift = DeductUsage(
        reference_id="r-1",
        user_id=OTHER,
        tokens=1,
        metadata={"friend": PERSON, "kept": 7},
        description=PERSON,
    )
    applied(postgres_engine, CATALOG, gift)
    usage = {"type": "usage.deduct", "referenceId": "r-2", "userId": OTHER, "tokens": 1}
    (number,) = world.park_failed({**usage, "metadata": {"friend": PERSON}})
    done = erased(postgres_engine)
    assert tables_with(postgres_engine, PERSON) == set()
    with postgres_engine.connect() as connection:
        row = connection.execute(select(operations).where(operations.c.reference_id == "r-1")).one()
    assert (row.user_id, row.metadata, row.description) == (
        OTHER,
        {"friend": done.pseudonym, "kept": 7},
        done.pseudonym,
    )
    dead_letter = world.service.dead_letter(number)
    assert dead_letter.status == "parked"
    assert f'"friend": "{done.pseudonym}"'.encode() in dead_letter.body
    assert codes(applied(postgres_engine, CATALOG, gift)) == ["tokens_deducted"], "its first reply again"
    assert world.balance(OTHER) == 9_999


def test_reference_of_another_user_stays_and_is_counted(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON, OTHER)
    shared = DeductUsage(reference_id=f"for:{PERSON}", user_id=OTHER, tokens=1)
    applied(postgres_engine, CATALOG, shared)
    assert erased(postgres_engine).left == 1
    (again,) = applied(postgres_engine, CATALOG, shared)
    assert isinstance(again, Decided)
    assert again.duplicate


def test_short_id_is_a_word_of_its_own(postgres_engine: Engine) -> None:
    world = World(postgres_engine)
    world.open("7", OTHER)
    own = [DeductUsage(reference_id=f"{name}", user_id="7", tokens=7) for name in ("job-7", "job-17", "7:a")]
    theirs = DeductUsage(reference_id="order-7", user_id=OTHER, tokens=7, metadata={"order": "7"})
    applied(postgres_engine, CATALOG, *own, theirs)
    pseudonym = erased(postgres_engine, "7").pseudonym
    with postgres_engine.connect() as connection:
        found = connection.execute(select(operations.c.reference_id, operations.c.user_id)).all()
        kept = connection.execute(
            select(operations.c.metadata).where(operations.c.reference_id == "order-7")
        ).scalar_one()
    assert {tuple(row) for row in found} == {
        (f"open-{pseudonym}", pseudonym),
        (f"job-{pseudonym}", pseudonym),
        ("job-17", pseudonym),
        (f"{pseudonym}:a", pseudonym),
        (f"open-{OTHER}", OTHER),
        ("order-7", OTHER),
    }
    assert kept == {"order": "7"}
    assert audit(postgres_engine).findings == ()


def test_short_id_goes_from_the_sets_of_its_charges_and_dead_letters(postgres_engine: Engine) -> None:
    reversing, world = ReverseWorld(postgres_engine, now=NOW), World(postgres_engine)
    world.open("bo", "eva")
    reversing.apply(
        *(DeductUsage(reference_id=f"job-{each}", user_id=each, tokens=7) for each in ("bo", "eva"))
    )
    assert reversing.reverse(user_id="bo").counts == {"reversed": 1}
    reversing.create(user_id="eva")
    usage = {"type": "usage.deduct", "referenceId": "lost", "userId": "bo", "tokens": 5}
    world.park_failed(usage)
    chosen = DeadLetterFilter(user_id="bo")
    world.service.edit_set(chosen, BodyChanges.read(sets=["description=for bo"]), "of bo", "ann")
    world.service.create_replay(chosen, "of bo", "ann")
    world.service.cancel_replay(1, "ann", "no")
    about_bo = re.compile(r"\bbo\b")
    held = {table for table, row in everything(postgres_engine) if about_bo.search(row)}
    assert {"reverse_runs", "replays", "dead_letter_set_edits", "audit_log"} <= held
    pseudonym = erased(postgres_engine, "bo").pseudonym
    assert [row for _, row in everything(postgres_engine) if about_bo.search(row)] == []
    first, second = (store.get(postgres_engine, number).source for number in (1, 2))
    assert (pseudonym in first, "eva" in second) == (True, True)
    assert audit(postgres_engine).findings == ()


def test_words_of_the_catalog_are_nobodys_id(postgres_engine: Engine) -> None:
    world = ReverseWorld(postgres_engine, now=NOW)
    world.apply(OpenAccount(reference_id="open-1", user_id="free_upload_bytes", tier="free"))
    erased(postgres_engine, "free_upload_bytes")
    with postgres_engine.connect() as connection:
        (content,) = connection.execute(select(catalogs.c.content)).scalars()
    assert content == world.catalog.content


@pytest.mark.parametrize("user", ['the "one" and\\only', "jürgen@straße", "a.b*c(d)[e]$^|?+"])
def test_id_of_any_characters_goes(postgres_engine: Engine, user: str) -> None:
    World(postgres_engine).open(user)
    texts = {"metadata": {"whose": user}, "description": user}
    freeze = FreezeAccount(reference_id=f"f:{user}", user_id=user, reason="review", **texts)
    applied(postgres_engine, CATALOG, freeze, DeductUsage(reference_id="r", user_id=user, tokens=1, **texts))
    erased(postgres_engine, user)
    assert tables_with(postgres_engine, user) == set()
    assert audit(postgres_engine).findings == ()


# -- afterwards -------------------------------------------------------------------------------------------


def test_erased_user_is_never_opened_again(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    erased(postgres_engine)
    rows = count(postgres_engine)
    commands: list[Command] = [
        DeductUsage(reference_id="late-1", user_id=PERSON, tokens=1),
        DeductUsage(reference_id="late-2", user_id=PERSON, tokens=1, open_tier="free"),
        payment(499, "USD", reference_id="late-3", user_id=PERSON, package_id="starter"),
        OpenAccount(reference_id=f"open-{PERSON}", user_id=PERSON, tier="free"),
        DeductUsage(reference_id="fresh", user_id="somebody-else", tokens=1),
    ]
    answers = applied(postgres_engine, OPENING, *commands)
    assert codes(answers) == ["account_not_found"] * 4 + ["tokens_deducted"]
    assert count(postgres_engine) == rows + 1, "the neighbour's alone"
    assert tables_with(postgres_engine, PERSON) == set()


def test_late_message_brings_back_neither_id_nor_application(
    postgres_url: str, postgres_engine: Engine
) -> None:
    World(postgres_engine).open(PERSON)
    erased(postgres_engine)
    fresh = ledger_engine(postgres_url)  # its connections know no sender yet
    world = World(fresh)
    body = json.dumps({"type": "usage.deduct", "referenceId": f"r:{PERSON}", "userId": PERSON, "tokens": 1})
    properties = {"message_id": f"m:{PERSON}", "app_id": f"client-of-{PERSON}"}
    world.queued.append(Outgoing(body.encode(), BILLING.exchange, "usage.deduct", properties))
    world.work()
    fresh.dispose()
    assert world.queued == []
    assert list(world.dead.waiting) == []
    assert tables_with(postgres_engine, PERSON) == set()


def test_refund_of_a_payment_goes_on_under_the_pseudonym(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    paid = payment(499, "USD", reference_id="pi_1", user_id=PERSON, package_id="starter")
    applied(postgres_engine, CATALOG, paid)
    erased(postgres_engine)
    back = went_back(499, "USD", reference_id="re_1", original_reference_id="pi_1", user_id=PERSON)
    assert codes(applied(postgres_engine, CATALOG, back)) == ["payment_refunded"]
    assert tables_with(postgres_engine, PERSON) == set()
    assert audit(postgres_engine).findings == ()


def test_refund_whose_reference_held_the_id_counts_once(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    paid = payment(499, "USD", reference_id="pi_1", user_id=PERSON, package_id="starter")
    back = went_back(99, "USD", reference_id=f"re:{PERSON}", original_reference_id="pi_1", user_id=None)
    assert codes(applied(postgres_engine, CATALOG, paid, back)) == ["tokens_purchased", "payment_refunded"]
    pseudonym = erased(postgres_engine).pseudonym
    before = entries_of(postgres_engine, pseudonym)
    assert codes(applied(postgres_engine, CATALOG, back)) == ["account_not_found"]
    assert entries_of(postgres_engine, pseudonym) == before


def test_second_erasure_takes_what_has_come_since(postgres_engine: Engine) -> None:
    world = World(postgres_engine)
    world.open(PERSON)
    erased(postgres_engine)
    world.park_failed({"type": "usage.deduct", "referenceId": "r", "userId": PERSON, "tokens": 1})
    assert tables_with(postgres_engine, PERSON) != set()
    again = erased(postgres_engine)
    assert not again.had_account
    assert tables_with(postgres_engine, PERSON) == set()
    assert erased(postgres_engine).rows == {}


def test_digest_says_nothing_of_the_pseudonym(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    erased(postgres_engine)
    with postgres_engine.connect() as connection:
        kept = connection.execute(select(erased_ids)).all()
    assert [tuple(row) for row in kept] == [(digest_of(PERSON),)]


def test_pseudonym_lies_in_the_slot_of_the_user() -> None:
    drawn = {pseudonym_for(f"user-{number}") for number in range(20)}
    assert len(drawn) == 20
    assert all(slot_of(pseudonym_for(user)) == slot_of(user) for user in ("ann", "jürgen", PERSON))


# -- beside a batch ---------------------------------------------------------------------------------------


def waits_for_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            ).scalar_one()
        )


def test_erasure_waits_for_a_batch_and_takes_what_it_wrote(
    postgres_url: str, postgres_engine: Engine
) -> None:
    World(postgres_engine).open(PERSON)
    usage = DeductUsage(reference_id=f"now:{PERSON}", user_id=PERSON, tokens=1)
    now = datetime.now(UTC)
    done: list[Erasure] = []
    with Ledger(postgres_engine).begin([usage], now) as transaction:
        plan = decide([usage], transaction.known, now, CATALOG)
        other = ledger_engine(postgres_url)
        eraser = Thread(target=lambda: done.append(erased(other)))
        eraser.start()
        eventually(lambda: waits_for_lock(postgres_engine))
        transaction.write(plan)
    eraser.join(30)
    other.dispose()
    assert tables_with(postgres_engine, PERSON) == set()
    assert len(entries_of(postgres_engine, done[0].pseudonym)) == 2


def test_batch_that_waits_for_an_erasure_finds_nobody(postgres_url: str, postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    usage = DeductUsage(reference_id=f"now:{PERSON}", user_id=PERSON, tokens=1, open_tier="free")
    answers: list[Answer] = []
    other = ledger_engine(postgres_url)
    with postgres_engine.connect() as connection, connection.begin():
        connection.execute(
            text("SELECT erase_user(:user, :new, 'eve')"), {"user": PERSON, "new": pseudonym_for(PERSON)}
        )
        batch = Thread(target=lambda: answers.extend(applied(other, OPENING, usage)))
        batch.start()
        eventually(lambda: waits_for_lock(other))
    batch.join(30)
    other.dispose()
    assert codes(answers) == ["account_not_found"]
    assert tables_with(postgres_engine, PERSON) == set()


# -- refused ----------------------------------------------------------------------------------------------


def test_account_that_goes_on_is_erased_by_force_alone(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    with pytest.raises(NotPossibleError, match=r"a balance of 10,000, a subscription .* --force"):
        erased(postgres_engine, force=False)
    assert erased(postgres_engine, force=True).had_account


def test_account_that_was_forced_goes_on_under_the_pseudonym(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    pseudonym = erased(postgres_engine).pseudonym
    look = SettleAccount(reference_id=f"due:{pseudonym}", user_id=pseudonym)
    assert codes(applied(postgres_engine, CATALOG, look, now=AFTER_ALL)) == ["account_settled"]
    assert len(entries_of(postgres_engine, pseudonym)) > 1, "its period ended, and others began"
    assert audit(postgres_engine).findings == ()


def come_to_rest(engine: Engine, *commands: Command, ends_at: datetime = ENDED) -> None:
    """Open the account of the person, apply ``commands``, take its balance, and end its subscription."""
    World(engine).open(PERSON)
    taken = AdjustCredit(reference_id="a", user_id=PERSON, tokens=-10_000, reason="it ends", actor="ann")
    applied(engine, CATALOG, *commands, taken)
    set_end(engine, ends_at)


def set_end(engine: Engine, ends_at: datetime | None) -> None:
    with engine.begin() as connection:
        connection.execute(accounts.update().values(ends_at=ends_at))


def test_account_at_rest_is_erased_without_force(postgres_engine: Engine) -> None:
    come_to_rest(postgres_engine)
    assert erased(postgres_engine, force=False).had_account
    with postgres_engine.connect() as connection:
        detail = connection.execute(
            select(operations.c.detail).where(operations.c.reference_id == "a")
        ).scalar_one()
    assert detail == {"actor": "ann", "reason": "erased"}


def test_account_that_ends_later_is_not_at_rest(postgres_engine: Engine) -> None:
    come_to_rest(postgres_engine, ends_at=datetime(2026, 11, 28, tzinfo=UTC))
    with pytest.raises(NotPossibleError, match="has a subscription that goes on: end it first"):
        erased(postgres_engine, force=False)


def test_account_whose_credit_takes_effect_later_is_not_at_rest(postgres_engine: Engine) -> None:
    in_years = datetime(2030, 1, 1, tzinfo=UTC)
    bonus = BonusCredit(reference_id="b", user_id=PERSON, tokens=5, effective_at=in_years)
    come_to_rest(postgres_engine, bonus)
    with pytest.raises(NotPossibleError, match="has credit that takes effect later: end it first"):
        erased(postgres_engine, force=False)


def test_account_that_goes_on_meanwhile_is_not_erased(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_to_rest(postgres_engine)

    def drawn(user_id: str) -> str:
        set_end(postgres_engine, None)  # between the first look and the lock
        return pseudonym_for(user_id)

    monkeypatch.setattr("worker.privacy.erasure.pseudonym_for", drawn)
    with pytest.raises(NotPossibleError, match="has a subscription that goes on: end it first"):
        erased(postgres_engine, force=False)
    assert "accounts" in tables_with(postgres_engine, PERSON)


def test_user_of_nothing_is_not_found(postgres_engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="nothing in the database"):
        erased(postgres_engine, "nobody-here")
    with postgres_engine.connect() as connection:
        assert connection.execute(select(erased_ids)).all() == []


def test_reason_must_not_name_the_user(postgres_engine: Engine) -> None:
    World(postgres_engine).open(PERSON)
    with pytest.raises(NotPossibleError, match="must not name the user"):
        erased(postgres_engine, reason=f"{PERSON} wants it")


def test_dead_letter_that_is_being_replayed_holds_the_erasure_up(postgres_engine: Engine) -> None:
    world = World(postgres_engine)
    world.open(PERSON)
    numbers = world.park_failed({"type": "usage.deduct", "referenceId": "r", "userId": PERSON, "tokens": 1})
    world.has_worker = False
    world.replay(numbers, patience_s=0.0)
    assert world.status(numbers[0]) == "replaying"
    with pytest.raises(NotPossibleError, match="is being replayed"):
        erased(postgres_engine)


def test_distributed_ledger_is_refused(postgres_engine: Engine) -> None:
    with postgres_engine.begin() as connection:
        assert distribute(connection)
    with pytest.raises(ConfigurationError, match="a distributed ledger can't be erased"):
        erased(postgres_engine)


def test_ledger_on_sqlite_is_refused(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        with pytest.raises(ConfigurationError, match="on PostgreSQL"):
            erased(engine)
    finally:
        engine.dispose()
