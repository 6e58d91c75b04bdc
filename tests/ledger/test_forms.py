"""Forms of a ledger: whole, one slot a transaction, distributed. All come to the same.

The distributed one runs on the stand-in, whose tables are partitioned by slot.
"""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, func, select

from schemas import Command, Malformed, commands_of, decode, slot_of
from tests.support.commands import bonus, deduct, importing, opening, payment, refund, went_back
from tests.support.forms import transacted
from tests.support.model import Model, predicted
from tests.support.partitioned_ledger import PARTITIONS
from tests.support.strategies import LIMITS, SMALL_CATALOG
from tests.support.touched_partitions import Touched, touched
from tests.support.waiting import eventually
from worker.catalog import Catalog, load_catalog
from worker.core import Answer, Conflict, decide, reply_for
from worker.demo.day import day_scenario
from worker.errors import ContentionError
from worker.ledger import other_slots
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm, distribute
from worker.ledger.references import ABANDONED_AFTER, AWAITED_FOR, Claims, UniqueKey
from worker.ledger.slots import slot_by_slot
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts, claims, entries, id_counters, lots, operations

NOW = datetime.fromisoformat("2026-11-26T12:00:00+00:00")
FORMS = list(LedgerForm)


@pytest.fixture(params=FORMS)
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """A ledger of each form."""
    form: LedgerForm = request.param
    name = "stand_in" if form is LedgerForm.DISTRIBUTED else "postgres_engine"
    return Ledger(request.getfixturevalue(name), form)


def replies(commands: Sequence[Command], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The replies, without the numbers that the ledger gives."""
    found = []
    for command, answer in zip(commands, answers, strict=True):
        reply = json.loads(reply_for(command, answer).to_json())
        reply.pop("transactionId", None)
        found.append(reply)
    return found


def apart(world: str, command: Command) -> Command:
    """The command with references and users of a world of its own."""
    changes = {"reference_id": f"{world}-{command.reference_id}", "user_id": f"{world}-{command.user_id}"}
    original = getattr(command, "original_reference_id", None)
    if original is not None:
        changes["original_reference_id"] = f"{world}-{original}"
    return command.model_copy(update=changes)


# -- a day ------------------------------------------------------------------------------------------------


def mixed_day(catalog: Catalog, messages: int) -> list[list[Command]]:
    """The commands of the demo's day, in batches that end with its phases."""
    batches = []
    for phase in day_scenario(random.Random(1), NOW, catalog, messages=messages).phases:
        decoded = [decode(message.body, now=NOW, limits=LIMITS) for message in phase.messages]
        commands = [c for one in decoded if not isinstance(one, Malformed) for c in commands_of(one)]
        batches += [commands[start : start + 250] for start in range(0, len(commands), 250)]
    return batches


def rows_of(engine: Engine) -> dict[str, list[Any]]:
    """The ledger's rows, without the numbers that it gives."""
    of_user = accounts.c.account_id, accounts.c.slot
    statements = {
        "accounts": select(accounts.c.user_id, accounts.c.balance, accounts.c.sequence, accounts.c.held),
        "operations": select(
            operations.c.reference_id,
            operations.c.is_taken,
            operations.c.code,
            operations.c.amount,
            operations.c.balance_after,
        ),
        **{
            table.name: select(accounts.c.user_id, *(table.c[name] for name in names)).where(
                table.c.account_id == of_user[0], table.c.slot == of_user[1]
            )
            for table, names in (
                (entries, ("sequence", "counter", "amount", "balance_after", "lot")),
                (lots, ("number", "source", "granted", "remaining", "held")),
            )
        },
    }
    with engine.connect() as connection:
        return {
            name: sorted(map(repr, connection.execute(statement))) for name, statement in statements.items()
        }


def test_day_comes_to_the_same_in_every_form_and_touches_one_partition(
    stand_in: Engine, postgres_url: str, sqlite_url: str
) -> None:
    catalog = load_catalog()
    batches = mixed_day(catalog, 700)
    engines = {
        LedgerForm.WHOLE: ledger_engine(sqlite_url),
        LedgerForm.ONE_SLOT: ledger_engine(postgres_url, only_by_key=True),
        LedgerForm.DISTRIBUTED: stand_in,
    }
    planned = Touched()
    event.listen(stand_in, "before_cursor_execute", planned.look)
    found: dict[LedgerForm, list[Any]] = {form: [] for form in FORMS}
    for form, engine in engines.items():
        ledger = Ledger(engine, form)
        for number, batch in enumerate(batches):
            now = NOW + timedelta(minutes=number)
            found[form] += replies(batch, transacted(ledger, batch, now, catalog))
    event.remove(stand_in, "before_cursor_execute", planned.look)
    whole = rows_of(engines[LedgerForm.WHOLE])
    for form in (LedgerForm.ONE_SLOT, LedgerForm.DISTRIBUTED):
        assert found[form] == found[LedgerForm.WHOLE]
        assert rows_of(engines[form]) == whole
    assert {reply["code"] for reply in found[LedgerForm.WHOLE]} >= {
        "tokens_deducted",
        "tokens_purchased",
        "hold_settled",
        "payment_refunded",
        "insufficient_balance",
    }
    assert planned.statements > 900
    assert planned.of_several == {}
    assert planned.mixed == []
    engines[LedgerForm.WHOLE].dispose()
    engines[LedgerForm.ONE_SLOT].dispose()


def test_statement_without_the_slot_is_seen_to_touch_all_partitions(stand_in: Engine) -> None:
    with touched(stand_in) as planned, stand_in.connect() as connection:
        connection.execute(select(operations.c.code).where(operations.c.reference_id == "r"))
    ((_, partitions),) = planned.of_several.items()
    assert len(partitions["operations"]) >= PARTITIONS


# -- references -------------------------------------------------------------------------------------------


def test_every_order_of_a_taken_reference_comes_to_what_the_model_says(ledger: Ledger) -> None:
    squat = deduct(5, user_id="nobody")
    messages: list[Command] = [
        squat,
        deduct(5, user_id="nobody", attempt=2),
        payment(1),
        payment(attempt=2),
        squat,
    ]
    for order in permutations(messages):
        model = Model(SMALL_CATALOG)
        own = uuid4().hex[:8]
        for command in (apart(own, one) for one in (opening(), *order)):
            (answer,) = transacted(ledger, [command], NOW, SMALL_CATALOG)
            (reply,) = replies([command], [answer])
            assert predicted(reply) == model.apply(command, NOW)


def test_reference_and_original_of_a_user_elsewhere_are_refused_alike(ledger: Ledger) -> None:
    own = uuid4().hex[:8]
    users = [f"u{number}" for number in range(8)]
    commands = [apart(own, opening(f"o-{user}", user)) for user in users]
    transacted(ledger, commands, NOW, SMALL_CATALOG)
    first = apart(own, deduct(5, user_id="u0"))
    paid = apart(own, payment(reference_id="p", user_id="u0"))
    transacted(ledger, [first, paid], NOW, SMALL_CATALOG)
    for user in users[1:]:
        (answer,) = transacted(ledger, [apart(own, deduct(5, user_id=user))], NOW, SMALL_CATALOG)
        assert answer == Conflict("userId", f"{own}-u0", f"{own}-{user}")
        named = [apart(own, refund(1, "r", reference_id=f"f-{user}", user_id=user))]
        named.append(apart(own, went_back(1, reference_id=f"w-{user}", user_id=user)))
        answered = replies(named, transacted(ledger, named, NOW, SMALL_CATALOG))
        assert [reply["code"] for reply in answered] == ["original_not_found", "payment_refunded"]
        assert answered[1]["userId"] == f"{own}-u0", "the payment knows whose it is"


def test_attempt_that_is_too_far_ahead_keeps_nobody_from_the_reference(ledger: Ledger) -> None:
    own, other = two_users()
    transacted(ledger, [apart(own, opening())], NOW, SMALL_CATALOG)
    (answer,) = transacted(ledger, [apart(own, deduct(5, user_id=other, attempt=2_000))], NOW, SMALL_CATALOG)
    assert answer == Conflict("attempt", "at most 1000", "2000")
    paid = apart(own, payment())
    (answer,) = transacted(ledger, [paid], NOW, SMALL_CATALOG)
    assert replies([paid], [answer])[0]["code"] == "tokens_purchased"


def test_attempt_of_a_taker_is_at_most_a_thousand_above_the_loser(ledger: Ledger) -> None:
    own, other = two_users()
    transacted(ledger, [apart(own, opening())], NOW, SMALL_CATALOG)
    for attempt in (1, 1_000):
        transacted(ledger, [apart(own, deduct(5, user_id=other, attempt=attempt))], NOW, SMALL_CATALOG)
    for attempt, code in ((2_001, "reference_conflict"), (2_000, "tokens_purchased")):
        paid = apart(own, payment(attempt=attempt))
        (answer,) = transacted(ledger, [paid], NOW, SMALL_CATALOG)
        assert replies([paid], [answer])[0]["code"] == code


def test_usage_and_payment_in_one_batch_are_judged_in_their_order(ledger: Ledger) -> None:
    own, other = two_users()
    transacted(ledger, [apart(own, opening())], NOW, SMALL_CATALOG)
    transacted(ledger, [apart(own, deduct(5, user_id=other))], NOW, SMALL_CATALOG)
    batch = [apart(own, deduct(6)), apart(own, payment()), apart(own, deduct(200, "later"))]
    answers = transacted(ledger, batch, NOW, SMALL_CATALOG)
    assert answers[0] == Conflict("userId", f"{own}-{other}", f"{own}-u")
    codes = [reply["code"] for reply in replies(batch[1:], answers[1:])]
    assert codes == ["tokens_purchased", "tokens_deducted"]


# -- crashes between the steps of a distributed ledger ----------------------------------------------------


class BrokenOffError(Exception):
    """End of a worker between two steps."""


def _old_payment(reference: str) -> dict[str, Any]:
    return {
        "referenceId": reference,
        "amountMinor": 999,
        "currency": "EUR",
        "packageId": "gone",
        "tokens": 90,
        "paidAt": "2026-11-10T00:00:00Z",
    }


def test_import_with_payments_is_one_in_every_form(ledger: Ledger) -> None:
    first, second = (f"{word}-{uuid4().hex[:8]}" for word in ("first", "second"))
    old, squatted, taken = (f"old-{uuid4().hex[:8]}" for _ in range(3))
    commands: list[Command] = [
        deduct(5, squatted, f"squatter-{uuid4().hex[:8]}"),
        importing(first, payments=[_old_payment(old), _old_payment(squatted)]),
        importing(second, payments=[_old_payment(old)]),
        importing(second, referenceId=f"{second}-again", payments=[_old_payment(taken)]),
        importing(second, referenceId=f"{second}-late", payments=[_old_payment(f"{taken}-late")]),
        payment(reference_id=old, user_id=first),
        went_back(999, reference_id=f"{old}-back", user_id=first, original_reference_id=old),
    ]
    expected = [
        "account_not_found",
        "account_imported",
        "reference_taken",
        "account_imported",
        "account_exists",
        "reference_conflict",
        "payment_refunded",
    ]
    for batch in ([[command] for command in commands], [commands]):
        answers = [answer for one in batch for answer in transacted(ledger, one, NOW, SMALL_CATALOG)]
        replied = replies([command for one in batch for command in one], answers)
        assert [reply["code"] for reply in replied] == expected


@pytest.fixture
def distributed(stand_in: Engine) -> Ledger:
    return Ledger(stand_in, LedgerForm.DISTRIBUTED)


def two_users() -> tuple[str, str]:
    """A world, and the number of a user in it who is in another slot than ``u``."""
    own = uuid4().hex[:8]
    slot = slot_of(f"{own}-u")
    return own, next(f"v{n}" for n in range(100) if slot_of(f"{own}-v{n}") != slot)


def crash_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> None:
    """Crash once before or after ``owner.name``."""
    original = getattr(owner, name)

    def crash(*arguments: Any, **named: Any) -> Any:
        if after:
            original(*arguments, **named)
        monkeypatch.setattr(owner, name, original)
        raise BrokenOffError

    monkeypatch.setattr(owner, name, crash)


def in_slots_of(engine: Engine, reference_id: str) -> list[tuple[str, bool]]:
    """The users of the operations with this reference, and whether it was taken from them."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(operations.c.user_id, operations.c.is_taken)
            .where(operations.c.reference_id == reference_id)
            .order_by(operations.c.is_taken.desc())
        )
        return [(row.user_id, row.is_taken) for row in rows]


def claim_of(engine: Engine, reference_id: str) -> tuple[str, str | None] | None:
    with engine.connect() as connection:
        row = connection.execute(
            select(claims.c.user_id, claims.c.taken_from).where(claims.c.reference_id == reference_id)
        ).one_or_none()
        return None if row is None else (row.user_id, row.taken_from)


def test_crash_after_the_claim_leaves_a_claim_and_the_message_that_comes_again(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = two_users()
    transacted(distributed, [apart(own, opening())], NOW, SMALL_CATALOG)
    command = apart(own, deduct(5))
    crash_at(monkeypatch, other_slots.OtherSlots, "judged", after=True)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [command], NOW, SMALL_CATALOG)
    assert (claim_of(stand_in, command.reference_id), in_slots_of(stand_in, command.reference_id)) == (
        (command.user_id, None),
        [],
    )
    found = audit(stand_in, claims_before=NOW + timedelta(hours=1))
    assert found.found == {"claim_without_outcome": 1}
    (answer,) = transacted(distributed, [command], NOW, SMALL_CATALOG)
    assert replies([command], [answer])[0]["code"] == "tokens_deducted"


@pytest.mark.parametrize("step", ["marked", "bound"])
@pytest.mark.parametrize("next_one", ["taker", "loser"])
def test_crash_while_a_reference_is_taken_leaves_it_to_the_taker(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch, step: str, next_one: str
) -> None:
    own, other = two_users()
    transacted(distributed, [apart(own, opening())], NOW, SMALL_CATALOG)
    squat, paid = apart(own, deduct(5, user_id=other)), apart(own, payment())
    (lost,) = transacted(distributed, [squat], NOW, SMALL_CATALOG)
    if step == "marked":
        crash_at(monkeypatch, Claims, "take", after=False)
    else:
        crash_at(monkeypatch, other_slots.OtherSlots, "_take", after=True)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [paid], NOW, SMALL_CATALOG)
    assert in_slots_of(stand_in, paid.reference_id) == [(squat.user_id, True)]
    order = [paid, squat] if next_one == "taker" else [squat, paid, squat]
    answers = [transacted(distributed, [command], NOW, SMALL_CATALOG)[0] for command in order]
    codes = [reply["code"] for reply in replies(order, answers)]
    assert codes == [
        "tokens_purchased" if command is paid else replies([squat], [lost])[0]["code"] for command in order
    ]
    anew = squat.model_copy(update={"attempt": 2})
    (late,) = transacted(distributed, [anew], NOW, SMALL_CATALOG)
    assert isinstance(late, Conflict)
    assert in_slots_of(stand_in, paid.reference_id) == [(squat.user_id, True), (paid.user_id, False)]
    assert claim_of(stand_in, paid.reference_id) == (paid.user_id, squat.user_id)


def test_new_attempt_of_a_usage_that_is_being_taken_moves_nothing(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_users()
    users = [apart(own, opening()), apart(own, opening("o-v", other))]
    transacted(distributed, users, NOW, SMALL_CATALOG)
    poor, paid = apart(own, deduct(5_000, user_id=other)), apart(own, payment())
    transacted(distributed, [poor], NOW, SMALL_CATALOG)
    crash_at(monkeypatch, Claims, "take", after=False)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [paid], NOW, SMALL_CATALOG)
    anew = apart(own, deduct(5, user_id=other, attempt=2))
    (answer,) = transacted(distributed, [anew], NOW, SMALL_CATALOG)
    assert isinstance(answer, Conflict)
    (answer,) = transacted(distributed, [paid], NOW, SMALL_CATALOG)
    assert replies([paid], [answer])[0]["code"] == "tokens_purchased"


def test_usage_that_is_judged_anew_while_it_is_taken_is_contention(
    distributed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_users()
    users = [apart(own, opening()), apart(own, opening("o-v", other))]
    transacted(distributed, users, NOW, SMALL_CATALOG)
    poor, paid = apart(own, deduct(5_000, user_id=other)), apart(own, payment())
    transacted(distributed, [poor], NOW, SMALL_CATALOG)
    original = other_slots._mark

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(other_slots, "_mark", original)
        transacted(distributed, [apart(own, deduct(5, user_id=other, attempt=2))], NOW, SMALL_CATALOG)
        original(*arguments)

    monkeypatch.setattr(other_slots, "_mark", late)
    with pytest.raises(ContentionError):
        transacted(distributed, [paid], NOW, SMALL_CATALOG)
    (answer,) = transacted(distributed, [paid], NOW, SMALL_CATALOG)
    assert isinstance(answer, Conflict)


def test_abandoned_claim_is_taken_once_it_is_old(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_users()
    transacted(distributed, [apart(own, opening())], NOW, SMALL_CATALOG)
    lost, paid = apart(own, deduct(5, user_id=other)), apart(own, payment())
    crash_at(monkeypatch, other_slots.OtherSlots, "judged", after=True)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [lost], NOW, SMALL_CATALOG)
    with pytest.raises(ContentionError, match="is to come"):
        transacted(distributed, [paid], NOW, SMALL_CATALOG)
    (answer,) = transacted(distributed, [paid], NOW + AWAITED_FOR, SMALL_CATALOG)
    assert answer == Conflict("userId", lost.user_id, paid.user_id)
    later = NOW + ABANDONED_AFTER + timedelta(seconds=1)
    (answer,) = transacted(distributed, [paid], later, SMALL_CATALOG)
    assert replies([paid], [answer])[0]["code"] == "tokens_purchased"
    assert claim_of(stand_in, paid.reference_id) == (paid.user_id, lost.user_id)
    (late,) = transacted(distributed, [lost], later, SMALL_CATALOG)
    assert isinstance(late, Conflict)


def in_slot(own: str, slot: int, *, but: str) -> str:
    """Return the number of a user of ``slot`` other than ``but``."""
    return next(f"s{n}" for n in range(10_000) if slot_of(f"{own}-s{n}") == slot and f"s{n}" != but)


@pytest.mark.parametrize("step", ["marked", "bound"])
@pytest.mark.parametrize("form", [LedgerForm.ONE_SLOT, LedgerForm.DISTRIBUTED])
@pytest.mark.parametrize("place", ["the loser's slot", "a third slot"])
def test_reference_that_is_being_taken_goes_to_no_other_usage_and_stops_none(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, form: LedgerForm, step: str, place: str
) -> None:
    is_distributed = form is LedgerForm.DISTRIBUTED
    ledger = Ledger(request.getfixturevalue("stand_in" if is_distributed else "postgres_engine"), form)
    own, other = two_users()
    slots = [slot_of(f"{own}-{user}") for user in ("u", other)]
    slot = slots[1] if place == "the loser's slot" else next(n for n in range(3) if n not in slots)
    transacted(ledger, [apart(own, opening())], NOW, SMALL_CATALOG)
    paid = apart(own, payment())
    transacted(ledger, [apart(own, deduct(5, user_id=other))], NOW, SMALL_CATALOG)
    if step == "marked":
        crash_at(monkeypatch, Claims if is_distributed else UniqueKey, "take", after=False)
    else:
        crash_at(monkeypatch, other_slots.OtherSlots, "_take", after=True)
    with pytest.raises(BrokenOffError):
        transacted(ledger, [paid], NOW, SMALL_CATALOG)
    stranger = apart(own, deduct(5, user_id=in_slot(own, slot, but=other)))
    (answer,) = transacted(ledger, [stranger], NOW, SMALL_CATALOG)
    assert isinstance(answer, Conflict)
    usage_first = [apart(own, deduct(6)), paid] if step == "marked" and is_distributed else [paid]
    *refused, answer = transacted(ledger, usage_first, NOW, SMALL_CATALOG)
    assert all(isinstance(one, Conflict) for one in refused)
    assert replies([paid], [answer])[0]["code"] == "tokens_purchased"


def test_reference_that_is_being_taken_may_go_to_a_taker_in_the_slot_of_the_loser(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_users()
    neighbour = in_slot(own, slot_of(f"{own}-{other}"), but=other)
    users = [apart(own, opening()), apart(own, opening("o-s", neighbour))]
    transacted(distributed, users, NOW, SMALL_CATALOG)
    transacted(distributed, [apart(own, deduct(5, user_id=other))], NOW, SMALL_CATALOG)
    crash_at(monkeypatch, Claims, "take", after=False)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [apart(own, payment())], NOW, SMALL_CATALOG)
    paid = apart(own, payment(user_id=neighbour))
    (answer,) = transacted(distributed, [paid], NOW, SMALL_CATALOG)
    assert replies([paid], [answer])[0]["code"] == "tokens_purchased"
    assert claim_of(stand_in, paid.reference_id) == (paid.user_id, f"{own}-{other}")


def test_attempts_of_one_batch_have_their_claim(distributed: Ledger, stand_in: Engine) -> None:
    own, _ = two_users()
    transacted(distributed, [apart(own, opening())], NOW, SMALL_CATALOG)
    batch = [apart(own, deduct(5, attempt=attempt)) for attempt in (2_000, 1)]
    refused, _ = transacted(distributed, batch, NOW, SMALL_CATALOG)
    assert isinstance(refused, Conflict)
    assert claim_of(stand_in, batch[0].reference_id) == (batch[0].user_id, None)


def test_old_claim_whose_user_comes_back_is_not_taken(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = two_users()
    users = [apart(own, opening()), apart(own, opening("o-v", other))]
    transacted(distributed, users, NOW, SMALL_CATALOG)
    late, paid = apart(own, deduct(5, user_id=other)), apart(own, payment())
    crash_at(monkeypatch, other_slots.OtherSlots, "judged", after=True)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [late], NOW, SMALL_CATALOG)
    later = NOW + ABANDONED_AFTER + timedelta(seconds=1)
    with distributed.begin([late], later) as transaction:
        with pytest.raises(ContentionError, match="is to come"):
            transacted(Ledger(stand_in, LedgerForm.DISTRIBUTED), [paid], later, SMALL_CATALOG)
        transaction.write(decide([late], transaction.known, later, SMALL_CATALOG))
    (answer,) = transacted(distributed, [paid], later, SMALL_CATALOG)
    assert isinstance(answer, Conflict)
    assert in_slots_of(stand_in, paid.reference_id) == [(late.user_id, False)]
    assert claim_of(stand_in, paid.reference_id) == (late.user_id, None)


def test_claim_keeps_out_other_users_of_its_slot(
    distributed: Ledger, stand_in: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = uuid4().hex[:8]
    neighbour = in_slot(own, slot_of(f"{own}-u"), but="u")
    users = [apart(own, opening()), apart(own, opening("o-s", neighbour))]
    transacted(distributed, users, NOW, SMALL_CATALOG)
    first, second = apart(own, deduct(5)), apart(own, deduct(5, user_id=neighbour))
    crash_at(monkeypatch, other_slots.OtherSlots, "judged", after=True)
    with pytest.raises(BrokenOffError):
        transacted(distributed, [first], NOW, SMALL_CATALOG)
    (answer,) = transacted(distributed, [second], NOW, SMALL_CATALOG)
    assert answer == Conflict("userId", first.user_id, second.user_id)
    transacted(distributed, [first], NOW, SMALL_CATALOG)
    assert in_slots_of(stand_in, first.reference_id) == [(first.user_id, False)]


# -- becoming distributed ---------------------------------------------------------------------------------


def test_ledger_that_becomes_distributed_has_a_claim_for_every_reference(postgres_url: str) -> None:
    engine = ledger_engine(postgres_url)
    whole = Ledger(engine)
    commands: list[Command] = [
        opening(),
        deduct(5, user_id="nobody"),
        payment(),
        bonus(5, "b"),
        deduct(1, "d"),
    ]
    first = [transacted(whole, [command], NOW, SMALL_CATALOG)[0] for command in commands]
    with engine.begin() as connection:
        assert distribute(connection)
        assert not distribute(connection)
        assert connection.scalar(select(func.count()).select_from(claims)) == 4
    assert claim_of(engine, "r") == ("u", "nobody")
    distributed = Ledger(slot_by_slot(engine), LedgerForm.DISTRIBUTED)
    again = [transacted(distributed, [command], NOW, SMALL_CATALOG)[0] for command in commands]
    assert [reply | {"duplicate": True} for reply in replies(commands, first)] == replies(commands, again)
    (fresh,) = transacted(distributed, [deduct(1, "e")], NOW, SMALL_CATALOG)
    assert not isinstance(fresh, Conflict)
    numbers = [answer.outcome.transaction_id for answer in first if not isinstance(answer, Conflict)]
    assert fresh.outcome.transaction_id not in numbers
    assert audit(engine, one_slot=True, claims_before=NOW + timedelta(hours=1)).is_clean
    engine.dispose()


def test_operation_that_is_on_its_way_has_its_claim_too(postgres_engine: Engine) -> None:
    command = opening()
    with ThreadPoolExecutor(1) as threads:
        with Ledger(postgres_engine).begin([command], NOW) as transaction:
            transaction.write(decide([command], transaction.known, NOW, SMALL_CATALOG))
            distributing = threads.submit(distributed_now, postgres_engine)
            eventually(lambda: is_waiting_for_lock(postgres_engine))
        distributing.result(30)
    assert claim_of(postgres_engine, command.reference_id) == (command.user_id, None)


def distributed_now(engine: Engine) -> None:
    with engine.begin() as connection:
        distribute(connection)


def is_waiting_for_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
        return bool(connection.exec_driver_sql(waiting, (engine.url.database,)).scalar_one())


# -- ids --------------------------------------------------------------------------------------------------


def test_ids_are_given_once_whatever_the_forms_of_a_ledger(postgres_engine: Engine) -> None:
    users = 0
    for form, more in ((LedgerForm.WHOLE, 1), (LedgerForm.ONE_SLOT, 300), (LedgerForm.WHOLE, 3_000)):
        openings = [opening(f"o{number}", f"u{number}") for number in range(users, users + more)]
        transacted(Ledger(postgres_engine, form), openings, NOW, SMALL_CATALOG)
        users += more
    assert ids_given_twice(postgres_engine) == []


def test_new_connection_takes_ids_of_its_own(postgres_engine: Engine) -> None:
    ledger = Ledger(postgres_engine)
    transacted(ledger, [opening()], NOW, SMALL_CATALOG)
    with postgres_engine.begin() as connection:
        connection.execute(id_counters.update().values(next_id=1_000_000))  # as a server that was restored
    postgres_engine.dispose()  # as another user of the pool does that finds a broken connection
    (answer,) = transacted(ledger, [deduct(1)], NOW, SMALL_CATALOG)
    assert not isinstance(answer, Conflict)
    assert (answer.outcome.transaction_id or 0) > 1_000_000


def ids_given_twice(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return [
            row
            for column in (accounts.c.account_id, operations.c.operation_id)
            for row in connection.execute(select(column).group_by(column).having(func.count() > 1))
        ]


# -- one slot on SQLite -----------------------------------------------------------------------------------


def test_reference_is_taken_on_sqlite_in_the_transaction_of_its_slot(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 100"))
    commands: list[Command] = [opening(), deduct(5_000), payment()]
    answers = [transacted(Ledger(engine, LedgerForm.ONE_SLOT), [one], NOW, SMALL_CATALOG) for one in commands]
    assert replies(commands[2:], answers[2])[0]["code"] == "tokens_purchased"
    engine.dispose()
