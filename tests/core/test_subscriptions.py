"""Stories of subscriptions: at a time, commands; then the replies, and what the account has.

Each is a kind of fault that was met in the field, or a question that the rules once left open.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import Command
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    deduct,
    opening,
    payment,
    record,
    refund,
    release,
    renew,
    reserve,
    settling,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger
from tests.support.strategies import SMALL_CATALOG
from worker.catalog import Catalog
from worker.core import Account, account_now
from worker.core.calendars import present_period
from worker.core.rules.usage import free_limit

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PAID = {"reference_id": "inv", "amount_minor": 1_000, "currency": "EUR"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Subscriber:
    """One account on a ledger, and the replies by reference. Each command gets a reference of its own."""

    def __init__(self, opened: str, tier: str, catalog: Catalog = SMALL_CATALOG) -> None:
        self.ledger = FakeLedger(catalog)
        self._number = 0
        self.send(opened, opening(tier=tier))

    def send(self, when: str, command: Command) -> dict[str, Any]:
        """Send a command at that time; return its reply."""
        self._number += 1
        named = command
        if command.reference_id in ("r", "x"):
            named = command.model_copy(update={"reference_id": f"c{self._number}"})
        (reply,) = self.ledger.apply([named], at(when))
        return reply

    def seen(self, when: str) -> Account:
        """Return the account as it would be with all posted that is due."""
        holds = [hold for hold in self.ledger.holds_of("u") if hold.state == "open"]
        known = self.ledger.accounts["u"], self.ledger.lots_of("u"), holds
        return account_now(*known, at(when), self.ledger.catalog)

    def balance(self, when: str) -> int:
        return self.seen(when).state.balance


# -- cancellation -----------------------------------------------------------------------------------------


def test_tokens_that_a_hold_releases_after_a_cancellation_have_ended() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-01", reserve(250, "hold"))
    subscriber.send("2026-05-01T01:00", cancel("now"))
    assert subscriber.balance("2026-05-01T01:30") == 250
    assert subscriber.send("2026-05-01T02:00", release())["balanceAfter"] == 0
    assert subscriber.send("2026-05-20", deduct(1))["code"] == "insufficient_balance"


def test_refund_of_usage_from_before_a_cancellation_brings_nothing_back() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-02", deduct(250, "use"))
    subscriber.send("2026-05-03", cancel("now"))
    assert subscriber.send("2026-05-04", refund(100, "use"))["balanceAfter"] == 0
    subscriber.send("2026-05-05", change("pro"))
    assert subscriber.send("2026-05-06", refund(100, "use"))["balanceAfter"] == 250


def test_cancellation_at_the_periods_end_can_be_made_immediate_and_no_other() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-03", cancel())
    assert subscriber.send("2026-05-04", cancel())["code"] == "subscription_not_active"
    assert subscriber.send("2026-05-05", cancel("now"))["code"] == "subscription_canceled"
    assert subscriber.balance("2026-05-05") == 0
    assert subscriber.send("2026-05-06", cancel("now"))["code"] == "subscription_not_active"


def test_payment_after_a_cancellation_at_once_grants_what_is_paid() -> None:
    subscriber = Subscriber("2026-01-01", "free")
    subscriber.send("2026-01-02", deduct(60))
    subscriber.send("2026-01-02", cancel("now"))
    assert subscriber.send("2026-01-05", change("free"))["amount"] == 100


def test_tier_that_costs_nothing_is_not_refreshed_by_a_cancellation() -> None:
    subscriber = Subscriber("2026-01-01", "steady")
    subscriber.send("2026-01-02", deduct(90))
    subscriber.send("2026-01-02", cancel("now"))
    assert subscriber.send("2026-01-03", change("steady"))["amount"] == 30
    assert subscriber.balance("2026-01-03") == 30


def test_down_and_up_and_down_and_up_grants_once() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-05", deduct(240))
    for day, tier in enumerate(["free", "pro", "free", "pro"], start=10):
        subscriber.send(f"2026-05-{day}", change(tier))
    assert (subscriber.balance("2026-05-20"), subscriber.seen("2026-05-20").state.allocated) == (10, 250)


# -- a tier from the period's end on ----------------------------------------------------------------------


def test_scheduled_change_keeps_what_is_paid_and_its_roll_over() -> None:
    subscriber = Subscriber("2026-05-01", "saver")
    reply = subscriber.send("2026-05-10", change("steady", effective_at="period_end"))
    assert (reply["code"], reply["amount"], reply["effectiveAt"]) == (
        "change_scheduled",
        0,
        "2026-06-01T00:00:00Z",
    )
    may, june = subscriber.seen("2026-05-31"), subscriber.seen("2026-06-02")
    assert (may.state.tier, may.state.balance) == ("saver", 90)
    assert (june.state.tier, june.state.balance) == ("steady", 40 + 120)


def test_scheduled_change_keeps_the_free_units_until_then() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-10", change("keeper", effective_at="period_end"))
    assert [free_limit(subscriber.seen(day), "search") for day in ("2026-05-31", "2026-06-01")] == [10, 7]


@pytest.mark.parametrize(
    ("later", "tier"), [(change("free"), "free"), (cancel(), "pro"), (cancel("now"), "pro")], ids=str
)
def test_later_change_or_cancellation_replaces_a_scheduled_one(later: Command, tier: str) -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-10", change("steady", effective_at="period_end"))
    subscriber.send("2026-05-11", later)
    assert subscriber.seen("2026-07-01").state.tier == tier


def test_renewal_of_the_next_period_is_of_the_tier_that_follows() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-10", change("saver", effective_at="period_end"))
    ahead = subscriber.send("2026-05-31T12:00", renew())
    assert (ahead["code"], ahead["tier"], ahead["amount"]) == ("renewal_scheduled", "saver", 90)
    assert (subscriber.seen("2026-05-31T13:00").state.tier, subscriber.balance("2026-05-31T13:00")) == (
        "pro",
        250,
    )
    assert (subscriber.seen("2026-06-01").state.tier, subscriber.balance("2026-06-01")) == ("saver", 90)


def test_subscription_that_has_ended_has_no_end_of_a_period_to_wait_for() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-10", cancel("now"))
    reply = subscriber.send("2026-05-11", change("free", effective_at="period_end"))
    assert reply["code"] == "subscription_not_active"


# -- the last day, when the next period is granted ---------------------------------------------------------


def on_the_last_day(tier: str) -> Subscriber:
    subscriber = Subscriber("2026-05-01", tier)
    assert subscriber.send("2026-05-31T01:00", renew())["code"] == "renewal_scheduled"
    return subscriber


def test_downgrade_on_the_last_day_takes_nothing_that_is_paid() -> None:
    subscriber = on_the_last_day("saver")
    reply = subscriber.send("2026-05-31T12:00", change("empty"))
    assert (reply["code"], reply["effectiveAt"]) == ("change_scheduled", "2026-07-01T00:00:00Z")
    june = subscriber.seen("2026-06-02")
    assert (june.state.tier, june.state.balance) == ("saver", 90 + 40)
    assert subscriber.seen("2026-07-02").state.tier == "empty"


def test_upgrade_on_the_last_day_grants_one_period_when_it_begins() -> None:
    subscriber = on_the_last_day("free")
    reply = subscriber.send("2026-05-31T12:00", change("pro"))
    assert (reply["code"], reply["amount"], reply["balanceAfter"]) == ("change_scheduled", 150, 100)
    assert (subscriber.balance("2026-06-01"), subscriber.seen("2026-06-01").state.tier) == (250, "pro")
    again = subscriber.send("2026-05-31T13:00", change("pro"))
    assert (again["amount"], subscriber.balance("2026-06-01")) == (0, 250)


def test_cancellation_on_the_last_day_does_not_lose_both_periods() -> None:
    at_the_end, at_once = on_the_last_day("pro"), on_the_last_day("pro")
    assert at_the_end.send("2026-05-31T12:00", cancel())["periodEnd"] == "2026-07-01T00:00:00Z"
    assert (at_the_end.balance("2026-05-31T13:00"), at_the_end.balance("2026-06-15")) == (250, 250)
    # At once it gives the next one up, and the present one lasts for its last hours.
    assert at_once.send("2026-05-31T12:00", cancel("now"))["periodEnd"] == "2026-06-01T00:00:00Z"
    assert (at_once.balance("2026-05-31T13:00"), at_once.balance("2026-06-01")) == (250, 0)
    assert at_once.send("2026-05-31T14:00", cancel("now"))["balanceAfter"] == 0


# -- renewals ---------------------------------------------------------------------------------------------


def test_renewal_may_name_any_day_of_the_present_period() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    reply = subscriber.send("2026-06-03", renew(at("2026-06-10")))
    assert (reply["code"], reply["periodStart"]) == ("subscription_renewed", "2026-06-01T00:00:00Z")


@pytest.mark.parametrize(
    ("now", "named", "code"),
    [
        ("2026-05-08T06:00", "2026-05-01", "renewal_scheduled"),
        ("2026-05-08T06:00", None, "renewal_scheduled"),
        ("2026-05-08T06:00", "2026-04-09", "period_already_granted"),
        ("2026-05-07T07:00", "2026-05-08T06:30", "period_already_granted"),
    ],
    ids=["a day of the present period", "no day", "the day on which it began", "two days before its end"],
)
def test_last_day_of_a_period_counts_from_now(now: str, named: str | None, code: str) -> None:
    subscriber = Subscriber("2026-04-09T06:00", "pro")
    assert subscriber.send(now, renew(None if named is None else at(named)))["code"] == code


def test_period_that_nobody_paid_has_no_free_units() -> None:
    subscriber = Subscriber("2026-01-01", "pro")
    reply = subscriber.send("2026-06-15", upload(10))
    assert (reply["code"], reply["limit"]) == ("free_upload_limit_exceeded", 0)
    assert subscriber.send("2026-06-15", record("page", 1))["required"] == 20
    subscriber.send("2026-06-15", renew())
    assert subscriber.send("2026-06-15", upload(10))["code"] == "free_upload_counted"


def test_months_count_from_the_moment_of_opening() -> None:
    subscriber = Subscriber("2026-01-31T12:00", "steady")
    assert subscriber.balance("2026-02-28T11:59:59") == 120
    assert subscriber.seen("2026-02-28T12:00").state.granted_until == at("2026-03-31T12:00")


# -- the gateway's calendar -------------------------------------------------------------------------------


def test_upgrade_with_the_gateways_period_leaves_no_gap() -> None:
    """Opened on the 1st, upgraded on the 17th, invoices on the 17th."""
    subscriber = Subscriber("2026-05-01", "steady")
    period = {"period_start": at("2026-05-17"), "period_end": at("2026-06-17")}
    reply = subscriber.send("2026-05-17", change("pro", **period))
    assert (reply["code"], reply["amount"], reply["periodEnd"]) == (
        "subscription_changed",
        250,
        "2026-06-17T00:00:00Z",
    )
    assert [subscriber.balance(day) for day in ("2026-05-31", "2026-06-01", "2026-06-16")] == [370, 250, 250]
    renewed = subscriber.send("2026-06-17", renew(at("2026-06-17"), period_end=at("2026-07-17")))
    assert (renewed["code"], subscriber.balance("2026-07-16")) == ("subscription_renewed", 250)
    assert present_period(subscriber.seen("2026-07-20").state, at("2026-07-20")).start == at("2026-07-17")


def test_gateways_period_is_granted_once_by_its_start() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    period = {"period_end": at("2026-06-17")}
    assert subscriber.send("2026-05-17", renew(at("2026-05-17"), **period))["code"] == "subscription_renewed"
    for start in ("2026-05-17", "2026-05-16", "2026-05-01"):
        again = subscriber.send("2026-05-18", renew(at(start), **period))
        assert again["code"] == "period_already_granted"


def test_gateways_start_a_moment_after_ours_is_the_same_period() -> None:
    subscriber = Subscriber("2026-05-01T10:00:05", "pro")
    first = renew(at("2026-05-01T10:00:09"), period_end=at("2026-06-01T10:00:09"))
    assert subscriber.send("2026-05-01T10:01", first)["code"] == "period_already_granted"
    second = renew(at("2026-06-01T10:00:09"), period_end=at("2026-07-01T10:00:09"))
    assert subscriber.send("2026-06-01T10:01", second)["code"] == "subscription_renewed"


def test_roll_over_goes_over_a_difference_of_seconds_into_the_gateways_period() -> None:
    subscriber = Subscriber("2026-05-01T10:00:00", "saver")
    ahead = renew(at("2026-06-01T10:00:09"), period_end=at("2026-07-01T10:00:09"))
    assert subscriber.send("2026-06-01T09:00", ahead)["code"] == "renewal_scheduled"
    assert subscriber.balance("2026-06-20") == 90 + 40


def test_gateways_period_that_is_over_or_far_ahead_is_out_of_range() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    for start, end in (("2026-05-17", "2026-06-01"), ("2026-06-20", "2026-07-20")):
        reply = subscriber.send("2026-06-10", renew(at(start), period_end=at(end)))
        assert (reply["code"], reply["periodEnd"]) == ("period_out_of_range", f"{end}T00:00:00Z")


def test_quotas_of_a_year_count_by_its_months() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-17", renew(at("2026-05-17"), period_end=at("2027-05-17")))
    subscriber.send("2026-05-18", upload(80))
    assert subscriber.send("2026-06-16", upload(1))["code"] == "free_upload_limit_exceeded"
    assert subscriber.send("2026-06-17", upload(80))["code"] == "free_upload_counted"
    assert subscriber.balance("2027-05-16") == 250


# -- payments of periods ----------------------------------------------------------------------------------


def half_back() -> Command:
    return went_back(500, "EUR", original_reference_id="inv")


def test_half_a_refund_of_a_paid_period_takes_half_of_its_allocation() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-06-01", renew(payment=PAID))
    assert subscriber.send("2026-06-02", half_back())["balanceAfter"] == 125


def test_refund_of_an_upgrade_takes_what_the_upgrade_granted() -> None:
    subscriber = Subscriber("2026-05-01", "free")
    subscriber.send("2026-05-02", change("pro", payment=PAID))
    assert subscriber.send("2026-05-03", half_back())["balanceAfter"] == 100 + 75


def test_refund_of_a_period_that_waits_takes_its_tokens_and_no_others() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-31T12:00", renew(payment=PAID))
    whole = went_back(1_000, "EUR", original_reference_id="inv")
    assert subscriber.send("2026-05-31T13:00", whole)["balanceAfter"] == 250
    assert subscriber.balance("2026-06-01") == 0


def test_payment_with_the_name_of_another_changes_nothing() -> None:
    subscriber = Subscriber("2026-05-01", "pro")
    subscriber.send("2026-05-01", payment(reference_id="inv"))
    for command in (renew(payment=PAID), change("free", payment=PAID)):
        reply = subscriber.send("2026-06-02", command)
        assert (reply["code"], reply["originalReferenceId"]) == ("reference_taken", "inv")
    assert subscriber.seen("2026-06-02").state.tier == "pro"


# -- credit -----------------------------------------------------------------------------------------------


def test_credit_that_took_effect_first_is_spent_first() -> None:
    subscriber = Subscriber("2026-05-15", "empty")
    subscriber.send("2026-05-15", bonus(40, "b", priority=50, effective_at=at("2026-05-30")))
    subscriber.send("2026-05-16", payment(499, "USD", reference_id="p", package_id="plain"))
    subscriber.send("2026-06-01", deduct(50))
    left = {str(lot.source): lot.remaining for lot in subscriber.seen("2026-06-01").lots.values()}
    assert left == {"bonus": 40, "purchase": 10}


def test_refund_of_usage_repays_a_debt_also_where_its_lot_has_ended() -> None:
    subscriber = Subscriber("2026-01-10", "free")
    subscriber.send("2026-01-10", deduct(50, "use"))
    subscriber.send("2026-02-20", adjust(-500, allow_negative=True))
    assert subscriber.send("2026-02-20", refund(30, "use"))["debt"] == 470
    subscriber.send("2026-02-21", adjust(480))
    assert subscriber.send("2026-02-22", refund(20, "use"))["balanceAfter"] == 10


def test_refusal_reports_no_expiry_and_the_command_that_posts_it_does_once() -> None:
    subscriber = Subscriber("2026-05-01", "free")
    replies = [
        subscriber.send("2026-06-02", command) for command in (deduct(5), deduct(5), settling(), settling())
    ]
    assert [reply.get("expired") for reply in replies] == [None, None, 100, None]


@pytest.mark.parametrize("start", ["2026-05-01T12:00", "2026-04-30T23:59", "2026-05-01"])
def test_year_that_is_paid_on_the_day_of_opening_is_no_month(start: str) -> None:
    subscriber = Subscriber("2026-05-01", "free")
    year = {"period_start": at(start), "period_end": at(start.replace("2026", "2027"))}
    reply = subscriber.send("2026-05-01T13:00", change("pro", **year, payment=PAID))
    assert reply["code"] == "subscription_changed"
    assert datetime.fromisoformat(reply["periodEnd"]) == year["period_end"]
    granted = reply["amount"]
    assert subscriber.balance("2027-04-30") >= granted > 0
    again = change("pro", **year)
    assert subscriber.send("2026-05-02", again)["amount"] == 0
