"""Scenario of a demo day: kinds of messages, phases, and what the seed decides."""

import json
import random
from collections import Counter
from datetime import UTC, datetime

import pytest

from schemas import MESSAGE_TYPES, Command, Limits, Malformed, commands_of, decode
from worker.catalog import Catalog, load_catalog
from worker.demo.day import MESSAGES_MIN, day_scenario
from worker.demo.scenario import DemoMessage, Scenario

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def packaged() -> Catalog:
    return load_catalog()


@pytest.fixture(scope="module", params=[MESSAGES_MIN, 200, 2_000])
def count(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture(scope="module")
def scenario(packaged: Catalog, count: int) -> Scenario:
    return day_scenario(random.Random(1), NOW, packaged, messages=count)


def test_day_has_the_requested_number_of_messages(scenario: Scenario, count: int) -> None:
    assert len(scenario.messages) == count


def test_day_has_every_kind_of_message(scenario: Scenario) -> None:
    kinds = Counter(message.kind.partition(":")[0] for message in scenario.messages)

    assert kinds.keys() == {
        *("opening", "unknown tier", "second opening", "unknown account"),
        *("deduct", "metered", "batch", "free upload", "hold", "capture", "release", "adjustment"),
        *("purchase", "late purchase", "early refund", "payment refunded", "payment failed"),
        *("dispute", "dispute won", "dispute lost", "refund", "bonus"),
        *("expiring bonus", "scheduled bonus", "expired bonus", "excessive adjustment"),
        *("refund failed", "freeze", "end of freeze", "more names"),
        *("upgrade", "downgrade", "early renewal", "repeated renewal", "cancellation", "second cancellation"),
        *("extension", "expiring hold", "late capture", "refused capture"),
        *("due entries", "unknown hold", "unknown meter"),
        *("wrong amount", "wrong currency", "unknown package", "upload too large"),
        *("refund without original", "excessive refund", "refund in another currency"),
        *(
            "insufficient balance",
            "top-up",
            "second attempt",
            "delivered again",
            "reused reference",
            "malformed",
        ),
    }


def test_day_has_every_type_and_delivers_one_message_in_twenty_again(scenario: Scenario, count: int) -> None:
    whole = [message for message in scenario.messages if not message.kind.startswith("malformed")]

    of_a_move = {"account.import"}  # comes before the first day
    assert {message.routing_key for message in whole} == MESSAGE_TYPES.keys() - of_a_move
    assert [message.kind for message in whole].count("delivered again") >= count // 20


def test_night_begins_after_the_open_holds_have_expired(scenario: Scenario) -> None:
    expiring = {m.reference_id for m in scenario.messages if m.kind == "expiring hold"}

    assert [phase.expired_holds for phase in scenario.phases] == [frozenset()] * 3 + [expiring]
    assert {
        json.loads(message.body)["ttlSeconds"]
        for message in scenario.messages
        if message.kind == "expiring hold"
    } == {1}


def test_day_opens_every_tier_and_names_packages_by_id_and_by_index(
    scenario: Scenario, packaged: Catalog
) -> None:
    bodies = [
        json.loads(message.body) for message in scenario.messages if message.kind in ("opening", "top-up")
    ]

    assert {body["tier"] for body in bodies if "tier" in body} == packaged.tiers.keys()
    assert any("packageId" in body for body in bodies)
    assert any("packageIndex" in body for body in bodies)


def test_decoder_refuses_malformed_messages_and_no_others(scenario: Scenario) -> None:
    for message in scenario.messages:
        decoded = decode(message.body, now=NOW, limits=Limits())
        is_refused = isinstance(decoded, Malformed) or decoded.type != message.routing_key
        assert is_refused == message.kind.startswith("malformed"), message.kind


def test_accounts_are_opened_before_their_use(scenario: Scenario) -> None:
    first, *later = scenario.phases
    opened = {json.loads(message.body)["userId"] for message in first.messages}
    unknown = {message.reference_id for message in scenario.messages if message.kind == "unknown account"}
    used = {
        command.user_id
        for phase in later
        for message in phase.messages
        if message.reference_id not in unknown
        for command in _commands(message)
    }

    assert used <= opened


def test_command_about_an_operation_is_in_a_later_phase(
    scenario: Scenario,
) -> None:
    phase_of = {
        command.reference_id: number
        for number, phase in reversed(list(enumerate(scenario.phases)))
        for message in phase.messages
        for command in _commands(message)
    }
    for message in scenario.messages:
        if message.kind in ("early refund", "unknown hold", "delivered again"):
            continue
        for command in _commands(message):
            original = getattr(command, "original_reference_id", None)
            if original is not None:
                assert phase_of[original] < phase_of[command.reference_id], message.kind


def test_copies_have_the_same_bytes_and_other_messages_differ(scenario: Scenario) -> None:
    fresh = [message for message in scenario.messages if message.kind != "delivered again"]
    again = [message for message in scenario.messages if message.kind == "delivered again"]

    by_id = {message.message_id: message for message in fresh}
    assert len(by_id) == len(fresh)
    assert all(by_id[message.message_id].body == message.body for message in again)


def test_seed_decides_the_day(packaged: Catalog) -> None:
    def bodies(seed: int, suffix: str = "") -> list[bytes]:
        scenario = day_scenario(random.Random(seed), NOW, packaged, messages=200, suffix=suffix)
        return [message.body for message in scenario.messages]

    assert bodies(7) == bodies(7)
    assert bodies(7) != bodies(8)
    assert bodies(7) != bodies(7, suffix="-x")


def test_suffix_separates_two_days(packaged: Catalog) -> None:
    scenarios = [
        day_scenario(random.Random(1), NOW, packaged, messages=200, suffix=suffix)
        for suffix in ("-one", "-two")
    ]
    one, two = (
        {
            name
            for message in scenario.messages
            for command in _commands(message)
            for name in (command.user_id, command.reference_id)
        }
        for scenario in scenarios
    )

    assert one.isdisjoint(two)


def _commands(message: DemoMessage) -> tuple[Command, ...]:
    decoded = decode(message.body, now=NOW, limits=Limits())
    return () if isinstance(decoded, Malformed) else commands_of(decoded)


def test_package_of_several_prices_or_of_an_open_amount_is_paid_by_one_of_them(packaged: Catalog) -> None:
    fields = packaged.model_dump()
    several = {"id": "several", "tokens": 5_000, "prices": {"USD": 499, "EUR": 450}}
    open_ = {"id": "open", "rates": {"USD": {"tokens": 10, "per_minor": 3}}}
    catalog = Catalog.model_validate({**fields, "packages": [several, open_]})
    scenario = day_scenario(random.Random(1), NOW, catalog, messages=MESSAGES_MIN)
    bodies = [json.loads(message.body) for message in scenario.messages if message.kind == "purchase"]
    money = {(body["amountMinor"], body["currency"]) for body in bodies}
    assert money <= {(450, "EUR"), (3, "USD")}
    assert money
