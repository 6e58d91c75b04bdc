"""Replays, from the frozen set to what the ledger shows; on both dialects, interrupted in every way."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Connection, select

from schemas import SLOTS, BonusCredit, Command, DeadLetterReason, DeductUsage
from tests.deadletters.parts import NOW, Killed, World, came_of, deduct, failed, from_dead_queue
from tests.support.own_user import OWN_POLICY, OWN_USER
from worker.broker import BILLING, Delivery
from worker.core import decide
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.replay import dry_run, items, ledger_check
from worker.deadletters.replay import store as replays
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import (
    BrokerUnavailableError,
    LedgerUnavailableError,
    NotFoundError,
    NotKeptError,
    NotPossibleError,
    QueryError,
)
from worker.ledger.loading import Judged, judged_under, load
from worker.ledger.slots import slot_by_slot
from worker.ledger.tables import senders
from worker.messages.dead_letters import Failure, dead_letter_for


@pytest.fixture(autouse=True)
def _groups_are_true(world: World) -> Iterator[None]:
    """Assert after each test that groups match their dead letters, and a replay's counts its items."""
    yield
    assert world.service.drifts() == []
    for replay in world.service.replays().replays:
        items = world.service.replay_items(replay.number, limit=1_000).items
        counted = {state: sum(item.state == state for item in items) for state in replay.counts}
        assert replay.counts == counted


@pytest.fixture(autouse=True)
def _ann(world: World) -> None:
    world.open("ann")


# -- results ----------------------------------------------------------------------------------------------


def test_a_dead_letter_is_resolved_when_the_ledger_shows_its_outcome(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    ended = world.replay([number])
    assert (ended.state, came_of(ended)) == ("finished", {"applied": 1})
    assert world.status(number) == "resolved"
    assert world.kinds(number) == ["failed", "replayed", "resolved"]
    assert world.balance("ann") == 9_995
    (message,) = world.published
    assert message.properties == {"message_id": "m-r-1", "user_id": "operator"}
    assert message.headers == {
        "x-billing-replay": ended.number,
        "x-billing-replay-letter": number,
        "x-billing-sender": "",
    }


def test_a_refusal_is_an_outcome_too(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1", tokens=99_999))
    ended = world.replay([number])
    assert came_of(ended) == {"rejected": 1}
    assert world.status(number) == "resolved"
    assert world.service.details(number).events[-1].text == "rejected: insufficient_balance"


def test_a_dead_letter_that_was_only_published_is_not_resolved(world: World) -> None:
    world.has_worker = False
    (number,) = world.park_failed(deduct("r-1"))
    ended = world.replay([number], patience_s=60.0)  # longer than a lease
    assert (ended.state, came_of(ended)) == ("paused", {"sent": 1})
    assert ended.state_reason is not None
    assert "no outcome of 1 dead letter within 60 s; is a worker running?" in ended.state_reason
    assert world.status(number) == "replaying"
    world.has_worker = True
    assert came_of(world.run(ended.number)) == {"applied": 1}
    assert len(world.published) == 1, "it was sent, and is not sent again"


def test_replay_of_an_applied_command_is_a_duplicate_and_moves_nothing(world: World) -> None:
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=5))
    (number,) = world.park_failed(deduct("r-1"))
    ended = world.replay([number])
    assert came_of(ended) == {"duplicate": 1}
    assert world.status(number) == "resolved"
    assert world.balance("ann") == 9_995


def test_dry_run_shows_an_edit_that_makes_a_duplicate(
    world: World,
) -> None:
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=5))
    (number,) = world.park_failed(deduct("r-1", tokens=6))
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.code) == ("conflict", "reference_conflict")
    mended = json.dumps(deduct("r-1", tokens=5)).encode()
    before = world.service.dead_letter(number).body
    world.service.edit(number, mended, "the same as before", "eva", instead_of=before)
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.tokens) == ("duplicate", 0)
    assert came_of(world.replay([number])) == {"duplicate": 1}
    assert world.balance("ann") == 9_995
    assert world.service.dead_letter(number).body == before


def test_a_conflict_comes_back_and_says_so(world: World) -> None:
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=5))
    (number,) = world.park_failed(deduct("r-1", tokens=6))
    ended = world.replay([number])
    assert (ended.state, came_of(ended)) == ("finished", {"conflict": 1})
    dead_letter = world.service.dead_letter(number)
    assert (dead_letter.status, dead_letter.reason, dead_letter.attempts) == (
        "parked",
        "reference_conflict",
        2,
    )


def test_a_higher_attempt_is_not_settled_by_the_rejection_it_wants_judged_anew(world: World) -> None:
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=99_999))
    (number,) = world.park_failed(deduct("r-1", tokens=5, attempt=2))
    world.has_worker = False
    assert came_of(world.replay([number])) == {"sent": 1}
    world.has_worker = True
    assert came_of(world.run(1)) == {"applied": 1}


def test_replayed_payment_takes_its_reference_from_usage_that_moved_nothing(world: World) -> None:
    """Its dead letter is older than this rule; before, it was a conflict."""
    world.apply(DeductUsage(reference_id="pi_1", user_id="nobody", tokens=5))
    paid = {"packageId": "starter", "amountMinor": 499, "currency": "USD"}
    payment = {"type": "payment.succeeded", "referenceId": "pi_1", "userId": "ann", **paid}
    (number,) = world.park_failed(payment)
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.code) == ("apply", "tokens_purchased")
    world.has_worker = False
    assert came_of(world.replay([number])) == {"sent": 1}
    world.has_worker = True
    assert came_of(world.run(1)) == {"applied": 1}
    (line,) = world.service.details(number).ledger
    assert (line.type, line.status, line.agrees) == ("payment.succeeded", "applied", True)


def test_replayed_usage_that_lost_its_reference_has_its_old_outcome(world: World) -> None:
    squat = {**deduct("pi_1", tokens=5), "userId": "nobody"}
    world.apply(DeductUsage(reference_id="pi_1", user_id="nobody", tokens=5))
    world.apply(BonusCredit(reference_id="pi_1", user_id="ann", tokens=9))
    (number,) = world.park_failed(squat)
    (line,) = world.service.details(number).ledger
    assert (line.type, line.user_id, line.agrees) == ("usage.deduct", "nobody", True)
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.code) == ("duplicate", "account_not_found")
    assert came_of(world.replay([number])) == {"duplicate": 1}


def test_dry_run_shows_an_attempt_too_far_ahead(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1", tokens=5, attempt=1_001))
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.field) == ("conflict", "attempt")
    assert forecast.text == "its reference takes at most 1000 as its next attempt, not 1001"


def test_a_batch_is_resolved_when_all_its_items_have_outcomes(world: World) -> None:
    items = [deduct("i-1"), deduct("i-2", tokens=99_999), deduct("i-3")]
    batch = {"type": "usage.batch", "referenceId": "b-1", "userId": "ann", "items": items}
    (number,) = world.park_failed(batch)
    world.has_worker = False
    assert came_of(world.replay([number])) == {"sent": 1}
    world.apply(DeductUsage(reference_id="i-1", user_id="ann", tokens=5))
    assert world.service.tidy() == 0, "one of three"
    world.has_worker = True
    assert came_of(world.run(1)) == {"applied": 1}
    assert world.service.details(number).events[-1].text == "2 applied, 1 rejected"


def test_batch_with_a_malformed_item_comes_back_and_moves_nothing_again(world: World) -> None:
    batch = {"type": "usage.batch", "referenceId": "b-1", "userId": "ann", "items": [deduct("i-1"), 5]}
    world.apply(DeductUsage(reference_id="i-1", user_id="ann", tokens=5))
    (number,) = world.park_failed(batch)
    (forecast,) = world.service.dry_run([number]).forecasts
    assert (forecast.would, forecast.code, forecast.field) == ("malformed", "invalid_field", "items.#")
    assert forecast.text == "of its items 1 duplicate, 1 malformed"
    ended = world.replay([number])
    assert came_of(ended) == {"failed_again": 1}
    dead_letter = world.service.dead_letter(number)
    assert (dead_letter.status, dead_letter.reason, dead_letter.field) == (
        "parked",
        "invalid_field",
        "items.1",
    )


#: A body that is refused, and whose replay goes to the lane of its type.
TYPE_ALONE = b'{"type": "usage.deduct"}'

NOTICE = b'{"type": "balance.low", "id": "n-1", "userId": "ann", "referenceId": "r-1"}'


def refused_notice() -> Delivery:
    """Return the dead letter of a notice, as a worker writes it."""
    failure = Failure(DeadLetterReason.NOTICE_REFUSED, "full", type="balance.low")
    came = Delivery(NOTICE, "billing.events", "billing.events", "balance.low", 1)
    return from_dead_queue(dead_letter_for(came, failure, OWN_POLICY, tries=1, now=NOW))


def test_replayed_notice_is_delivered(world: World) -> None:
    (parked,) = world.park(refused_notice())
    assert world.service.dry_run([parked.number]).forecasts[0].would == "deliver"
    ended = world.replay([parked.number])
    assert came_of(ended) == {"delivered": 1}
    assert world.status(parked.number) == "resolved"
    assert [(each.exchange, each.routing_key) for each in world.published] == [
        ("billing.events", "balance.low")
    ]


@pytest.mark.parametrize("user", ["mallory", None])
def test_forged_notice_is_not_delivered(world: World, user: str | None) -> None:
    (parked,) = world.park(replace(refused_notice(), properties={"user_id": user}))
    assert world.service.dry_run([parked.number]).forecasts[0].would == "malformed"
    ended = world.replay([parked.number])
    assert came_of(ended) == {"unroutable": 1}
    assert world.published == []


@pytest.mark.parametrize(
    ("exchange", "key"), [("", "billing.dead"), ("other", "credit.bonus"), ("billing.events", "balance.low")]
)
def test_replay_goes_by_the_type_of_its_body_wherever_it_came_from(
    world: World, exchange: str, key: str
) -> None:
    (dead_letter,) = world.park(
        failed(json.dumps(deduct("r-1")).encode(), routing_key=key, exchange=exchange)
    )
    assert (dead_letter.exchange, dead_letter.routing_key) == (exchange, key)
    assert came_of(world.replay([dead_letter.number])) == {"applied": 1}
    assert [(each.exchange, each.routing_key) for each in world.published] == [("billing", "usage.deduct")]


def test_body_without_a_type_goes_nowhere(world: World) -> None:
    numbers = [each.number for each in world.park(failed(b"oops"), failed(b'{"type": "query.stats"}'))]
    assert came_of(world.replay(numbers)) == {"unroutable": 2}
    assert world.published == []
    details = [item.detail for item in world.service.replay_items(1, limit=5).items]
    assert details == [
        "its body has no type, which no exchange of commands takes: edit the body first",
        "its body has the type 'query.stats', which no exchange of commands takes: edit the body first",
    ]


RULES = {"usage.*": ["app", "operator"], "credit.*": ["operator"]}
BONUS = {"type": "credit.bonus", "referenceId": "b-1", "userId": "ann", "tokens": 1_000_000}


@pytest.mark.parametrize(
    ("body", "sender", "end"),
    [
        (deduct("r-1"), "app", "applied"),
        (deduct("r-1"), None, "failed_again"),
        (BONUS, "app", "failed_again"),
        (BONUS, "operator", "applied"),
    ],
)
@pytest.mark.parametrize("is_forged", [False, True], ids=["of a worker", "of unknown origin"])
def test_replay_gives_its_first_sender_no_right(
    world: World, body: dict[str, Any], sender: str | None, end: str, *, is_forged: bool
) -> None:
    """The operator may send both types: what he replays is still its first sender's."""
    world.policy = replace(OWN_POLICY, senders=RULES)
    came = failed(json.dumps(body).encode(), routing_key=body["type"], properties={"user_id": sender})
    if is_forged:
        came = replace(came, properties={"user_id": sender}, headers={"x-billing-reason": "unprocessable"})
    (dead_letter,) = world.park(came)
    assert (dead_letter.sender, dead_letter.is_origin_known) == (sender, not is_forged)
    assert came_of(world.replay([dead_letter.number])) == {end: 1}
    with world.engine.connect() as connection:
        names = [row.broker_user for row in connection.execute(select(senders.c.broker_user))]
    assert names == ([sender] if end == "applied" else [])


def test_a_dead_letter_without_a_route_stays_parked(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.unroutable = {"usage.deduct"}
    ended = world.replay([number])
    assert came_of(ended) == {"unroutable": 1}
    assert (world.status(number), world.kinds(number)[-1]) == ("parked", "returned")


def test_a_dead_letter_for_which_the_broker_closes_the_connection_holds_no_other_up(world: World) -> None:
    world.park(failed(TYPE_ALONE, exchange=BILLING.bulk_exchange))
    world.park_failed(deduct("r-1"), deduct("r-2"))
    world.gone = {BILLING.bulk_exchange}
    ended = world.replay(DeadLetterFilter())
    assert (ended.state, came_of(ended)) == ("finished", {"applied": 2, "unroutable": 1})


def test_dry_run_shows_a_fault_and_continues_with_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, bad, two = world.park_failed(deduct("r-1"), deduct("bad"), deduct("r-2"))

    def decided(commands: Sequence[Command], *rest: Any) -> Any:
        if any(command.reference_id == "bad" for command in commands):
            raise KeyError("a bug\nin two lines")
        return decide(commands, *rest)

    monkeypatch.setattr(dry_run, "decide", decided)
    judged = world.service.dry_run([one, bad, two])
    assert [dead_letter.would for dead_letter in judged.dead_letters] == ["apply", "fault", "apply"]
    assert (judged.dead_letters[1].code, judged.dead_letters[1].tokens) == ("unprocessable", 0)
    assert judged.dead_letters[1].text == "a worker would fail on it: KeyError: 'a bug\\nin two lines'"
    assert [(forecast.would, forecast.dead_letters) for forecast in judged.forecasts] == [
        ("apply", 2),
        ("fault", 1),
    ]


def test_no_more_than_a_thousand_commands_are_judged_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = world.park_failed(
        *(
            {
                "type": "usage.batch",
                "referenceId": f"b-{batch}",
                "userId": "ann",
                "items": [deduct(f"i-{batch}-{item}", tokens=1) for item in range(400)],
            }
            for batch in range(3)
        )
    )
    sizes: list[int] = []

    def loaded(connection: Any, commands: Sequence[Command], *others: Any, **named: Any) -> Any:
        sizes.append(len(commands))
        return load(connection, commands, *others, **named)

    monkeypatch.setattr(dry_run, "load", loaded)
    (forecast,) = world.service.dry_run(numbers).forecasts
    assert (forecast.would, forecast.dead_letters, forecast.tokens) == ("apply", 3, 1_200)
    assert sizes == [800, 400]


def test_dry_run_and_ledger_are_the_same_slot_by_slot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.open("ben", "eve")
    world.apply(
        DeductUsage(reference_id="known", user_id="ben", tokens=5),
        DeductUsage(reference_id="lost", user_id="nobody", tokens=5),
        DeductUsage(reference_id="squat", user_id="nobody", tokens=5),
        BonusCredit(reference_id="lost", user_id="eve", tokens=5),
        DeductUsage(reference_id="late", user_id="ben", tokens=50_000),
        DeductUsage(reference_id="late", user_id="ben", tokens=50_000, attempt=2),
    )
    bonus = {"type": "credit.bonus", "referenceId": "squat", "userId": "eve", "tokens": 5}
    items = [deduct("i-1"), deduct("i-2", user="ben"), deduct("known", user="ben")]
    numbers = world.park_failed(
        deduct("new", user="ben"),
        deduct("known", user="ben"),
        deduct("known"),
        deduct("lost", user="nobody"),
        bonus,
        deduct("late", tokens=50_000, user="ben"),
        {"type": "usage.batch", "referenceId": "b", "userId": "ann", "items": items},
    )
    by_slot = World(slot_by_slot(world.engine)).service
    judged = world.service.dry_run(numbers)
    assert [one.would for one in judged.dead_letters] == [
        *("apply", "duplicate", "conflict", "duplicate", "apply", "duplicate", "apply")
    ]
    looked_up: list[int | None] = []

    def counted(connection: Connection, references: Collection[str], slot: int | None) -> Judged:
        looked_up.append(slot)
        return judged_under(connection, references, slot)

    monkeypatch.setattr(ledger_check, "judged_under", counted)
    assert by_slot.dry_run(numbers) == judged
    assert looked_up == list(range(SLOTS))  # once, whatever the slots of the dead letters
    ledgers = [world.service.details(number).ledger for number in numbers]
    assert [by_slot.details(number).ledger for number in numbers] == ledgers
    assert all(ledgers)


# -- failing again ----------------------------------------------------------------------------------------


def test_a_dead_letter_that_fails_again_is_the_same_dead_letter_also_after_an_edit(world: World) -> None:
    (dead_letter,) = world.park(failed(b"oops", properties={"message_id": "m"}))
    world.service.edit(dead_letter.number, TYPE_ALONE, "a try", "eva", instead_of=b"oops", unchecked=True)
    ended = world.replay([dead_letter.number])
    assert came_of(ended) == {"failed_again": 1}
    (again,) = world.parked()
    assert (again.number, again.attempts, again.reason) == (dead_letter.number, 2, "missing_field")
    assert (again.body, again.edited_body) == (b"oops", TYPE_ALONE)
    assert world.kinds(dead_letter.number) == ["failed", "edited", "replayed", "failed_again"]
    (group,) = world.service.groups().groups
    assert (group.reason, group.waiting) == ("missing_field", 1)


def test_forged_replay_headers_make_a_dead_letter_of_their_own(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.has_worker = False
    replay = world.replay([number])
    said = {"x-billing-replay": replay.number, "x-billing-replay-letter": number}
    ours = {"user_id": OWN_USER}
    other, forged = world.park(
        failed(b"forged", headers=said, properties=ours),
        failed(b"else", headers={**said, "x": 1}, properties=ours),
    )
    assert number not in {other.number, forged.number}
    assert world.status(number) == "replaying", "with other bytes it is another letter"
    before = {"x-billing-replay": replay.number + 1, "x-billing-replay-letter": number}
    body = json.dumps(deduct("r-1")).encode()
    assert len(world.park(failed(body, headers=before, properties=ours))) == 3
    assert len(world.park(failed(body, headers=said, properties={"user_id": "mallory"}))) == 3, "one row"
    assert world.status(number) == "replaying", "headers of ours count from a worker user alone"


def test_a_second_copy_that_fails_is_the_same_dead_letter_too(world: World) -> None:
    (dead_letter,) = world.park(failed(b"oops"))
    world.service.edit(dead_letter.number, TYPE_ALONE, "a try", "eva", instead_of=b"oops", unchecked=True)
    world.replay([dead_letter.number])
    world.now += timedelta(seconds=5)
    world.queued = list(world.published)
    world.work()
    world.service.drain(world.dead)
    (again,) = world.parked()
    assert (again.number, again.attempts) == (dead_letter.number, 3)


# -- the set ----------------------------------------------------------------------------------------------


def test_the_set_is_frozen_when_it_is_asked_for(world: World) -> None:
    first = world.park_failed(deduct("r-1"), deduct("r-2"))
    created = world.service.create_replay(DeadLetterFilter(), "mended", "ann")
    world.park_failed(deduct("r-3"))
    ended = world.run(created.number)
    assert came_of(ended) == {"applied": 2}
    assert [item.number for item in world.service.replay_items(created.number).items] == first


def test_a_dead_letter_that_somebody_discarded_meanwhile_is_skipped_and_says_so(world: World) -> None:
    one, two = world.park_failed(deduct("r-1"), deduct("r-2"))
    created = world.service.create_replay([one, two], "mended", "ann")
    world.service.discard([one], "a test", "eva")
    ended = world.run(created.number)
    assert came_of(ended) == {"applied": 1, "skipped": 1}
    (item,) = world.service.replay_items(created.number, states=["skipped"]).items
    assert (item.number, item.detail) == (one, "is discarded: a test")
    assert world.status(one) == "discarded"


def test_a_dead_letter_is_under_way_in_one_replay_only(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.has_worker = False
    world.replay([number])
    second = world.replay([number])
    assert came_of(second) == {"skipped": 1}
    (item,) = world.service.replay_items(second.number).items
    assert item.detail == "is under way in replay 1"
    with pytest.raises(NotPossibleError, match="only a parked one can be edited"):
        world.service.edit(
            number, b"x", "x", "eva", instead_of=world.service.dead_letter(number).body, unchecked=True
        )


def test_a_set_of_nothing_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError, match="there is nothing to replay"):
        world.service.create_replay(DeadLetterFilter(code="none"), "x", "ann")
    with pytest.raises(NotFoundError, match="there is no dead letter 9"):
        world.service.create_replay([9], "x", "ann")
    (number,) = world.park_failed(deduct("r-1"))
    with pytest.raises(NotPossibleError, match="say why"):
        world.service.create_replay([number], " ", "ann")
    with pytest.raises(QueryError):
        world.service.create_replay([number], "x", "ann", rate=0)
    with pytest.raises(QueryError):
        world.service.create_replay([number], "x", "ann", steps=[0])
    assert world.service.replays().replays == ()


# -- steps and rate ---------------------------------------------------------------------------------------


def test_steps_grow_and_each_waits_for_its_outcomes(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(20)))
    sizes: list[int] = []
    seen = 0

    def look() -> None:
        nonlocal seen
        if len(world.published) > seen:
            sizes.append(len(world.published) - seen)
            seen = len(world.published)

    world.on_wait = look
    ended = world.replay(numbers, steps=[1, 5])
    assert came_of(ended) == {"applied": 20}
    assert sizes == [1, 5, 14]


def test_a_step_that_fails_stops_the_replay_and_an_operator_may_go_on(world: World) -> None:
    good = [deduct(f"r-{n}") for n in range(4)]
    numbers = world.park_failed(good[0], deduct("bad", tokenz=5), *good[1:])
    stopped = world.replay(numbers, steps=[1, 1, 1])
    assert (stopped.state, came_of(stopped)) == ("stopped", {"applied": 1, "failed_again": 1, "waiting": 3})
    assert stopped.state_reason is not None
    assert stopped.state_reason.startswith("step 2 of 4: 1 failed again")
    assert (stopped.step, stopped.steps_in_all) == (2, 4)
    ended = world.run(stopped.number)
    assert (ended.state, came_of(ended)) == ("finished", {"applied": 4, "failed_again": 1})


def test_a_failure_while_nobody_ran_stops_it_too(world: World) -> None:
    numbers = world.park_failed(deduct("bad", tokenz=5), deduct("r-1"))
    world.has_worker = False
    paused = world.replay(numbers, steps=[1])
    assert came_of(paused) == {"sent": 1, "waiting": 1}
    world.has_worker = True
    world.work()
    world.service.drain(world.dead)
    stopped = world.run(paused.number)
    assert (stopped.state, came_of(stopped)) == ("stopped", {"failed_again": 1, "waiting": 1})


def test_without_steps_what_fails_stops_nobody(world: World) -> None:
    numbers = world.park_failed(deduct("bad", tokenz=5), *(deduct(f"r-{n}") for n in range(3)))
    assert came_of(world.replay(numbers)) == {"applied": 3, "failed_again": 1}


def test_a_rate_is_kept(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(100)))
    began = world.seconds
    assert came_of(world.replay(numbers, rate=50)) == {"applied": 100}
    assert 1.6 <= world.seconds - began <= 3


# -- interrupted ------------------------------------------------------------------------------------------


def _after(module: ModuleType, function: str) -> Callable[[pytest.MonkeyPatch, World], None]:
    def arm(patch: pytest.MonkeyPatch, _world: World) -> None:
        real = getattr(module, function)

        def kill(*arguments: object, **named: object) -> object:
            real(*arguments, **named)
            raise Killed

        patch.setattr(module, function, kill)

    return arm


def _before(module: ModuleType, function: str) -> Callable[[pytest.MonkeyPatch, World], None]:
    def arm(patch: pytest.MonkeyPatch, _world: World) -> None:
        def kill(*_: object, **__: object) -> object:
            raise Killed

        patch.setattr(module, function, kill)

    return arm


def _in_publish(patch: pytest.MonkeyPatch, world: World) -> None:
    def kill() -> None:
        raise Killed

    patch.setattr(world, "on_publish", kill)


KILLS = {
    "before anything is claimed": _before(items, "claim"),
    "claimed, not published": _after(items, "claim"),
    "before the broker has it": _in_publish,
    "published, not marked": _before(items, "mark_sent"),
    "marked": _after(items, "mark_sent"),
    "before it is ended": _before(items, "end_shown"),
    "ended": _after(items, "end_shown"),
    "before the end": _before(replays, "end_run"),
}


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
def test_replay_of_a_killed_runner_is_ended_by_another(
    kill: Callable[[pytest.MonkeyPatch, World], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = world.park_failed(deduct("bad", tokenz=5), *(deduct(f"r-{n}") for n in range(5)))
    created = world.service.create_replay(numbers, "mended", "ann")
    with monkeypatch.context() as patch:
        kill(patch, world)
        with pytest.raises(Killed):
            world.run(created.number, "the first")
    ended = world.run(created.number, "the second")
    assert (ended.state, came_of(ended)) == ("finished", {"applied": 5, "failed_again": 1})
    assert world.balance("ann") == 10_000 - 5 * 5, "each once"
    assert [dead_letter.number for dead_letter in world.parked()] == [numbers[0]]


def test_a_replay_that_is_being_run_is_nobody_elses(world: World) -> None:
    numbers = world.park_failed(deduct("r-1"))
    created = world.service.create_replay(numbers, "mended", "ann")

    def meanwhile() -> None:
        world.on_wait = lambda: None
        replays.lease(world.engine, world.now, created.number, "the first", "ann")

    replays.lease(world.engine, world.now, created.number, "the first", "ann")
    world.on_wait = meanwhile
    with pytest.raises(NotPossibleError, match="is being run by another process"):
        world.run(created.number, "the second")
    assert world.published == []


def test_a_replay_is_asked_to_rest_and_rests(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    created = world.service.create_replay(numbers, "mended", "ann", rate=1)

    def stop() -> None:
        world.is_stopped = len(world.published) == 2

    world.on_wait = stop
    paused = world.run(created.number)
    assert paused.state == "paused"
    assert paused.counts["waiting"] == 1
    world.is_stopped, world.on_wait = False, lambda: None
    assert came_of(world.run(created.number)) == {"applied": 3}


def test_another_process_lets_it_rest(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    created = world.service.create_replay(numbers, "mended", "ann", rate=1)
    paused_by: list[str] = []

    def pause() -> None:
        if not paused_by and world.published:
            paused_by.append("eva")
            world.service.pause_replay(created.number, "eva")

    world.on_wait = pause
    paused = world.run(created.number)
    assert (paused.state, paused.state_reason) == ("paused", "paused by eva")
    with pytest.raises(NotPossibleError, match="only a running one"):
        world.service.pause_replay(created.number, "eva")


def test_cancelled_replay_leaves_unsent_dead_letters_parked(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    world.has_worker = False
    paused = world.replay(numbers, steps=[1])
    cancelled = world.service.cancel_replay(paused.number, "eva", "a slip")
    assert (cancelled.state, came_of(cancelled)) == ("cancelled", {"sent": 1, "skipped": 2})
    assert [dead_letter.number for dead_letter in world.parked()] == numbers[1:]
    world.work()
    assert world.service.tidy() == 1, "what was sent ends as it ends"
    assert world.status(numbers[0]) == "resolved"
    with pytest.raises(NotPossibleError, match="nothing to go on with"):
        world.run(paused.number)


def test_canceled_replay_releases_a_claimed_dead_letter_that_was_not_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    created = world.service.create_replay([number], "mended", "ann")
    with monkeypatch.context() as patch:
        KILLS["claimed, not published"](patch, world)
        with pytest.raises(Killed):
            world.run(created.number)
    assert world.status(number) == "replaying"
    world.service.cancel_replay(created.number, "eva")
    assert world.status(number) == "parked"


def test_a_dead_letter_that_nobody_runs_any_more_is_restored_by_hand(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.has_worker = False
    paused = world.replay([number])
    assert world.service.restore([number], None, "eva").done == 1
    assert world.status(number) == "parked"
    assert came_of(world.service.replay(paused.number)) == {"skipped": 1}


def _killed_when_it_was_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """Kill a replay after it has sent a dead letter; return its number. The replay is still "running"."""
    (number,) = world.park_failed(deduct("r-1"))
    created = world.service.create_replay([number], "mended", "ann")
    world.has_worker = False
    with monkeypatch.context() as patch:
        _after(items, "mark_sent")(patch, world)
        with pytest.raises(Killed):
            world.run(created.number)
    assert world.service.replay(created.number).state == "running"
    return number


def test_dead_letter_sent_by_a_killed_replay_is_resolved_when_its_lease_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _killed_when_it_was_sent(world, monkeypatch)
    world.work()
    assert world.service.tidy() == 0, "its runner may live"
    world.now += replays.LEASE
    assert world.service.tidy() == 1
    assert world.status(number) == "resolved"


def test_a_dead_letter_of_a_killed_replay_is_restored_by_hand_when_its_lease_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _killed_when_it_was_sent(world, monkeypatch)
    assert world.service.restore([number], None, "ann").done == 0
    world.now += replays.LEASE
    assert world.service.restore([number], None, "ann").done == 1
    assert world.status(number) == "parked"


def test_killed_replay_is_shown_as_one_without_a_runner(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed_when_it_was_sent(world, monkeypatch)
    (killed,) = world.service.replays().replays
    assert (killed.state, came_of(killed)) == ("running", {"sent": 1})
    assert killed.has_runner(world.now)
    assert not killed.has_runner(world.now + replays.LEASE)


def test_sent_dead_letter_with_an_outcome_is_resolved_and_not_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has looked for its outcome since its runner was killed."""
    number = _killed_when_it_was_sent(world, monkeypatch)
    world.work()
    world.now += replays.LEASE
    restored = world.service.restore([number], None, "ann")
    assert (restored.done, restored.skipped, restored.entries) == (0, 1, ())
    assert world.status(number) == "resolved"
    assert came_of(world.service.replay(1)) == {"applied": 1}


def test_drain_ends_the_items_of_replays_that_nobody_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _killed_when_it_was_sent(world, monkeypatch)
    world.work()
    world.now += replays.LEASE
    assert world.service.drain(world.dead) == 0
    assert world.status(number) == "resolved"


def test_replays_that_rest_with_nothing_under_way_hide_none_that_has(world: World) -> None:
    old, *others = world.park_failed(*(deduct(f"r-{n}") for n in range(30)))
    world.has_worker = False
    assert came_of(world.replay([old])) == {"sent": 1}
    for number in others:
        cancelled = world.service.create_replay([number], "a mistake", "ann")
        world.service.cancel_replay(cancelled.number, "ann")
    world.work()
    assert world.service.tidy() == 1
    assert world.status(old) == "resolved"


def test_lost_messages_of_later_replays_hide_no_earlier_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.deadletters.replay.abandoned._PAGE", 2)
    world.has_worker = False
    old, *lost = world.park_failed(*(deduct(f"r-{n}") for n in range(6)))
    assert came_of(world.replay([old])) == {"sent": 1}
    waiting, world.queued = world.queued, []
    for number in lost:
        assert came_of(world.replay([number])) == {"sent": 1}
    world.queued = waiting
    world.work()
    assert world.service.tidy() == 1
    assert world.status(old) == "resolved"


def test_filter_restores_dead_letters_of_replays_that_nobody_runs(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    away, lost, _ = numbers
    world.has_worker = False
    world.service.discard([away], "a test", "ann")
    world.replay([lost])
    restored = world.service.restore(DeadLetterFilter(user_id="ann"), None, "eva")
    assert (set(restored.numbers), restored.skipped) == ({away, lost}, 0)
    assert {world.status(number) for number in numbers} == {"parked"}


def test_filter_that_asks_for_discarded_ones_restores_these_alone(world: World) -> None:
    away, lost = world.park_failed(deduct("r-1"), deduct("r-2"))
    world.has_worker = False
    world.service.discard([away], "a test", "ann")
    world.replay([lost])
    only = DeadLetterFilter(status=(DeadLetterStatus.DISCARDED,))
    assert world.service.restore(only, None, "eva").numbers == (away,)
    assert world.status(lost) == "replaying"


def test_a_dead_letter_that_cannot_be_kept_stops_no_replay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = world.park_failed(deduct("r-1"), deduct("r-2"))
    real = LinkDrainer.drain_all
    strange = iter([NotKeptError("1 dead letters can't be kept")])

    def drain_all(drainer: LinkDrainer, *arguments: Any, **named: Any) -> int:
        for error in strange:
            raise error
        return real(drainer, *arguments, **named)

    monkeypatch.setattr(LinkDrainer, "drain_all", drain_all)
    assert came_of(world.replay(numbers)) == {"applied": 2}
    assert world.troubles == ["1 dead letters can't be kept"]


def test_replay_without_a_first_link_is_not_leased(world: World) -> None:
    created = world.service.create_replay(world.park_failed(deduct("r-1")), "mended", "ann")
    world.is_broker_away = True
    with pytest.raises(BrokerUnavailableError):
        world.run(created.number)
    assert world.service.replay(created.number) == created
    world.is_broker_away = False
    assert came_of(world.run(created.number)) == {"applied": 1}


def test_an_outage_of_the_broker_is_waited_out(world: World) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    created = world.service.create_replay(numbers, "mended", "ann", rate=1)

    def come_and_go() -> None:
        world.is_broker_away = 0.5 < world.seconds < 30

    world.on_wait = come_and_go
    assert came_of(world.run(created.number)) == {"applied": 3}
    assert len([text for text in world.troubles if "waiting until it is back" in text]) == 1
    assert world.troubles[-1] == "it is back: going on"


def test_replay_into_a_full_queue_sends_again_and_then_pauses(world: World) -> None:
    numbers = world.park_failed(deduct("r-1"), deduct("r-2"))
    world.is_full = True
    paused = world.replay(numbers)
    assert (paused.state, came_of(paused)) == ("paused", {"sending": 2})
    assert paused.state_reason is not None
    assert "is the queue full?" in paused.state_reason
    assert len(world.troubles) == 1, "said once"
    world.is_full = False
    assert came_of(world.run(paused.number)) == {"applied": 2}


def test_an_outage_of_the_database_is_waited_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = world.park_failed(*(deduct(f"r-{n}") for n in range(3)))
    created = world.service.create_replay(numbers, "mended", "ann")
    real, failures = items.mark_sent, iter(range(4))

    def sometimes(*arguments: Any) -> None:
        if next(failures, None) is not None:
            raise LedgerUnavailableError("the database is away")
        real(*arguments)

    monkeypatch.setattr(items, "mark_sent", sometimes)
    assert came_of(world.run(created.number)) == {"applied": 3}
    assert world.balance("ann") == 9_985, "sent several times, applied once"
    assert len(world.troubles) == 2


# -- the log ----------------------------------------------------------------------------------------------


def test_activity_log_says_who_did_what_and_why(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.replay([number])
    entries = world.service.activity_log().entries
    assert [(entry.action, entry.subject, entry.actor) for entry in entries[::-1]] == [
        ("replay", "replay 1", "ann"),
        ("replay.start", "replay 1", "ann"),
        ("replay.finished", "replay 1", "ann"),
    ]
    assert entries[-1].reason == "mended"
    assert world.service.page(DeadLetterFilter(status=(DeadLetterStatus.RESOLVED,))).total == 1
