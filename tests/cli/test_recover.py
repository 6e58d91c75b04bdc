"""``recover``: what the journal keeps goes through the queues again, on a real broker."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.console import Cli, FilledLedger
from tests.support.rabbit_client import RabbitClient
from tests.support.short_quiet import short_quiet
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.broker import BILLING, JournalLimits, Outgoing, open_link
from worker.broker.journal import open_journal
from worker.ledger.queries import snapshot
from worker.ledger.queries.outcomes import stored_outcomes
from worker.ledger.store import Ledger
from worker.settings import load_settings

_SINCE = ("--since", "1h")


@pytest.fixture(autouse=True)
def _short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait at the end of a stream: the broker of the tests answers at once."""
    short_quiet(monkeypatch)


@pytest.fixture
def journal_cli(cli: Cli, broker_url: str, ledger: FilledLedger) -> Cli:
    """The command line on a broker with a journal, and a ledger with an account of ann."""
    link = open_link(broker_url)
    link.declare_journal(BILLING, JournalLimits())
    link.close()
    ledger.open("ann")
    return cli


@pytest.fixture
def application(journal_cli: Cli, broker_url: str, sqlite_url: str) -> Iterator[Application]:
    application = Application(load_settings(broker_url=broker_url, database_url=sqlite_url, readers=0))
    yield application
    application.engine.dispose()


@pytest.fixture
def lost(rabbit: RabbitClient, journal_cli: Cli) -> Callable[..., None]:
    """Publish messages that were acknowledged, and whose outcomes the restored ledger has not."""

    def publish(*messages: dict[str, Any] | bytes, **properties: Any) -> None:
        for message in messages:
            rabbit.publish(message, **properties)
        for queue in BILLING.work:
            rabbit.channel.queue_purge(queue.name)

    return publish


def work(application: Application) -> None:
    """Work as a worker does until the queues are empty, and drain the dead letters."""
    pipeline = application.pipeline(Ledger(application.engine))
    link = application.link(consume=[queue.name for queue in BILLING.work])
    while deliveries := link.receive(500, 0.3):
        items = pipeline.receive(deliveries)
        pipeline.apply(items)
        pipeline.reply_and_acknowledge(link, items)
    link.close()
    dead = application.link(consume=[BILLING.dead.name])
    application.service().drain(dead, wait_s=0.1)
    dead.close()


def deduct(reference: str, **fields: Any) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "ann", "tokens": 1, **fields}


def waiting(rabbit: RabbitClient) -> int:
    return sum(rabbit.depth(queue.name) for queue in BILLING.work)


def test_lost_commands_are_applied_without_replies_and_deadlines(
    journal_cli: Cli, application: Application, rabbit: RabbitClient, lost: Callable[..., None]
) -> None:
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    lost(deduct("d-1"), deduct("d-2", validUntil=past), deduct("d-3", tokens=10**9))
    lost(deduct("d-4"), exchange="billing.bulk")
    before = journal_cli("recover", "--check", *_SINCE)
    assert before.code == 1
    assert [row[2] for row in before.rows[1:5]] == ["d-1", "d-2", "d-3", "d-4"]
    assert before.lines[-1] == (
        "4 commands in 4 messages: 4 have no outcome, 0 are dead letters; 0 messages are no commands"
    )
    rehearsed = journal_cli("recover", "--dry-run", *_SINCE)
    assert (rehearsed.code, waiting(rabbit)) == (0, 0)
    recovered = journal_cli("recover", *_SINCE)
    assert recovered.code == 0, recovered.all
    assert recovered.lines == ["published 4, dead letters again 0, refused 0, skipped 0"]
    assert rabbit.depth("billing.bulk") == 1, "each goes by the exchange it came by"
    work(application)
    with snapshot(application.engine) as connection:
        outcomes = stored_outcomes(connection, [f"d-{n}" for n in (1, 2, 3, 4)])
    codes = [str(outcomes[f"d-{n}"].code) for n in (1, 2, 3, 4)]
    assert codes == ["tokens_deducted", "tokens_deducted", "insufficient_balance", "tokens_deducted"]
    assert (rabbit.depth(rabbit.reply_queue), rabbit.depth(BILLING.replies.name)) == (0, 0)
    after = journal_cli("recover", "--check", *_SINCE, "--json")
    assert after.code == 0, after.all
    assert (after.json["lacking"], after.json["commands"]) == ([], 8), "the copies are in the journal too"


def test_second_recovery_publishes_each_message_once(
    journal_cli: Cli, rabbit: RabbitClient, lost: Callable[..., None]
) -> None:
    lost(*(deduct(f"d-{n}") for n in range(5)))
    for copies in (0, 5, 10):
        ended = journal_cli("recover", *_SINCE, "--json")
        counts = {name: ended.json[name] for name in ("published", "skipped", "isDone")}
        assert counts == {"published": 5, "skipped": copies, "isDone": True}
    assert waiting(rabbit) == 15


def test_message_that_its_sender_may_not_send_today_is_listed_and_not_published(
    journal_cli: Cli, rabbit: RabbitClient, lost: Callable[..., None]
) -> None:
    lost(deduct("mine", tokens=5), deduct("anonymous"), reply_to=None, user_id=None)
    lost(deduct("ours"))
    rules = json.dumps({"usage.*": {rabbit.user: ""}})
    ended = journal_cli("recover", *_SINCE, "--json", BILLING_SENDERS=rules)
    assert ended.code == 1
    refused = [
        (one["use"], one["referenceId"], one["sender"], one["reason"]) for one in ended.json["messages"]
    ]
    assert refused == [("refused", reference, None, "wrong_sender") for reference in ("mine", "anonymous")]
    assert json.loads(ended.json["messages"][0]["body"]) == deduct("mine", tokens=5)
    assert (ended.json["published"], ended.json["refused"], waiting(rabbit)) == (1, 2, 1)


def test_message_that_walked_past_the_exchanges_is_refused_in_the_journal_as_well(
    journal_cli: Cli, rabbit: RabbitClient, lost: Callable[..., None]
) -> None:
    channel = rabbit.channel
    channel.exchange_declare("mine", "topic")
    channel.exchange_bind("billing", "mine", "#")
    lost(deduct("bound"), exchange="mine")
    lost(b"oops", exchange="mine", routing_key="usage.deduct")
    ended = journal_cli("recover", *_SINCE, "--json")
    assert ended.code == 1
    assert [(one["use"], one["referenceId"], one["reason"]) for one in ended.json["messages"]] == [
        ("refused", "bound", "wrong_exchange"),
        ("refused", None, "not_json"),
    ]
    assert waiting(rabbit) == 0


def test_dead_letters_come_again_once_and_messages_of_operators_are_listed(
    journal_cli: Cli, application: Application, lost: Callable[..., None]
) -> None:
    lost(b"no JSON", routing_key="usage.deduct")
    adjust = {"type": "credit.adjust", "referenceId": "a-1", "userId": "ann", "tokens": 5}
    adjust |= {"reason": "a slip", "actor": "ann"}
    lost(adjust, app_id="billing-worker adjust")
    lost(deduct("d-1"), headers={"x-billing-replay": 3, "x-billing-replay-letter": 7})
    ended = journal_cli("recover", *_SINCE)
    assert ended.code == 0, ended.all
    assert [(row[0], row[2], row[3], row[6].partition(":")[0]) for row in ended.rows[1:4]] == [
        ("dead letter", "usage.deduct", "", "not_json"),
        ("operator", "credit.adjust", "a-1", "adjust"),
        ("operator", "usage.deduct", "d-1", "replay 3 of dead letter 7"),
    ]
    work(application)
    assert application.service().counts().parked == 1
    application.service().discard([1], "seen", "ann")
    again = journal_cli("recover", *_SINCE, "--json")
    assert (again.json["deadLetters"], again.json["skipped"]) == (0, 4), "it is known, the others are copies"


def test_command_comes_again_beside_its_dead_letter_unless_that_was_discarded(
    journal_cli: Cli, application: Application, rabbit: RabbitClient
) -> None:
    rabbit.publish(deduct("d-1"))
    work(application)
    rabbit.publish(deduct("d-1", tokens=2))
    work(application)
    assert application.service().counts().parked == 1
    parked = journal_cli("recover", "--dry-run", *_SINCE, "--json")
    assert (parked.json["published"], parked.json["messages"]) == (2, [])
    application.service().discard([1], "seen", "ann")
    discarded = journal_cli("recover", "--dry-run", *_SINCE, "--json")
    assert (discarded.json["published"], discarded.json["skipped"]) == (1, 1)
    assert [(one["use"], one["referenceId"]) for one in discarded.json["messages"]] == [("discarded", "d-1")]


def test_recovery_is_in_the_activity_log_and_goes_on_by_its_number(
    journal_cli: Cli, application: Application, lost: Callable[..., None]
) -> None:
    lost(deduct("d-1"))
    journal_cli("recover", *_SINCE, "--actor", "bob")
    (entry,) = application.service().activity_log().entries
    assert (entry.actor, entry.action, entry.subject) == ("bob", "recover", "recovery 1")
    again = journal_cli("recover", "--resume", "1")
    assert (again.code, again.lines) == (0, ["published 1, dead letters again 0, refused 0, skipped 0"])
    unknown = journal_cli("recover", "--resume", "2")
    assert (unknown.code, "no recovery 2" in unknown.error) == (4, True)


def test_stopped_recovery_names_the_command_that_goes_on(
    journal_cli: Cli, rabbit: RabbitClient, lost: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost(deduct("d-1"))
    with monkeypatch.context() as patch:
        patch.setattr("worker.cli.recover.SignalStop", _Stopped)
        stopped = journal_cli("recover", *_SINCE)
    assert (stopped.code, waiting(rabbit)) == (1, 0)
    assert stopped.err.endswith("go on with: billing-worker recover --resume 1\n")
    assert (journal_cli("recover", "--resume", "1").code, waiting(rabbit)) == (0, 1)


class _Stopped:
    requested = True

    def install(self) -> None:
        pass


def test_recovery_begins_only_where_every_queue_of_work_is_there(
    journal_cli: Cli, rabbit: RabbitClient, lost: Callable[..., None]
) -> None:
    lost(deduct("d-1"))
    rabbit.channel.queue_delete("billing.usage")  # the journal takes its messages, and nothing comes back
    ended = journal_cli("recover", *_SINCE)
    assert ended.code == 3
    assert "billing.usage" in ended.err
    assert "run `billing-worker topology declare`" in ended.err
    assert journal_cli("recover", *_SINCE, "--dry-run").lines[0].startswith("published 1,")


def test_recovery_of_an_empty_time_does_nothing(journal_cli: Cli) -> None:
    ended = journal_cli("recover", *_SINCE)
    assert (ended.code, ended.lines[-1].endswith("nothing was sent since")) == (0, True)


def test_recovery_without_a_journal_names_the_way_out(cli: Cli, ledger: FilledLedger) -> None:
    ended = cli("recover", *_SINCE)
    assert ended.code == 2
    assert "there is no journal 'billing.journal': `billing-worker topology declare --journal`" in ended.error


def test_embedded_broker_refuses_a_journal(ledger_cli: Cli) -> None:
    ledger_cli.environment["BILLING_BROKER_URL"] = "sqla+sqlite:///broker.sqlite3"
    for words in (("recover", *_SINCE), ("topology", "declare", "--journal")):
        ended = ledger_cli(*words)
        assert (ended.code, "the embedded broker keeps no journal" in ended.error) == (2, True)


def test_journal_whose_limits_have_dropped_messages_says_since_when_it_reaches(
    cli: Cli, broker_url: str, ledger: FilledLedger
) -> None:
    link = open_link(broker_url)
    link.declare_journal(BILLING, JournalLimits(max_bytes=2 * 10**6, segment_bytes=10**6))
    filling = deduct("d") | {"description": "x" * 400}
    for _ in range(12):  # a segment ends with a chunk, and each publish is one at least
        link.publish([Outgoing(json.dumps(filling).encode(), "billing", "usage.deduct")] * 500)
    link.close()
    with closing(open_journal(broker_url, BILLING.journal)) as journal:
        eventually(lambda: (found := journal.offsets()) is not None and found.first > 0)
        kept = journal.offsets()
    assert kept is not None
    assert kept.last > 5_999, "the broker leaves out a number where it begins a segment"
    ended = cli("recover", "--dry-run", *_SINCE, "--json")
    assert ended.code == 1
    assert ended.json["span"] == {
        "first": kept.first,
        "last": kept.last,
        "oldest": kept.first,
        "isCovered": False,
    }
    assert re.search(r"the journal begins at 20.*Z, and its limits have dropped what was before", ended.err)
    assert cli("recover", "--check", *_SINCE).code == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give --since TIME, or --resume NUMBER"),
        (("--since", "1h", "--resume", "1"), "give --since TIME, or --resume NUMBER"),
        (("--since", "1h", "--dry-run", "--check"), "exclude each other"),
        (("--resume", "1", "--check"), "for --dry-run and --check give --since TIME"),
        (("--since", "1h", "--rate", "0"), "must be like 50/s"),
    ],
)
def test_contradictory_options_are_refused(ledger_cli: Cli, words: tuple[str, ...], expected: str) -> None:
    ended = ledger_cli("recover", *words)
    assert (ended.code, expected in ended.err) == (2, True)
