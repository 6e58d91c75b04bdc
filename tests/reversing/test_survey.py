"""Surveys: what can be reversed, and what can't and why; nothing moves."""

from datetime import timedelta

import pytest

from schemas import ReserveUsage, SettleUsage
from tests.reversing.parts import ReverseWorld
from tests.support.commands import deduct, upload
from worker.errors import NotFoundError, QueryError
from worker.ledger.queries import Reader
from worker.ledger.senders import Sender
from worker.messages.policy import Policy


def test_survey_counts_what_matches_and_moves_nothing(world: ReverseWorld) -> None:
    app = Sender("app", "web")
    world.apply(deduct(100, "c-0", "ada", feature="chat"), deduct(50, "c-1", "bob"), sender=app)
    world.apply(deduct(10**9, "c-2", "ada"), deduct(0, "c-3", "ada"))
    before = Reader(world.engine).balance("ada", world.now, world.catalog).sequence
    found = world.survey()
    assert found.kinds == {
        ("account.open", "applied"): 2,
        ("credit.bonus", "applied"): 2,
        ("usage.deduct", "applied"): 3,
        ("usage.deduct", "rejected"): 1,
    }
    assert (found.matched, found.charges, found.judged, found.given_back) == (8, 3, 3, 1)
    assert found.sums == (2, 150, 0)
    assert dict(found.by_user) == {"ada": (1, 100, 0), "bob": (1, 50, 0)}
    assert dict(found.by_feature) == {"chat": (1, 100, 0), "none": (1, 50, 0)}
    assert dict(found.by_sender) == {"app (web)": (2, 150, 0)}
    assert [one.charge.usage.reference_id for one in found.samples] == ["c-0", "c-1"]
    assert Reader(world.engine).balance("ada", world.now, world.catalog).sequence == before


def test_captured_hold_is_a_charge_and_an_open_one_is_none(world: ReverseWorld) -> None:
    hold = {"user_id": "ada", "tokens": 80, "ttl_seconds": 3_600}
    world.apply(ReserveUsage(reference_id="h-0", **hold), ReserveUsage(reference_id="h-1", **hold))
    world.apply(SettleUsage(reference_id="s-0", user_id="ada", original_reference_id="h-0", tokens=60))
    found = world.survey(user_id="ada", since=world.now)
    assert (found.charges, found.sums) == (1, (1, 60, 0))
    ended = world.reverse(user_id="ada")
    assert ended.tokens == 60


def test_free_units_of_an_ended_period_can_not_go_back(world: ReverseWorld) -> None:
    world.apply(upload(5_000, "up-0", "ada"), deduct(5, "c-0", "ada"))
    world.now += timedelta(days=40)
    found = world.survey(user_id="ada")
    assert (found.sums.charges, dict(found.refused)) == (1, {"original_not_refundable": 1})
    (refused,) = found.refusals
    assert (refused.reference_id, refused.code) == ("up-0", "original_not_refundable")


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(senders={"credit.*": ["gateway"]}), "wrong_sender"),
        (Policy(senders={"credit.*": {"ops": "ops-"}}), "wrong_sender"),
    ],
)
def test_refunds_that_a_worker_would_refuse_are_none(world: ReverseWorld, policy: Policy, code: str) -> None:
    world.apply(deduct(5, "c-0", "ada"))
    world.policy = policy
    found = world.survey(user_id="ada")
    assert (found.keys, dict(found.refused)) == ([], {code: 1})


def test_filter_that_finds_nothing_says_so(world: ReverseWorld) -> None:
    with pytest.raises(NotFoundError, match="no operation matches"):
        world.survey(feature="nothing")
    with pytest.raises(NotFoundError, match="nobody"):
        world.survey(user_id="nobody")
    with pytest.raises(QueryError, match="nothing came from the sender 'ghost'"):
        world.survey(sender="ghost")


def test_stopped_survey_is_not_whole(world: ReverseWorld) -> None:
    world.apply(deduct(5, "c-0", "ada"))
    found = world.survey(user_id="ada")
    assert found.is_whole
    found.judged = 0
    assert not found.is_whole
