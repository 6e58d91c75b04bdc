"""Entity tags: the same while nothing that the answer says has changed, another one after any change."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from schemas import (
    BonusCredit,
    CancelSubscription,
    DeductUsage,
    FreeUpload,
    ReleaseUsage,
    ReserveUsage,
)
from tests.cli.console import FilledLedger
from tests.http.conftest import Caller, Served
from worker.bootstrap import utc_now
from worker.catalog import load_catalog

BALANCE = "/v1/balance?userId=ada"


@pytest.fixture(autouse=True)
def _ada(ledger: FilledLedger) -> None:
    ledger.open("ada", "pro")


def tag(app: Caller, target: str = BALANCE) -> str:
    return app.get(target).headers["ETag"]


def test_tag_is_weak_and_the_answer_may_be_kept_for_its_caller(app: Caller) -> None:
    response = app.get(BALANCE)
    assert response.headers["ETag"].startswith('W/"')
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_unchanged_answer_is_not_sent_again(app: Caller) -> None:
    again = app.get(BALANCE, 304, headers={"If-None-Match": tag(app)})
    assert again.data == b""
    assert again.headers["ETag"] == tag(app)
    assert "Content-Type" not in again.headers


@pytest.mark.parametrize("form", ['W/"{}"', '"{}"', '"other", W/"{}"', "*"])
def test_any_form_of_the_tag_is_compared(app: Caller, form: str) -> None:
    bare = tag(app).removeprefix('W/"').removesuffix('"')
    app.get(BALANCE, 304, headers={"If-None-Match": form.format(bare)})


@pytest.mark.parametrize("other", ['"other"', 'W/""', "nonsense", '"'])
def test_other_tags_get_the_answer(app: Caller, other: str) -> None:
    app.get(BALANCE, headers={"If-None-Match": other})


CHANGES: dict[str, Callable[[FilledLedger], Any]] = {
    "an entry": lambda ledger: ledger.apply(DeductUsage(reference_id="d", user_id="ada", tokens=1)),
    "a hold, which raises no sequence": lambda ledger: ledger.apply(
        ReserveUsage(reference_id="h", user_id="ada", tokens=5, ttl_seconds=3_600)
    ),
    "a free upload, which raises no sequence": lambda ledger: ledger.apply(
        FreeUpload(reference_id="f", user_id="ada", bytes=5)
    ),
    "a cancellation, which raises no sequence": lambda ledger: ledger.apply(
        CancelSubscription(reference_id="c", user_id="ada")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_the_account_changes_the_tag(app: Caller, ledger: FilledLedger, change: str) -> None:
    before = tag(app)
    CHANGES[change](ledger)
    assert tag(app) != before
    app.get(BALANCE, 200, headers={"If-None-Match": before})


def test_released_hold_brings_the_old_tag_back(app: Caller, ledger: FilledLedger) -> None:
    before = tag(app)
    ledger.apply(ReserveUsage(reference_id="h", user_id="ada", tokens=5, ttl_seconds=3_600))
    ledger.apply(ReleaseUsage(reference_id="r", user_id="ada", original_reference_id="h"))
    assert tag(app) == before


def test_time_alone_changes_the_tag_where_credit_ends(
    app: Caller, ledger: FilledLedger, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = utc_now() + timedelta(days=2)
    ledger.apply(BonusCredit(reference_id="b", user_id="ada", tokens=7, expires_at=end))
    before = tag(app)
    monkeypatch.setattr(served.service.service, "_clock", lambda: end + timedelta(seconds=1))
    assert tag(app) != before


def test_new_catalog_changes_the_tag(app: Caller, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before, catalog = tag(app), load_catalog()
    pro = catalog.tiers["pro"].model_copy(update={"monthly_tokens": 1})
    other = catalog.model_copy(update={"tiers": {**catalog.tiers, "pro": pro}})
    monkeypatch.setattr(served.service.service, "_catalog", other)
    assert tag(app) != before


def test_other_user_and_other_parameters_have_other_tags(app: Caller, ledger: FilledLedger) -> None:
    ledger.open("bob", "pro")
    assert len({tag(app), tag(app, "/v1/balance?userId=bob"), tag(app, "/v1/history?userId=ada")}) == 3


def test_problem_has_no_tag(app: Caller) -> None:
    assert "ETag" not in app.get("/v1/balance?userId=nobody", 404).headers
