"""Ids from before the rule of new ids: what the ledger has goes on, what would be new is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Limits, Malformed, decode
from schemas.identifiers import IdRule
from tests.support.fakes import FakeLink, delivery
from tests.test_pipeline import NOW, make_pipeline, process
from worker.bootstrap import Application
from worker.catalog import Catalog
from worker.errors import LedgerUnavailableError
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.messages.known_ids import has_unruly_ids, received
from worker.messages.policy import Policy
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.settings import load_settings

NFD = "zoe\u0308"
BEFORE = Policy(limits=Limits(ids=None))


def deduct(user: str = NFD, reference: str = "d-1", **more: Any) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": user, "tokens": 5, **more}


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def ruled(engine: Engine, catalog: Catalog) -> Pipeline:
    """Pipeline with the rule, over a ledger that has a user, a reference and a payment from before it."""
    earlier = make_pipeline(engine, catalog, Metrics(), BEFORE)
    paid = {"type": "payment.succeeded", "referenceId": "pi_1", "userId": "ada", "packageIndex": 0}
    process(
        earlier,
        delivery({"type": "account.open", "referenceId": "open-1", "userId": NFD, "tier": "free"}),
        delivery({"type": "account.open", "referenceId": "open-2", "userId": "ada", "tier": "free"}),
        delivery(deduct("ada", f"page-{NFD}")),
        delivery({**paid, "amountMinor": 499, "currency": "USD", "alsoKnownAs": [f"ch-{NFD}"]}),
    )
    return make_pipeline(engine, catalog, Metrics(), Policy())


def said(link: FakeLink) -> list[tuple[str, str | None]]:
    return [(reply["code"], reply.get("reason")) for reply in link.replies]


def test_customer_of_before_is_charged_with_references_made_of_the_id(ruled: Pipeline) -> None:
    link = process(ruled, delivery(deduct(reference=f"page-7-{NFD}")))
    assert said(link) == [("tokens_deducted", None)]
    assert link.dead_letters == []


def test_new_look_alike_is_refused_and_disturbs_no_neighbour(ruled: Pipeline) -> None:
    good, bad = delivery(deduct("ada")), delivery(deduct("ada\u3164", "d-2"))
    assert said(process(ruled, bad, good)) == [("malformed", "invalid_id"), ("tokens_deducted", None)]


def test_redelivered_command_of_before_gets_its_first_reply(ruled: Pipeline) -> None:
    link = process(ruled, delivery(deduct("ada", f"page-{NFD}")))
    assert (link.replies[0]["code"], link.replies[0]["duplicate"]) == ("tokens_deducted", True)


def test_refund_names_a_payment_of_before(ruled: Pipeline) -> None:
    refund = {"type": "payment.refunded", "referenceId": "re_1", "originalReferenceId": f"ch-{NFD}"}
    link = process(ruled, delivery({**refund, "amountMinor": 499, "currency": "USD"}))
    assert said(link) == [("payment_refunded", None)]


def test_items_of_a_batch_are_admitted_one_by_one(ruled: Pipeline) -> None:
    items = [deduct("ada", "i-1"), deduct(NFD, "i-2"), deduct("a\u00a0b", "i-3")]
    link = process(ruled, delivery({"type": "usage.batch", "referenceId": "b", "items": items}))
    assert [item["code"] for item in link.replies[0]["items"]] == ["tokens_deducted"] * 2 + ["malformed"]


def test_pattern_that_comes_later_locks_nobody_out(engine: Engine, ruled: Pipeline, catalog: Catalog) -> None:
    policy = Policy(limits=Limits(ids=IdRule("[!-~]+")))
    narrowed = make_pipeline(engine, catalog, Metrics(), policy)
    assert said(process(narrowed, delivery(deduct()), delivery(deduct("zoë", "d-2")))) == [
        ("tokens_deducted", None),
        ("malformed", "invalid_id"),
    ]


def test_lane_that_is_paused_admits_a_customer_of_before(ruled: Pipeline) -> None:
    (item,) = ruled.receive([delivery(deduct())])
    assert ruled.try_alone(item)
    assert (item.failure, len(item.answers or ())) == (None, 1)


def test_outage_makes_no_dead_letter_of_a_customer_of_before(
    ruled: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = ruled.receive([delivery(deduct())])

    def down(*_: Any) -> frozenset[str]:
        raise LedgerUnavailableError("down")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "known_ids", down)
        with pytest.raises(LedgerUnavailableError):
            ruled.apply(items)
    ruled.apply(items)
    assert items[0].answers is not None


def test_good_ids_ask_the_ledger_nothing(ruled: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "known_ids", lambda *_: pytest.fail("it was asked"))
    link = process(ruled, delivery(deduct("ada")), delivery(deduct("ünï", "d-2", openTier="free")))
    assert said(link) == [("tokens_deducted", None)] * 2


def test_edited_body_of_a_customer_of_before_is_taken(engine: Engine, ruled: Pipeline) -> None:
    known = Ledger(engine).known_ids
    assert not has_unruly_ids(received(delivery(deduct()), Policy(), NOW, known))
    assert has_unruly_ids(received(delivery(deduct("a\u00a0b")), Policy(), NOW, known))


def test_package_of_the_catalog_is_taken_under_any_pattern(catalog: Catalog, sqlite_url: str) -> None:
    settings = load_settings(database_url=sqlite_url, id_pattern="[!-~]+")
    application = Application(settings)
    spaced = catalog.packages[0].model_copy(update={"id": "best value"})
    application.catalog = catalog.model_copy(update={"packages": (spaced,)})
    assert application.policy_of_commands.limits.ids == IdRule("[!-~]+", application.catalog.ids)
    paid = {"type": "payment.succeeded", "referenceId": "pi_1", "userId": "ada", "packageId": "best value"}
    body = json.dumps({**paid, "amountMinor": 499, "currency": "USD"}).encode()
    assert not isinstance(decode(body, now=NOW, limits=application.policy_of_commands.limits), Malformed)
