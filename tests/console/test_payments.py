"""Payments page: incidents with filters, the badge of every page, and a retry with a reason."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from schemas import OpenAccount, PaymentRefunded, PaymentSucceeded
from tests.console.conftest import PASSWORD, app_on
from tests.console.visitor import Visitor, words
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from worker.bootstrap import Application
from worker.settings import load_settings

HOSTILE = "<script>alert(1)</script>"


def paid(reference: str, **more: Any) -> PaymentSucceeded:
    fields = {"user_id": "ada", "package_id": "gone", "amount_minor": 1_999, "currency": "USD", **more}
    return PaymentSucceeded.model_validate({"reference_id": reference, **fields})


def refunded(reference: str, payment: str) -> PaymentRefunded:
    fields = {"original_reference_id": payment, "amount_minor": 500, "currency": "USD"}
    return PaymentRefunded.model_validate({"reference_id": reference, **fields})


def trouble(application: Application) -> None:
    """Store two rejected payments, and two refunds that wait: one of them for too long."""
    now = datetime.now(UTC)
    engine, catalog = application.engine, application.catalog
    applied(engine, catalog, refunded("stripe:re_old", "stripe:pi_old"), now=now - timedelta(days=5))
    applied(engine, catalog, refunded("re_new", "pi_new"), now=now)
    applied(engine, catalog, OpenAccount(reference_id="open", user_id="ada", tier="free"), now=now)
    applied(engine, catalog, paid("stripe:pi_1"), paid(HOSTILE, provider="paddle"), now=now)


@pytest.fixture
def troubled(application_: Application) -> Application:
    trouble(application_)
    return application_


@pytest.fixture
def ann(troubled: Application) -> Visitor:
    return Visitor(app_on(troubled).test_client())


def rows(page: str) -> list[str]:
    return [words(row) for row in re.findall(r"<tr data-row>.*?</tr>", page, re.DOTALL)]


def badge(page: str) -> str | None:
    found = re.search(r'class="badge"[^>]*>([^<]*)<', page)
    return None if found is None else found[1]


# -- list -------------------------------------------------------------------------------------------------


def test_page_lists_what_needs_somebody_with_the_way_out(ann: Visitor) -> None:
    found = rows(ann.get("/payments"))
    assert len(found) == 3
    assert any("unknown_package" in row and "19.99 USD" in row for row in found)
    (overdue,) = [row for row in found if "waiting" in row]
    assert "over 3 d" in overdue
    assert "send the payment, or give it this name in alsoKnownAs" in overdue


def test_hostile_reference_is_shown_and_not_obeyed(ann: Visitor) -> None:
    assert "<script>alert" not in ann.get("/payments")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("kind=rejected", 2),
        ("kind=waiting", 2),
        ("kind=flagged", 0),
        ("kind=all", 4),
        ("gateway=paddle", 1),
        ("user=ada", 2),
        ("user=nobody", 0),
        ("until=2020-01-01T00:00", 0),
        ("since=2020-01-01T00:00&gateway=stripe", 2),
    ],
)
def test_filters_find_their_own(ann: Visitor, query: str, count: int) -> None:
    page = ann.get(f"/payments?{query}")
    assert len(rows(page)) == count
    assert ("No payment matches." in page) == (count == 0)


@pytest.mark.parametrize("query", ["kind=lost", "since=soon", "cursor=x"])
def test_senseless_filter_is_refused_with_the_valid_ones(ann: Visitor, query: str) -> None:
    assert "Invalid request" in ann.get(f"/payments?{query}", status=400)


def test_list_goes_on_behind_its_page(application_: Application) -> None:
    now = datetime.now(UTC)
    many = (refunded(f"re_{number}", "pi") for number in range(60))
    applied(application_.engine, application_.catalog, *many, now=now - timedelta(days=5))
    visitor = Visitor(app_on(application_).test_client())
    first = visitor.get("/payments?kind=waiting")
    assert len(rows(first)) == 50
    found = re.search(r'href="([^"]*cursor=[^"]*)"', first)
    assert found is not None
    assert len(rows(visitor.get(found[1].replace("&amp;", "&")))) == 10


def test_ledger_without_incidents_says_so(visitor: Visitor) -> None:
    page = visitor.get("/payments")
    assert "No payment needs anybody." in page
    assert badge(page) is None


# -- badge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/payments", "/dead-letters", "/accounts", "/activity-log"])
def test_every_page_has_the_number_of_those_that_need_somebody(ann: Visitor, path: str) -> None:
    assert badge(ann.get(path)) == "3"


def test_page_before_the_sign_in_has_no_badge(guarded: Flask, application_: Application) -> None:
    trouble(application_)
    assert badge(Visitor(guarded.test_client()).get("/sign-in")) is None


# -- retry ------------------------------------------------------------------------------------------------


@pytest.fixture
def on_broker(broker_url: str, sqlite_url: str) -> Application:
    application = Application(load_settings(broker_url=broker_url, database_url=sqlite_url))
    trouble(application)
    return application


def test_retry_goes_through_the_queue_and_is_in_the_activity_log(
    on_broker: Application, rabbit: RabbitClient
) -> None:
    visitor = Visitor(app_on(on_broker).test_client())
    response = visitor.post("/payments/retry", reference=["stripe:pi_1", HOSTILE], reason="package added")
    assert "Sent 2 payments again." in visitor.get(response.location)
    taken = rabbit.take("billing.payments", 2)
    for (properties, body), reference in zip(taken, ("stripe:pi_1", HOSTILE), strict=True):
        command = json.loads(body)
        assert (command["referenceId"], command["attempt"], command["replies"]) == (reference, 2, "none")
        assert (properties.app_id, properties.user_id) == ("billing-worker console", rabbit.user)
        assert properties.reply_to is None
    entries = on_broker.service().activity_log(action="retry").entries
    assert {(entry.subject, entry.reason) for entry in entries} == {
        ("stripe:pi_1", "package added"),
        (HOSTILE, "package added"),
    }


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"reference": "stripe:pi_1"}, 400, "Enter a reason."),
        ({"reason": "x"}, 400, "Select the payments to try again."),
        ({"reference": "open", "reason": "x"}, 409, "there is nothing to try again"),
        ({"reference": "none", "reason": "x"}, 404, "no operation has the reference"),
        ({"reference": "stripe:pi_1", "reason": "x"}, 503, "Unknown at the moment"),
    ],
    ids=["no reason", "nothing selected", "applied", "unknown", "no broker"],
)
def test_retry_that_is_not_possible_says_why(
    ann: Visitor, fields: dict[str, str], status: int, text: str
) -> None:
    assert text in words(ann.post("/payments/retry", status=status, **fields).text)


def test_viewer_sees_the_payments_and_cannot_try_again(guarded: Flask, application_: Application) -> None:
    trouble(application_)
    vic = Visitor(guarded.test_client())
    vic.sign_in("vic", PASSWORD)
    page = vic.get("/payments")
    assert len(rows(page)) == 3
    assert "Try the selected again" not in page
    vic.post("/payments/retry", status=403, reference="stripe:pi_1", reason="x")


def test_retry_without_the_forms_token_is_refused(ann: Visitor) -> None:
    response = ann.client.post("/payments/retry", data={"reference": "stripe:pi_1", "reason": "x"})
    assert response.status_code == 400


# -- explanation ------------------------------------------------------------------------------------------


def test_explanation_of_a_waiting_event_says_for_what_it_waits_and_what_took_it_in(
    application_: Application,
) -> None:
    trouble(application_)
    visitor = Visitor(app_on(application_).test_client())
    waiting = words(visitor.get("/explain?reference=re_new"))
    assert "Came before its payment Payment pi_new Since" in waiting
    assert "on, where it still waits then" in waiting
    payment = paid("pi_new", package_id="standard")
    applied(application_.engine, application_.catalog, payment)
    taken_in = words(visitor.get("/explain?reference=re_new"))
    assert "Taken in by pi_new" in taken_in
    assert "counted by pi_new" in taken_in
