"""Dead letters from end to end: producer, worker, operator, ledger."""

import json
from collections.abc import Iterator

import pytest

from schemas import OpenAccount
from tests.cli.console import Cli
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.queries import Reader
from worker.runtime.threads import beside
from worker.settings import Settings, environment_of

ZEROS = b"\0" * (256 * 1024)
FORGED = "amq.rabbitmq.reply-to.forged"


@pytest.fixture
def service(application: Application) -> Iterator[DeadLetters]:
    """The ``DeadLetters`` of a ledger with the account of ann, while a worker runs."""
    applied(
        application.engine, application.catalog, OpenAccount(reference_id="open", user_id="ann", tier="free")
    )
    with running(application):
        yield application.service()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, worker_settings: Settings) -> Cli:
    """The command line of an operator, beside the worker."""
    return Cli(monkeypatch, environment_of(worker_settings))


def dead_letters(service: DeadLetters, application: Application, count: int) -> list[int]:
    """Wait until ``count`` dead letters are drained; return their numbers."""

    def are_parked() -> bool:
        service.drain(link, wait_s=0.05)
        return service.counts().parked == count

    link = application.link(consume=[BILLING.dead.name])
    try:
        eventually(are_parked)
    finally:
        link.close()
    return [line.number for line in service.page().dead_letters]


def test_body_of_zeros_with_forged_headers_becomes_an_ordinary_dead_letter(
    application: Application, cli: Cli, rabbit: RabbitClient, service: DeadLetters
) -> None:
    headers = {f"header-{number}": "h" * 1_000 for number in range(85)}
    rabbit.publish(ZEROS, routing_key="usage.deduct", headers=headers, reply_to=FORGED, message_id="m-1")
    (number,) = dead_letters(service, application, 1)
    listed = cli("dead-letters", "list", "--json").json["deadLetters"]
    assert [(line["number"], line["reason"], line["size"]) for line in listed] == [
        (number, "not_json", len(ZEROS))
    ]
    assert listed[0]["tokensAtStake"] is None
    shown = cli("dead-letters", "show", str(number), "--json").json
    assert shown["body"].encode() == ZEROS
    assert shown["properties"]["properties"]["reply_to"] == FORGED
    assert cli("dead-letters", "show", str(number)).code == 0
    exported = cli("dead-letters", "export", str(number)).out.encode()
    assert cli("dead-letters", "import", "-", "--json", stdin=exported).json == {"added": 0, "known": 1}
    ended = cli("dead-letters", "replay", str(number), "--reason", "a try", "--json").json
    assert ended["counts"]["unroutable"] == 1, "a body without a type goes nowhere"
    dead_letter = service.dead_letter(number)
    assert (dead_letter.attempts, dead_letter.body, dead_letter.status) == (1, ZEROS, "parked")
    assert {name: dead_letter.properties["headers"][name] for name in headers} == headers


def test_edited_dead_letter_is_tried_dry_replayed_as_a_canary_and_applied(
    application: Application, cli: Cli, rabbit: RabbitClient, service: DeadLetters
) -> None:
    wrong = {"type": "usage.deduct", "referenceId": "job-1", "userId": "ann", "token": 500}
    correlation_id = rabbit.publish(wrong)
    (number,) = dead_letters(service, application, 1)
    (group,) = cli("dead-letters", "groups", "--json").json["groups"]
    assert (group["reason"], group["type"], group["users"]) == ("unknown_field", "usage.deduct", 1)
    judged = cli("dead-letters", "replay", "--group", group["fingerprint"], "--dry-run", "--json").json
    assert [(v["would"], v["field"]) for v in judged["forecasts"]] == [("malformed", "token")]
    mended = json.dumps({**{k: v for k, v in wrong.items() if k != "token"}, "tokens": 500}).encode()
    arguments = ("edit", str(number), "--reason", "a typo", "--from-file", "-", "--json")
    assert cli("dead-letters", *arguments, stdin=mended).json["tokensAtStake"] == 500
    judged = cli("dead-letters", "replay", str(number), "--dry-run", "--json").json
    assert [(v["would"], v["tokens"]) for v in judged["forecasts"]] == [("apply", 500)]
    canary = ("replay", str(number), "--canary", "1", "--reason", "mended", "--json")
    ended = cli("dead-letters", *canary).json
    assert (ended["state"], ended["counts"]["applied"]) == ("finished", 1)
    replies = rabbit.replies({correlation_id})[correlation_id]
    replies += [] if len(replies) > 1 else rabbit.replies({correlation_id})[correlation_id]
    assert [reply["status"] for reply in replies] == ["failed", "applied"]
    reader = Reader(application.engine)
    assert reader.balance("ann", utc_now(), application.catalog).used == 500
    assert service.dead_letter(number).status == "resolved"
    assert service.page(DeadLetterFilter(reference_id="job-1")).dead_letters == ()


def test_dead_letter_that_cannot_be_published_delays_no_other(
    application: Application, rabbit: RabbitClient, service: DeadLetters
) -> None:
    rabbit.publish({"type": "usage.deduct", "referenceId": "job-1", "userId": "ann", "tokenz": 5})
    (number,) = dead_letters(service, application, 1)
    line = json.loads(next(service.export([number], "ann")))
    strange = [
        {"headers": {"huge": 2**70}},
        {"headers": {"half": {"$text": "7aCA"}}},
        {"headers": {f"h{n}": "x" * 1_000 for n in range(140)}},
        {"properties": {"message_id": "m" * 300}},
        {"properties": {"priority": "high"}},
    ]
    service.import_lines(
        [json.dumps({**line, "letterId": f"s{n}", "properties": some}) for n, some in enumerate(strange)],
        "ann",
    )
    good = service.dead_letter(number).body.replace(b"tokenz", b"tokens")
    service.edit(number, good, "a typo", "ann", instead_of=service.dead_letter(number).body)
    created = service.create_replay(DeadLetterFilter(), "mended", "ann")
    ended = application.replayer().run(created.number, "ann", stop=FlagStop())
    assert ended.state == "finished"
    assert ended.counts["applied"] == 1
    assert ended.counts["unroutable"] + ended.counts["failed_again"] == len(strange)
    assert ended.counts["unroutable"] >= 3


def test_drainer_moves_dead_letters_as_they_arrive(application: Application, rabbit: RabbitClient) -> None:
    stop = FlagStop()
    service = application.service()
    with beside(stop, drainer=application.drainer().run):
        rabbit.publish(b"oops", exchange="", routing_key=BILLING.dead.name)
        eventually(lambda: service.counts().parked == 1)
        rabbit.publish(b"again", exchange="", routing_key=BILLING.dead.name)
        eventually(lambda: service.counts().parked == 2)
    assert rabbit.depth(BILLING.dead.name) == 0
