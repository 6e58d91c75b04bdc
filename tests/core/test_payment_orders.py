"""Scenarios of a payment's events in every order, each with duplicates: the same ledger, lot by lot."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from schemas import COMMAND_TYPES, Command, SettleAccount
from tests.support.fake_ledger import FakeLedger
from worker.catalog import Catalog, load_catalog

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MUCH_LATER = NOW + timedelta(days=400)
#: Orders of a scenario that the quick form looks at; the long form looks at all.
QUICK = 40

OPENING = {"type": "account.open", "referenceId": "o", "userId": "mia", "tier": "basic"}
PAID = {
    "type": "payment.succeeded",
    "referenceId": "stripe:pi_1",
    "alsoKnownAs": ["stripe:ch_1"],
    "userId": "mia",
    "packageId": "standard",
    "amountMinor": 1999,
    "currency": "USD",
}


def taken(message: dict[str, Any]) -> Command:
    return COMMAND_TYPES[message["type"]].model_validate(message)


def about(type_: str, reference: str, name: str = "stripe:pi_1", **fields: Any) -> dict[str, Any]:
    return {"type": type_, "referenceId": reference, "originalReferenceId": name, **fields}


def refund(reference: str, minor: int, name: str = "stripe:ch_1") -> dict[str, Any]:
    return about("payment.refunded", reference, name, amountMinor=minor, currency="USD")


def total(reference: str, minor: int, day: int) -> dict[str, Any]:
    at = f"2026-05-{day:02}T00:00:00Z"
    return about("payment.refunded", reference, refundedTotalMinor=minor, currency="USD", occurredAt=at)


def disputed(
    reference: str, minor: int = 1999, stage: str = "chargeback", dispute: str = "du"
) -> dict[str, Any]:
    money: dict[str, Any] = {"amountMinor": minor, "currency": "USD"}
    return about("payment.disputed", reference, "stripe:ch_1", disputeId=dispute, stage=stage, **money)


def closed(result: str, day: int | None, minor: int = 1999, dispute: str = "du") -> dict[str, Any]:
    at = {} if day is None else {"occurredAt": f"2026-05-{day:02}T00:00:00Z"}
    money: dict[str, Any] = {"amountMinor": minor, "currency": "USD"}
    reference = f"{dispute}:closed:{result}:{day}"
    return about("payment.dispute_closed", reference, disputeId=dispute, result=result, **money, **at)


def refund_failed(refund_reference: str) -> dict[str, Any]:
    return about("payment.refund_failed", f"{refund_reference}:failed", refundReferenceId=refund_reference)


SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "two partial refunds and one that fails": [
        PAID,
        refund("re_1", 500),
        refund("re_2", 700),
        refund_failed("re_1"),
    ],
    "a full refund and a chargeback": [PAID, refund("re_1", 1999), disputed("du:o"), closed("lost", 9)],
    "an inquiry that is closed": [PAID, disputed("du:i", stage="inquiry"), closed("won", 9)],
    "an inquiry that becomes a chargeback": [
        PAID,
        disputed("du:i", stage="inquiry"),
        disputed("du:o"),
        closed("prevented", 9),
    ],
    "a dispute won, then lost": [PAID, disputed("du:o"), closed("won", 8), closed("lost", 9)],
    "a dispute lost, then won": [PAID, disputed("du:o"), closed("lost", 8), closed("won", 9)],
    "a dispute closed without a time, then with one": [PAID, closed("lost", None), closed("won", 2)],
    "a tie of two closings": [PAID, closed("lost", 2), closed("won", 2)],
    "totals, of which the latest is lower": [
        PAID,
        total("t:1", 500, 2),
        total("t:2", 1500, 3),
        total("t:3", 900, 4),
    ],
    "singles and totals": [PAID, refund("re_1", 400), total("t:1", 700, 2)],
    "a refund in another currency": [PAID, {**refund("re_1", 400), "currency": "EUR"}, refund("re_2", 300)],
    "a dispute in another currency": [
        PAID,
        {**disputed("du:o"), "currency": "EUR"},
        {**closed("lost", 9), "currency": "EUR"},
    ],
    "a failure after a refund": [PAID, refund("re_1", 400), about("payment.failed", "f:1")],
    "half of a price with tax": [
        {**PAID, "amountMinor": 2379, "taxMinor": 380},
        refund("re_1", 1190, "stripe:pi_1"),
    ],
    "a currency without decimals": [
        {**PAID, "packageId": "yen", "amountMinor": 500, "currency": "JPY"},
        {**refund("re_1", 250), "currency": "JPY"},
        {**refund("re_2", 249), "currency": "JPY"},
    ],
    "a full discount that fails": [
        {**PAID, "amountMinor": 0, "discountMinor": 1999},
        about("payment.failed", "f:1"),
    ],
    "two payments, one goes back": [
        PAID,
        {
            **PAID,
            "referenceId": "stripe:pi_2",
            "alsoKnownAs": ["stripe:ch_2"],
            "packageId": "plus",
            "amountMinor": 6999,
        },
        refund("re_1", 1000),
        refund("re_2", 999),
    ],
}


def catalogs() -> dict[str, Catalog]:
    base = load_catalog().model_dump()
    base["packages"] = (
        *base["packages"],
        {"id": "yen", "tokens": 50_000, "price_minor": 500, "currency": "JPY"},
    )
    return {
        f"{dispute} {spent}": Catalog.model_validate(
            {**base, "payments": {**base["payments"], "on_dispute": dispute, "when_spent": spent}}
        )
        for dispute in ("wait", "take", "hold")
        for spent in ("debt", "write_off")
    }


CATALOGS = catalogs()


def ledger_after(commands: Sequence[Command], catalog: Catalog, chance: random.Random) -> FakeLedger:
    """Take commands in batches of any size, each command once more somewhere behind its first delivery."""
    again = list(commands)
    for command in commands:
        again.insert(chance.randint(again.index(command) + 1, len(again)), command)
    ledger = FakeLedger(catalog)
    while again:
        size = chance.randint(1, 4)
        ledger.apply(again[:size], NOW)
        again = again[size:]
    return ledger


def state_of(ledger: FakeLedger) -> dict[str, Any]:
    """Everything that an account has, except what the order of operations names."""
    account = ledger.accounts["mia"]
    lots = sorted(
        (lot.source, lot.granted, lot.remaining, lot.held, lot.priority, str(lot.expires_at))
        for lot in ledger.lots_of("mia")
    )
    return {
        "balance": account.balance,
        "debt": account.debt,
        "held": account.held,
        "sums": (account.purchased, account.bonus, account.reversed, account.expired, account.allocated),
        "lots": lots,
        "uncollected": sum(event.uncollected for event in ledger.payment_events),
        # What comes before its payment waits, what comes after it is rejected: an incident either way.
        "incidents": sorted([*ledger.waiting, *_rejected_events(ledger)]),
    }


def _rejected_events(ledger: FakeLedger) -> Iterator[str]:
    for outcome in ledger.outcomes.values():
        if outcome.type != "payment.succeeded" and not outcome.is_applied:
            yield outcome.reference_id


def ends_of(catalog: Catalog, orders: Sequence[Sequence[Command]]) -> list[Any]:
    chance = random.Random(16)
    ends = []
    for order in orders:
        ledger = ledger_after(order, catalog, chance)
        if any(ledger.names[event.name].user_id for event in ledger.waiting.values()):
            # A name was learnt from a copy: the scheduler looks for what waits under it.
            ledger.apply([SettleAccount(reference_id="looked", user_id="mia")], NOW)
        now = state_of(ledger)
        ledger.apply([SettleAccount(reference_id="s", user_id="mia")], MUCH_LATER)
        ends.append((now, state_of(ledger)))
    return ends


def assert_alike(name: str, catalog: Catalog, orders: Sequence[Sequence[Command]]) -> None:
    ends = ends_of(catalog, orders)
    for order, end in zip(orders, ends, strict=True):
        assert end == ends[0], [command.reference_id for command in order]


def orders_of(name: str) -> list[tuple[Command, ...]]:
    return list(permutations([taken(OPENING), *map(taken, SCENARIOS[name])]))


@pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_ends_in_the_same_ledger_in_some_orders(name: str, catalog: Catalog) -> None:
    orders = orders_of(name)
    if len(orders) > QUICK:
        orders = random.Random(name).sample(orders, QUICK)
    assert_alike(name, catalog, orders)


@pytest.mark.slow
@pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_ends_in_the_same_ledger_in_every_order(name: str, catalog: Catalog) -> None:
    assert_alike(name, catalog, orders_of(name))


def test_copy_of_a_payment_gives_it_another_name_that_an_event_waits_for() -> None:
    without_name = {field: value for field, value in PAID.items() if field != "alsoKnownAs"}
    settle = SettleAccount(reference_id="s", user_id="mia")
    commands = [taken(OPENING), taken(without_name), taken(refund("re_1", 500)), taken(PAID), settle]
    ledger = FakeLedger(CATALOGS["wait debt"])
    codes = [ledger.apply([command], NOW)[0]["code"] for command in commands]
    assert codes[2:4] == ["payment_awaited", "tokens_purchased"]
    assert state_of(ledger)["incidents"] == []
    assert state_of(ledger)["balance"] == 100_000 + 275_000 - 250_000 * 500 // 1999 - 25_000 * 500 // 1999


def named(reference: str, name: str, *others: str) -> dict[str, Any]:
    return about("payment.named", reference, name, alsoKnownAs=list(others))


#: An invoice knows nothing of its payment intent, and the intent nothing of its invoice.
BARE_INVOICE: dict[str, Any] = {
    "type": "subscription.change",
    "referenceId": "stripe:in_1:paid",
    "userId": "mia",
    "tier": "pro",
    "periodStart": "2026-05-01T00:00:00Z",
    "periodEnd": "2026-06-01T00:00:00Z",
    "payment": {"referenceId": "stripe:in_1", "amountMinor": 2000, "currency": "USD"},
}
NAMED_LATER: dict[str, list[dict[str, Any]]] = {
    "an invoice, and a refund of its intent": [
        BARE_INVOICE,
        named("stripe:inpay_1", "stripe:in_1", "stripe:pi_1"),
        refund("re_1", 1000, "stripe:pi_1"),
    ],
    "an invoice whose intent is named, and the intent's charge": [
        BARE_INVOICE,
        named("stripe:inpay_1", "stripe:in_1", "stripe:pi_1"),
        named("stripe:ch_1:named", "stripe:pi_1", "stripe:ch_1"),
        refund("re_1", 1000, "stripe:ch_1"),
    ],
    "names told from both ends": [
        BARE_INVOICE,
        named("n1", "stripe:pi_1", "stripe:ch_1"),
        named("n2", "stripe:pi_1", "stripe:in_1"),
        {**refund("re_1", 500, "stripe:ch_1")},
        {**refund("re_2", 500, "stripe:pi_1")},
    ],
}


def _incidents_of(ledger: FakeLedger) -> Any:
    return sorted([*ledger.waiting, *_rejected_events(ledger)])


@pytest.mark.parametrize("name", NAMED_LATER)
def test_names_are_learnt_before_or_after_the_payment_and_its_refunds(name: str) -> None:
    ends = []
    for order in permutations(list(map(taken, NAMED_LATER[name]))):
        ledger = ledger_after([taken({**OPENING, "tier": "free"}), *order], CATALOGS["wait debt"], CHANCE)
        assert {bound.payment_reference for bound in ledger.names.values()} == {"stripe:in_1"}
        now = state_of(ledger)
        ledger.apply([SettleAccount(reference_id="s", user_id="mia")], MUCH_LATER)
        ends.append((now, state_of(ledger)))
    assert ends == [ends[0]] * len(ends)
    assert ends[0][0]["balance"] == 500_000 - 490_000 * 1000 // 2000
    assert ends[0][0]["incidents"] == []


CHANCE = random.Random(16)


def test_payment_before_its_account_learns_names_that_come_before_the_account() -> None:
    events = [PAID, named("n1", "stripe:pi_1", "stripe:in_1"), refund("re_1", 1999, "stripe:in_1"), OPENING]
    for order in permutations(list(map(taken, events))):
        ledger = ledger_after(order, CATALOGS["wait debt"], CHANCE)
        assert (ledger.accounts["mia"].balance, _incidents_of(ledger)) == (100_000, [])


def test_copy_of_a_payment_before_its_account_teaches_its_names() -> None:
    without_name = {field: value for field, value in PAID.items() if field != "alsoKnownAs"}
    for copies in permutations(list(map(taken, (without_name, PAID, refund("re_1", 1999))))):
        ledger = ledger_after([*copies, taken(OPENING)], CATALOGS["wait debt"], CHANCE)
        assert (ledger.accounts["mia"].balance, _incidents_of(ledger)) == (100_000, [])


def test_names_of_two_payments_are_refused_as_an_incident() -> None:
    other = {**PAID, "referenceId": "stripe:pi_2", "alsoKnownAs": ["stripe:ch_2"]}
    ledger = FakeLedger(CATALOGS["wait debt"])
    ledger.apply([taken(one) for one in (OPENING, PAID, other)], NOW)
    both = taken(named("n1", "stripe:ch_1", "stripe:ch_2", "stripe:in_9"))
    (reply,) = ledger.apply([both], NOW)
    assert (reply["status"], reply["code"], reply["originalReferenceId"]) == (
        "rejected",
        "reference_taken",
        "stripe:ch_2",
    )
    assert "stripe:in_9" not in ledger.names


def test_names_of_what_is_no_payment_are_refused() -> None:
    used = {"type": "usage.deduct", "referenceId": "job", "userId": "mia", "tokens": 5}
    ledger = FakeLedger(CATALOGS["wait debt"])
    commands = [taken(one) for one in (OPENING, used, named("n1", "job", "stripe:pi_1"))]
    replies = ledger.apply(commands, NOW)
    assert replies[-1]["code"] == "original_not_found"


SPENT: list[dict[str, Any]] = [
    OPENING,
    {"type": "credit.bonus", "referenceId": "gift", "userId": "mia", "tokens": 5_000},
    PAID,
    {"type": "usage.deduct", "referenceId": "job", "userId": "mia", "tokens": 340_000},
]
CREDITED: list[dict[str, Any]] = [
    {"type": "credit.bonus", "referenceId": "later", "userId": "mia", "tokens": 30_000},
]
EVENTS_OF_SPENT = {
    "refunds, of which one fails": [refund("re_1", 500), refund("re_2", 900), refund_failed("re_1")],
    "all goes back and half comes again": [refund("re_1", 1000), refund("re_2", 999), refund_failed("re_2")],
    "a dispute lost, then won, beside a refund": [refund("re_1", 400), closed("lost", 8), closed("won", 9)],
}


@pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)
@pytest.mark.parametrize("name", EVENTS_OF_SPENT)
def test_events_of_a_payment_that_is_mostly_spent_end_in_the_same_ledger(name: str, catalog: Catalog) -> None:
    events = list(map(taken, EVENTS_OF_SPENT[name]))
    ends = []
    for order in permutations(events):
        ledger = FakeLedger(catalog)
        for command in (*map(taken, SPENT), *order):
            ledger.apply([command], NOW)
        middle = state_of(ledger)
        ledger.apply(list(map(taken, CREDITED)), NOW)
        ends.append((middle, state_of(ledger)))
    # What is written off depends on what was spent by then, and so on the order.
    if catalog.payments.when_spent == "debt":
        assert ends == [ends[0]] * len(ends)
    assert len({end[0]["balance"] - end[0]["uncollected"] for end in ends}) == 1


INVOICE: dict[str, Any] = {
    "type": "subscription.change",
    "referenceId": "stripe:in_1",
    "userId": "mia",
    "tier": "pro",
    "periodStart": "2026-05-01T00:00:00Z",
    "periodEnd": "2026-06-01T00:00:00Z",
    "payment": {
        "referenceId": "stripe:pi_9",
        "amountMinor": 2000,
        "currency": "USD",
        "alsoKnownAs": ["stripe:ch_9"],
    },
}
EVENTS_OF_INVOICE = {
    "refunded by half": [INVOICE, refund("re_1", 1000, "stripe:ch_9")],
    "refunded whole, which fails": [
        INVOICE,
        refund("re_1", 2000, "stripe:pi_9"),
        about("payment.refund_failed", "re_1:failed", "stripe:ch_9", refundReferenceId="re_1"),
    ],
    "refunded by half, and lost in a dispute": [
        INVOICE,
        refund("re_1", 1000, "stripe:ch_9"),
        {**disputed("du:o"), "originalReferenceId": "stripe:pi_9"},
        {**closed("lost", 9, 1000), "originalReferenceId": "stripe:ch_9"},
    ],
}
#: The free tier had granted 10,000 of this period; the invoice bought the rest of 500,000.
LEFT_OF_INVOICE = {
    "refunded by half": 500_000 - 245_000,
    "refunded whole, which fails": 500_000,
    "refunded by half, and lost in a dispute": 10_000,
}


@pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)
@pytest.mark.parametrize("name", EVENTS_OF_INVOICE)
def test_invoice_of_a_subscription_goes_back_in_any_order(name: str, catalog: Catalog) -> None:
    ends = []
    for order in permutations(list(map(taken, EVENTS_OF_INVOICE[name]))):
        ledger = ledger_after([taken({**OPENING, "tier": "free"}), *order], catalog, random.Random(1))
        now = state_of(ledger)
        ledger.apply([SettleAccount(reference_id="s", user_id="mia")], MUCH_LATER)
        ends.append((now, state_of(ledger)))
    assert ends == [ends[0]] * len(ends)
    assert ends[0][0]["balance"] == LEFT_OF_INVOICE[name]


WRITING_OFF = [CATALOGS[name] for name in CATALOGS if name.endswith("write_off") and "hold" not in name]


@pytest.mark.parametrize("catalog", WRITING_OFF)
def test_tokens_that_expire_later_bring_back_no_claim_that_was_written_off(catalog: Catalog) -> None:
    fields = catalog.model_dump()
    packages = [{**one, "bonus_valid_days": 10} for one in fields["packages"]]
    ledger = FakeLedger(Catalog.model_validate({**fields, "packages": packages}))
    ledger.apply([taken({**OPENING, "tier": "free"}), taken(PAID)], NOW)
    # Held tokens aren't there to be taken, and those of the bonus expire with the hold.
    keep = {"type": "usage.reserve", "referenceId": "h", "userId": "mia", "tokens": 285_000}
    ledger.apply([taken({**keep, "ttlSeconds": 20 * 86_400})], NOW)
    (first,) = ledger.apply([taken(refund("re_1", 1000))], NOW + timedelta(days=1))
    given_up = 250_000 * 1000 // 1999 + 25_000 * 1000 // 1999
    assert (first["amount"], first["uncollected"]) == (0, given_up)
    # The bonus has expired since, and belongs to the second half of the money.
    (second,) = ledger.apply([taken(refund("re_2", 999))], NOW + timedelta(days=21))
    assert (second["amount"], second["uncollected"]) == (250_000 - given_up, 25_000)


def test_dispute_and_refund_of_one_number_are_two_matters() -> None:
    """Gateways number both alike; what was known before tokens expired is looked up by these numbers."""
    packages = [{**one, "bonus_valid_days": 10} for one in CATALOGS["wait debt"].model_dump()["packages"]]
    fields = {**CATALOGS["wait debt"].model_dump(), "packages": packages}
    ends = []
    for dispute in ("17", "du"):
        ledger = FakeLedger(Catalog.model_validate(fields))
        ledger.apply([taken(one) for one in (OPENING, PAID, refund("17", 1000))], NOW)
        ledger.apply([taken(closed("lost", 20, 500, dispute))], NOW + timedelta(days=20))
        ends.append(ledger.accounts["mia"].balance)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("used", [285_000, 200_000])
def test_debt_that_goes_back_to_lots_is_remembered_there_within_a_batch_as_after_it(used: int) -> None:
    """The next event moves tokens by what each lot was given; a batch must not forget it."""
    before: list[dict[str, Any]] = [
        {**OPENING, "tier": "free"},
        PAID,
        {"type": "usage.deduct", "referenceId": "job", "userId": "mia", "tokens": used},
    ]
    events = [
        disputed("d:a", dispute="a"),
        {"type": "credit.bonus", "referenceId": "gift", "userId": "mia", "tokens": 100_000},
        closed("lost", 11, 500, "a"),
        closed("lost", 24, 500, "b"),
        refund_failed("re_2"),
    ]
    together, apart = FakeLedger(CATALOGS["take debt"]), FakeLedger(CATALOGS["take debt"])
    for ledger in (together, apart):
        ledger.apply([taken(one) for one in before], NOW)
    together.apply([taken(one) for one in events], NOW)
    for one in events:
        apart.apply([taken(one)], NOW)
    entries = [
        [(entry.counter, entry.amount, entry.lot) for entry in ledger.entries] for ledger in (together, apart)
    ]
    assert entries[0] == entries[1]
