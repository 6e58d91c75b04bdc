"""Runs that reverse charges: frozen, resumable, exact beside other refunds; on both databases."""

from datetime import timedelta

import pytest

from schemas import DeadLetterReason, RecordUsage, RefundCredit
from tests.deadletters.parts import World as DeadLetters
from tests.deadletters.parts import failed
from tests.reversing.parts import ReverseWorld, states
from tests.support.commands import adjust, deduct, upload
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    NotFoundError,
    NotPossibleError,
    QueryError,
)
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.ledger.queries.cursors import cursor_of
from worker.messages.dead_letters import Failure
from worker.reversing import store
from worker.reversing.models import ChargeState, ReverseRequest, ReverseState
from worker.reversing.refunds import reference_of


def charge(world: ReverseWorld, count: int, tokens: int = 100) -> None:
    """Charge ada and bob in turn, ``count`` times."""
    world.apply(*(deduct(tokens, f"c-{n}", ("ada", "bob")[n % 2], feature="chat") for n in range(count)))


def refund(tokens: int, charge: str, reference_id: str = "by-hand", user_id: str = "ada") -> RefundCredit:
    return RefundCredit(
        reference_id=reference_id, user_id=user_id, tokens=tokens, original_reference_id=charge
    )


def overtake(world: ReverseWorld, command: RefundCredit) -> None:
    """Let ``command`` come to the worker before what a run has published."""
    first = iter([command])

    def apply_first() -> None:
        world.apply(*first)

    world.before_work = apply_first


def balances(world: ReverseWorld) -> list[int]:
    reader = Reader(world.engine)
    return [reader.balance(user, world.now, world.catalog).balance for user in ("ada", "bob")]


def test_run_gives_every_charge_back_once(world: ReverseWorld) -> None:
    before = balances(world)
    charge(world, 7)
    ended = world.reverse(feature="chat")
    assert (ended.state, ended.is_done, ended.tokens) == (ReverseState.FINISHED, True, 700)
    assert states(ended) == {"reversed": 7}
    assert balances(world) == before
    assert world.tokens_back == [100] * 7
    assert audit(world.engine).findings == ()


def test_refund_names_its_charge_run_and_reason_and_wants_no_reply(world: ReverseWorld) -> None:
    charge(world, 1)
    run = world.reverse(feature="chat")
    (sent,) = world.refunds
    assert sent == RefundCredit(
        reference_id="reverse:0:c-0",
        user_id="ada",
        tokens=100,
        original_reference_id="c-0",
        description="wrong price",
        metadata={"reverse_run": run.number},
        replies="none",
    )
    (message,) = world.link.published
    assert (message.routing_key, message.properties["app_id"]) == ("credit.refund", "billing-worker reverse")
    assert message.properties["user_id"] == "ops"


def test_second_run_of_the_same_filter_finds_nothing_to_reverse(world: ReverseWorld) -> None:
    charge(world, 3)
    world.reverse(feature="chat")
    again = world.survey(feature="chat")
    assert (again.charges, again.given_back, again.keys) == (3, 3, [])
    with pytest.raises(NotPossibleError, match="nothing to do"):
        world.create(feature="chat")


def test_two_runs_of_the_same_charges_give_them_back_once(world: ReverseWorld) -> None:
    charge(world, 4)
    first, second = world.create(feature="chat"), world.create(feature="chat")
    assert states(world.go_on(second)) == {"reversed": 4}
    ended = world.go_on(first)
    assert states(ended) == {"given_back_before": 4}
    assert (ended.is_done, ended.tokens, world.tokens_back) == (True, 0, [100] * 4)


def test_run_that_is_overtaken_behind_its_claim_counts_nothing_as_its_own(world: ReverseWorld) -> None:
    charge(world, 2)
    first, second = world.create(feature="chat"), world.create(feature="chat")
    store.claim(world.engine, world.now, first, 2)
    world.go_on(second)
    ended = world.go_on(first)
    assert states(ended) == {"given_back_before": 2}
    page = store.items(world.engine, first.number, (), 10, None)
    assert [item.detail for item in page.items] == [f"reverse run {second.number} was faster"] * 2
    assert [item.refund for item in page.items] == ["reverse:0:c-0", "reverse:0:c-1"]


@pytest.mark.parametrize("published", [0, 3, 5])
def test_killed_run_goes_on_and_gives_nothing_back_twice(world: ReverseWorld, published: int) -> None:
    charge(world, 5)
    run = world.create(feature="chat")
    world.is_away = True

    class KilledError(Exception):
        """End of the process in the middle of a publish."""

    def die() -> None:
        raise KilledError

    world.link.on_publish = die
    with pytest.raises(KilledError):
        world.go_on(run)
    world.link.on_publish = lambda: None
    claimed = store.sent_refunds(world.engine, run)
    assert len(claimed) == 5
    world.apply(*(one.command for one in claimed[:published]))  # they had reached a worker
    world.is_away = False
    ended = world.go_on(store.resume(world.engine, world.now, run.number, "bob"))
    assert (states(ended), world.tokens_back) == ({"reversed": 5}, [100] * 5)
    assert len(world.refunds) == 5 - published  # what has its result is not sent again


def test_charge_that_was_given_back_in_part_is_reversed_for_the_rest(world: ReverseWorld) -> None:
    charge(world, 2)
    world.apply(refund(30, "c-0"))
    found = world.survey(feature="chat")
    assert (found.sums, found.partly) == ((2, 170, 0), 1)
    ended = world.reverse(feature="chat")
    assert (states(ended), ended.tokens) == ({"reversed": 1, "rest_reversed": 1}, 170)
    assert [one.reference_id for one in world.refunds] == ["reverse:1:c-0", "reverse:0:c-1"]


def test_refund_by_hand_before_the_claim_leaves_the_rest(world: ReverseWorld) -> None:
    charge(world, 2)
    run = world.create(feature="chat")
    world.apply(refund(30, "c-0"), refund(100, "c-1", "by-hand-2", "bob"))
    assert states(world.go_on(run)) == {"rest_reversed": 1, "given_back_before": 1}
    assert world.tokens_back == [30, 100, 70]


@pytest.mark.parametrize(("by_hand", "end"), [(30, "rest_reversed"), (100, "given_back_before")])
def test_refund_by_hand_between_claim_and_worker_leaves_the_rest(
    world: ReverseWorld, by_hand: int, end: str
) -> None:
    charge(world, 1)
    overtake(world, refund(by_hand, "c-0"))
    ended = world.reverse(feature="chat")
    assert states(ended) == {end: 1}
    assert sum(world.tokens_back) == 100
    assert next(one.reference_id for one in world.refunds) == "reverse:0:c-0"
    assert audit(world.engine).findings == ()


def test_refund_that_was_rejected_is_asked_for_again_as_the_next_attempt(world: ReverseWorld) -> None:
    charge(world, 1)
    (sent,) = store.claim(world.engine, world.now, world.create(feature="chat"), 1).sent
    early = sent.command.model_copy(update={"original_reference_id": "c-later"})
    assert world.apply(early) == ["original_not_found"]
    assert states(world.reverse(feature="chat")) == {"reversed": 1}
    assert [one.attempt for one in world.refunds] == [2]


def test_reference_of_another_operation_is_no_refund(world: ReverseWorld) -> None:
    charge(world, 2)
    run = world.create(feature="chat")
    world.apply(adjust(5, reference_id="reverse:0:c-0", user_id="bob"))
    ended = world.go_on(run)
    assert (states(ended), ended.is_done) == ({"refused": 1, "reversed": 1}, False)
    (item,) = store.items(world.engine, run.number, (ChargeState.REFUSED,), 10, None).items
    assert "reference_conflict: reverse:0:c-0 is the reference of another operation" in (item.detail or "")
    assert [one.reference_id for one in world.refunds] == ["reverse:0:c-1"]


def test_refund_of_another_under_the_same_reference_leaves_the_rest(world: ReverseWorld) -> None:
    charge(world, 1)
    overtake(world, refund(1, "c-0", "reverse:0:c-0"))
    assert states(world.reverse(feature="chat")) == {"rest_reversed": 1}
    assert (world.tokens_back, world.refunds[-1].reference_id) == ([1, 99], "reverse:1:c-0")


def test_attempt_of_another_under_the_same_reference_is_passed(world: ReverseWorld) -> None:
    charge(world, 1)
    squatter = refund(1_000_000, "c-0", "reverse:0:c-0")
    assert world.apply(squatter) == ["refund_exceeds_original"]
    overtake(world, squatter.model_copy(update={"attempt": 2}))
    assert states(world.reverse(feature="chat")) == {"reversed": 1}
    assert (world.tokens_back, [one.attempt for one in world.refunds]) == ([100], [2, 3])


def test_free_units_go_back_beside_tokens(world: ReverseWorld) -> None:
    gibibyte = 1 << 30
    metered = RecordUsage(reference_id="m-0", user_id="ada", meter="upload", quantity=gibibyte)
    world.apply(upload(5_000, "up-0", "ada"), metered)
    found = world.survey(user_id="ada", types=frozenset({"usage.record", "usage.free_upload"}))
    assert (found.sums.charges, found.sums.free_quantity) == (2, 104_857_600)
    ended = world.reverse(user_id="ada")
    assert states(ended) == {"reversed": 2}
    items = {item.reference_id: item for item in store.items(world.engine, ended.number, (), 10, None).items}
    assert {name: item.free_quantity for name, item in items.items()} == {"up-0": 5_000, "m-0": 104_852_600}
    assert ended.tokens == items["m-0"].tokens == 9_241
    (quota,) = Reader(world.engine).balance("ada", world.now, world.catalog).quotas
    assert quota.used == 0


def test_long_and_old_references_have_a_reference_for_their_refund(world: ReverseWorld) -> None:
    long = "j" * 200
    world.apply(deduct(10, long, "ada"))
    assert states(world.reverse(reference_prefix="jjj")) == {"reversed": 1}
    assert world.refunds[0].reference_id == reference_of(long, 0)


# -- waits ------------------------------------------------------------------------------------------------


def test_rate_bounds_the_refunds_of_a_second(world: ReverseWorld) -> None:
    charge(world, 10)
    ended = world.reverse(rate=2.0, feature="chat")
    assert states(ended) == {"reversed": 10}
    assert world.passed_s == pytest.approx(10 / 2, abs=1)


def test_run_without_a_worker_rests_and_can_be_resumed(world: ReverseWorld) -> None:
    charge(world, 2)
    world.is_away = True
    rested = world.reverse(feature="chat")
    assert (rested.state, rested.open) == (ReverseState.OPEN, 2)
    assert "no result of 2 refunds within 60 s; is a worker running?" in (rested.state_reason or "")
    world.is_away = False
    ended = world.go_on(store.resume(world.engine, world.now, rested.number, "bob"))
    assert (states(ended), ended.state_reason) == ({"reversed": 2}, None)


@pytest.mark.parametrize(("failed_later_s", "state"), [(-3_600, "sent"), (1, "dead_letter")])
def test_dead_letter_ends_the_charge_whose_refund_it_is_and_none_sent_later(
    world: ReverseWorld, failed_later_s: float, state: str
) -> None:
    charge(world, 1)
    world.is_away = True
    run = world.go_on(world.create(feature="chat"), patience_s=0)
    (refund,) = world.link.published
    reason = Failure(DeadLetterReason.UNPROCESSABLE, "a bug", reference_id="reverse:0:c-0", user_id="ada")
    at = world.now + timedelta(seconds=failed_later_s)
    DeadLetters(world.engine).park(failed(refund.body, reason=reason, at=at))
    ended = world.go_on(store.resume(world.engine, world.now, run.number, "bob"), patience_s=0)
    assert states(ended) == {state: 1}
    assert len(world.refunds) == (2 if state == "sent" else 1), (
        "one that waits as a dead letter is not resent"
    )


def test_stop_lets_the_run_rest(world: ReverseWorld) -> None:
    charge(world, 2)
    world.is_away = True

    def stop() -> None:
        world.stop.requested = True

    world.link.on_publish = stop
    rested = world.reverse(feature="chat")
    assert (rested.state, rested.state_reason) == (ReverseState.OPEN, "it was asked to rest")


def test_outage_of_the_broker_is_waited_out(world: ReverseWorld) -> None:
    charge(world, 2)
    failures = iter([True, True, False, False, False])

    def fail() -> None:
        if next(failures, False):
            raise BrokerUnavailableError("gone")

    world.link.on_publish = fail
    assert states(world.reverse(feature="chat")) == {"reversed": 2}
    assert world.troubles == ["gone: waiting until it is back", "it is back: going on"]


def test_full_queue_is_waited_for(world: ReverseWorld) -> None:
    charge(world, 2)
    world.link.refusing = {"credit.refund"}

    def empty() -> None:
        world.link.refusing = set()

    world.before_work = empty
    assert states(world.reverse(feature="chat")) == {"reversed": 2}
    assert "is the queue full?" in world.troubles[0]


def test_broker_without_the_queue_names_the_way_out_and_the_run_goes_on_later(world: ReverseWorld) -> None:
    charge(world, 2)
    run = world.create(feature="chat")
    world.link.unroutable = {"credit.refund"}
    with pytest.raises(ConfigurationError, match="topology declare"):
        world.go_on(run)
    world.link.unroutable = set()
    assert states(world.go_on(run)) == {"reversed": 2}


# -- cancelling, and bad input ----------------------------------------------------------------------------


def test_cancelled_run_keeps_what_was_sent_and_sends_no_more(world: ReverseWorld) -> None:
    charge(world, 5)
    run = world.create(feature="chat")
    store.claim(world.engine, world.now, run, 2)
    cancelled = store.cancel(world.engine, world.now, run.number, "bob", "wrong filter")
    assert states(cancelled) == {"sent": 2, "cancelled": 3}
    ended = world.go_on(cancelled)
    assert (states(ended), ended.is_done) == ({"reversed": 2, "cancelled": 3}, False)
    with pytest.raises(NotPossibleError, match="finished already"):
        store.cancel(world.engine, world.now, run.number, "bob", "again")
    with pytest.raises(NotPossibleError, match="nothing to go on with"):
        store.resume(world.engine, world.now, run.number, "bob")


def test_run_that_is_cancelled_before_anything_was_sent_is_finished(world: ReverseWorld) -> None:
    charge(world, 2)
    run = world.create(feature="chat")
    ended = store.cancel(world.engine, world.now, run.number, "bob", "wrong filter")
    assert (ended.state, states(ended)) == (ReverseState.FINISHED, {"cancelled": 2})


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        (("wrong", "", None), NotPossibleError, "say who you are"),
        ((" ", "ann", None), NotPossibleError, "say why"),
        (("turned \u202e around", "ann", None), NotPossibleError, "description of a command"),
        (("wrong", "ann", 0.0), QueryError, "a rate is more than 0"),
        (("wrong", "ann", 1e9), QueryError, "at most 100000"),
    ],
)
def test_run_that_makes_no_sense_is_not_stored(
    world: ReverseWorld, asked: tuple[str, str, float | None], error: type[Exception], text: str
) -> None:
    charge(world, 1)
    keys = world.survey(feature="chat").keys
    reason, actor, rate = asked
    request = ReverseRequest(reason, actor, "all", rate)
    with pytest.raises(error, match=text):
        store.create(world.engine, world.now, keys, request)
    assert store.page(world.engine, 10, None).runs == ()


def test_unknown_run_and_bad_cursor_say_so(world: ReverseWorld) -> None:
    charge(world, 1)
    run = world.create(feature="chat")
    with pytest.raises(NotFoundError, match="no reverse run 99"):
        store.get(world.engine, 99)
    for cursor in ("x", "²-1", cursor_of(run.number, 1), cursor_of(run.number + 1, 1, 2)):
        with pytest.raises(QueryError, match="the cursor is none of this list's"):
            store.items(world.engine, run.number, (), 10, cursor)


def test_pages_of_runs_and_charges_go_on(world: ReverseWorld) -> None:
    charge(world, 3)
    first = world.create(feature="chat")
    second = world.create(feature="chat", user_id="ada")
    page = store.page(world.engine, 1, None)
    assert ([run.number for run in page.runs], page.next) == ([second.number], second.number)
    assert [run.number for run in store.page(world.engine, 1, page.next).runs] == [first.number]
    items = store.items(world.engine, first.number, (), 2, None)
    rest = store.items(world.engine, first.number, (), 2, items.next)
    assert [item.reference_id for item in (*items.items, *rest.items)] == ["c-0", "c-1", "c-2"]
    assert rest.next is None
