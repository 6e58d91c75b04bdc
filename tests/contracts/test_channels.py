"""Classification of changes of exchanges and queues: each rule by one change of today's topology."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.broker.topology import BILLING, Queue, Topology
from worker.contract.asyncapi import asyncapi
from worker.contract.bundle import bundle
from worker.contract.channels import channels_of
from worker.contract.consequences import Change, Consequence
from worker.contract.diff import changes, is_allowed, main
from worker.contract.files import RELEASED_CHANNELS

COMPATIBLE, WORKER_FIRST, _, BREAKING = Consequence
PAYMENTS, USAGE, BULK = BILLING.work
CLASSIC = {"x-queue-type": "classic"}


def between(old: Topology, new: Topology) -> list[Change]:
    return changes(asyncapi(old), asyncapi(new))


def summary(found: list[Change]) -> set[tuple[Consequence, str]]:
    return {(change.consequence, change.place) for change in found}


def work(*queues: Queue) -> Topology:
    """Return today's topology with other queues of work."""
    return replace(BILLING, work=queues)


#: Topology of tomorrow, and all that it changes.
RULES: dict[str, tuple[Topology, set[tuple[Consequence, str]]]] = {
    "nothing": (BILLING, set()),
    "queue of work vanishes, and its keys lead nowhere": (
        work(PAYMENTS, BULK),
        {(BREAKING, "queue billing.usage"), (BREAKING, "exchange billing")},
    ),
    "queue of work has another name": (
        work(PAYMENTS, replace(USAGE, name="billing.metering"), BULK),
        {
            (BREAKING, "queue billing.usage"),
            (WORKER_FIRST, "queue billing.metering"),
            (WORKER_FIRST, "exchange billing"),
        },
    ),
    "queue of replies vanishes": (
        replace(BILLING, replies=Queue("billing.answers")),
        {(BREAKING, "queue billing.replies"), (COMPATIBLE, "queue billing.answers")},
    ),
    "queue of dead letters vanishes": (
        replace(BILLING, dead=Queue("billing.graves")),
        {
            (BREAKING, "queue billing.dead"),
            (COMPATIBLE, "queue billing.graves"),
            *((COMPATIBLE, f"queue {queue.name}") for queue in BILLING.work),  # their policies name it
        },
    ),
    "queue is of another type": (
        work(PAYMENTS, replace(USAGE, arguments=CLASSIC), BULK),
        {(BREAKING, "queue billing.usage")},
    ),
    "queue has another argument": (
        work(PAYMENTS, replace(USAGE, arguments={**USAGE.arguments, "x-max-length": "9"}), BULK),
        {(BREAKING, "queue billing.usage")},
    ),
    "queue of replies is of another type": (
        replace(BILLING, replies=Queue("billing.replies", arguments=CLASSIC)),
        {(BREAKING, "queue billing.replies")},
    ),
    "key leads nowhere": (
        work(replace(PAYMENTS, routing_keys=("payment.*", "account.*", "subscription.*")), USAGE, BULK),
        {(BREAKING, "exchange billing")},
    ),
    "key leads to another queue": (
        work(
            replace(PAYMENTS, routing_keys=("payment.*", "account.*", "subscription.*")),
            replace(USAGE, routing_keys=("usage.*", "credit.*")),
            BULK,
        ),
        {(WORKER_FIRST, "exchange billing")},
    ),
    "key leads to two queues": (
        work(PAYMENTS, USAGE, Queue("billing.copies", ("usage.*",)), BULK),
        {(WORKER_FIRST, "queue billing.copies"), (WORKER_FIRST, "exchange billing")},
    ),
    "key is written another way": (
        work(PAYMENTS, replace(USAGE, routing_keys=("usage.[a-z]*",)), BULK),
        set(),
    ),
    "exchange takes more": (
        work(PAYMENTS, USAGE, replace(BULK, routing_keys=("usage.*", "credit.*"))),
        {(WORKER_FIRST, "exchange billing.bulk")},
    ),
    "exchange of commands has another name": (
        replace(
            BILLING,
            bulk_exchange="billing.slow",
            work=(PAYMENTS, USAGE, replace(BULK, exchange="billing.slow")),
        ),
        {(BREAKING, "exchange billing.bulk"), (WORKER_FIRST, "exchange billing.slow")},
    ),
    "exchange of notices has another name": (
        replace(BILLING, events="billing.notices"),
        {(BREAKING, "exchange billing.events"), (COMPATIBLE, "exchange billing.notices")},
    ),
}


@pytest.mark.parametrize(("topology", "expected"), RULES.values(), ids=RULES)
def test_change_of_the_topology_has_its_consequence(
    topology: Topology, expected: set[tuple[Consequence, str]]
) -> None:
    old, new = asyncapi(BILLING), asyncapi(topology)
    found = changes(old, new)
    assert summary(found) == expected, [str(one) for one in found]
    assert is_allowed(found, old, new) is all(consequence is not BREAKING for consequence, _ in expected)


def test_change_names_the_type_that_leads_nowhere() -> None:
    texts = [change.text for change in between(BILLING, work(PAYMENTS, BULK))]
    assert "usage.deduct leads to no queue any more" in texts


def test_change_names_both_queues_of_a_moved_route() -> None:
    tomorrow = work(PAYMENTS, replace(USAGE, name="billing.metering"), BULK)
    texts = [change.text for change in between(BILLING, tomorrow)]
    assert "usage.deduct led to billing.usage and leads to billing.metering" in texts


@pytest.mark.parametrize(
    ("channel", "field", "value"),
    [
        ("queue.billing.usage", "durable", False),
        ("billing", "type", "direct"),
        ("billing.events", "type", "fanout"),
    ],
)
def test_declaration_that_the_broker_refuses_is_breaking(channel: str, field: str, value: Any) -> None:
    old, new = asyncapi(), deepcopy(asyncapi())
    binding = new["channels"][channel]["bindings"]["amqp"]
    binding["queue" if binding["is"] == "queue" else "exchange"][field] = value
    (change,) = changes(old, new)
    assert change.consequence is BREAKING
    assert change.text.startswith(f"{field} was ")


def test_policy_may_be_set_at_any_time() -> None:
    old, new = asyncapi(), deepcopy(asyncapi())
    new["channels"]["queue.billing.usage"]["x-policy"]["delivery-limit"] = 5
    assert summary(changes(old, new)) == {(COMPATIBLE, "queue billing.usage")}


def test_message_that_the_worker_sends_may_come_and_must_not_go() -> None:
    old, new = asyncapi(), deepcopy(asyncapi())
    del new["channels"]["billing.events"]["messages"]["balance.low"]
    assert summary(changes(old, new)) == {(BREAKING, "exchange billing.events")}
    assert summary(changes(new, old)) == {(COMPATIBLE, "exchange billing.events")}


def test_breaking_change_of_a_queue_needs_a_new_major_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = asyncapi(work(PAYMENTS, BULK))
    before, after = tmp_path / "old.json", tmp_path / "new.json"
    before.write_text(json.dumps(channels_of(asyncapi())))
    after.write_text(json.dumps(new))
    assert main([str(before), str(after)]) == 1
    assert "breaking: queue billing.usage: it is gone" in capsys.readouterr().out
    new["info"]["version"] = str(int(new["info"]["version"]) + 1)
    after.write_text(json.dumps(new))
    assert main([str(before), str(after)]) == 0


def test_bundle_is_not_compared_with_a_topology(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "old.json", tmp_path / "new.json"
    before.write_text(json.dumps(bundle()))
    after.write_text(json.dumps(asyncapi()))
    for paths in ([before, after], [after, before]):
        with pytest.raises(SystemExit):
            main(list(map(str, paths)))
        assert "one is a bundle and the other" in capsys.readouterr().err


def test_topology_breaks_nothing_since_the_last_release() -> None:
    old = json.loads(RELEASED_CHANNELS.read_text(encoding="utf-8"))
    found = changes(old, asyncapi())
    assert is_allowed(found, old, asyncapi()), [str(one) for one in found if one.consequence is BREAKING]
