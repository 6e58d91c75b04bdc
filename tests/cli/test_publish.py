"""``publish``: send JSON lines from a file or a stream, confirm or name each, go on after an interruption."""

import hashlib
import json
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas import partition_of, slot_of
from tests.cli.console import Cli, FilledLedger
from tests.support.forked_python import ForkedPython
from tests.support.message_bodies import MINIMAL
from tests.support.processes import worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import Outgoing, PublishResult
from worker.broker.rabbitmq.link import AmqpLink
from worker.cli import publish as publish_module
from worker.errors import BrokerUnavailableError
from worker.ledger.engine import ledger_engine
from worker.runtime.identity import system_user
from worker.settings import load_settings

GOOD = {"type": "usage.deduct", "referenceId": "r-0", "userId": "ann", "tokens": 5}


def lines(count: int, *, first: int = 0) -> bytes:
    return b"".join(
        json.dumps(GOOD | {"referenceId": f"r-{number}"}).encode() + b"\n" for number in range(first, count)
    )


def references(taken: Sequence[tuple[Any, bytes]]) -> list[str]:
    return [json.loads(body)["referenceId"] for _, body in taken]


def types(taken: Sequence[tuple[Any, bytes]]) -> list[str]:
    return [json.loads(body)["type"] for _, body in taken]


# -- sending ----------------------------------------------------------------------------------------------


def test_file_is_published_line_by_line(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    Path("day.jsonl").write_bytes(lines(3))
    ended = publishing_cli("publish", "day.jsonl")
    assert (ended.code, ended.out, ended.err) == (0, "published 3, refused 0, unroutable 0\n", "")
    assert references(rabbit.take("billing.usage", 3)) == ["r-0", "r-1", "r-2"]
    assert [path.name for path in Path().iterdir()] == ["day.jsonl"], "the mark is gone"


def test_lines_go_to_the_partitions_of_their_users(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    assert publishing_cli("topology", "declare", "--partitions", "8").code == 0
    items = [GOOD | {"referenceId": f"i-{user}", "userId": user} for user in ("ada", "ann")]
    batch = {"type": "usage.batch", "referenceId": "b", "items": items}
    Path("day.jsonl").write_bytes(lines(1) + json.dumps(batch).encode())
    for lane in ("interactive", "bulk"):
        ended = publishing_cli("publish", "day.jsonl", "--lane", lane, BILLING_PARTITIONS="8")
        assert ended.out == "published 2, refused 0, unroutable 0\n"
    partition = partition_of(slot_of("ann"), 8)
    for lane in ("billing.usage", "billing.bulk"):
        assert references(rabbit.take(f"{lane}.{partition:02d}", 1)) == ["r-0"]
        assert references(rabbit.take(lane, 1)) == ["b"]  # users of several partitions


def test_standard_input_is_published_too(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    assert publishing_cli("publish", "-", stdin=lines(2)).code == 0
    assert references(rabbit.take("billing.usage", 2)) == ["r-0", "r-1"]
    assert list(Path().iterdir()) == []


def test_bytes_of_a_line_are_sent_as_they_are(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    line = '{"type":"usage.deduct",  "referenceId":"ü-1","userId":"\\u00fc","tokens":5}'.encode()
    publishing_cli("publish", "-", stdin=b"\n  " + line + b" \r\n\n")
    ((properties, body),) = rabbit.take("billing.usage", 1)
    assert body == line
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    assert properties.reply_to is None


def test_replies_go_where_they_are_asked_to(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    publishing_cli("publish", "-", "--reply-to", rabbit.reply_queue, stdin=lines(1))
    ((properties, _),) = rabbit.take("billing.usage", 1)
    assert properties.reply_to == rabbit.reply_queue


def test_broker_vouches_for_the_user_who_published(
    publishing_cli: Cli, rabbit: RabbitClient, broker_url: str
) -> None:
    publishing_cli("publish", "-", stdin=lines(1))
    ((properties, _),) = rabbit.take("billing.usage", 1)
    assert properties.user_id == broker_url.partition("://")[2].partition(":")[0]


def test_message_published_by_the_operator_passes_the_sender_rules(
    cli: Cli, rabbit: RabbitClient, broker_url: str
) -> None:
    user = broker_url.partition("://")[2].partition(":")[0]
    line = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
    cli("publish", "-", "--reply-to", rabbit.reply_queue, stdin=json.dumps(line).encode())
    cli("run", "--drain", BILLING_SENDERS=json.dumps({"account.*": [user]}))
    ((_, body),) = rabbit.take(rabbit.reply_queue, 1)
    assert json.loads(body)["status"] == "applied"


def test_message_ids_are_the_same_each_time_and_differ_between_lines(
    publishing_cli: Cli, rabbit: RabbitClient
) -> None:
    for _ in range(2):
        publishing_cli("publish", "-", stdin=lines(3))
    ids = [properties.message_id for properties, _ in rabbit.take("billing.usage", 6)]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3


def test_lines_go_to_the_queues_of_their_types(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    opened = json.dumps(
        {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
    ).encode()
    assert publishing_cli("publish", "-", stdin=lines(1) + opened).code == 0
    assert references(rabbit.take("billing.payments", 1)) == ["o"]
    assert references(rabbit.take("billing.usage", 1)) == ["r-0"]


def test_bulk_lane_takes_the_usage_of_a_file(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    opening = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
    ended = publishing_cli("publish", "-", "--lane", "bulk", stdin=lines(2) + json.dumps(opening).encode())
    assert (ended.code, ended.out) == (1, "published 2, refused 1, unroutable 0\n")
    assert ended.err == "line 3: wrong_lane: the bulk lane takes usage.*, not account.open\n"
    assert references(rabbit.take("billing.bulk", 2)) == ["r-0", "r-1"]
    assert rabbit.depth("billing.usage") == rabbit.depth("billing.payments") == 0


def test_batch_is_one_line_and_one_message(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    items = [{name: value for name, value in GOOD.items() if name != "userId"}]
    batch = {"type": "usage.batch", "referenceId": "b-1", "userId": "ann", "items": items}
    assert publishing_cli("publish", "-", stdin=json.dumps(batch).encode()).code == 0
    ((_, body),) = rabbit.take("billing.usage", 1)
    assert json.loads(body) == batch
    bare = {name: value for name, value in batch.items() if name != "type"}
    again = publishing_cli("publish", "-", "--type", "usage.batch", stdin=json.dumps(bare).encode())
    assert again.out == "published 1, refused 0, unroutable 0\n"


def test_every_type_finds_its_queue(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    stdin = b"".join(json.dumps(message).encode() + b"\n" for message in MINIMAL.values())
    ended = publishing_cli("publish", "-", stdin=stdin)
    assert ended.out == f"published {len(MINIMAL)}, refused 0, unroutable 0\n"
    usage = [type_ for type_ in MINIMAL if type_.startswith("usage.")]
    assert types(rabbit.take("billing.usage", len(usage))) == usage
    others = [type_ for type_ in MINIMAL if type_ not in usage]
    assert types(rabbit.take("billing.payments", len(others))) == others


# -- lines without a type ---------------------------------------------------------------------------------


def test_type_option_is_for_lines_without_a_type(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    bare = b'{"referenceId":"x",  "userId":"ann","tokens":1}'
    ended = publishing_cli("publish", "-", "--type", "usage.deduct", stdin=bare + b"\n" + lines(1))
    assert ended.code == 0
    (_, first), (_, second) = rabbit.take("billing.usage", 2)
    assert first == b'{"type": "usage.deduct", ' + bare[1:], "the rest is as it was"
    assert json.loads(second) == GOOD


def test_replies_option_is_for_lines_that_do_not_say_it(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    said = json.dumps(GOOD | {"referenceId": "r-1", "replies": "all"}).encode()
    untyped = json.dumps({name: GOOD[name] for name in ("referenceId", "userId", "tokens")}).encode()
    options = ("--replies", "none", "--type", "usage.deduct")
    ended = publishing_cli("publish", "-", *options, stdin=lines(1) + said + b"\n" + untyped)
    assert ended.code == 0
    bodies = [json.loads(body) for _, body in rabbit.take("billing.usage", 3)]
    assert [body["replies"] for body in bodies] == ["none", "all", "none"]
    assert {body["type"] for body in bodies} == {"usage.deduct"}


def test_type_option_mends_nothing_else(publishing_cli: Cli) -> None:
    twice = b'{"referenceId":"x","userId":"ann","tokens":1,"tokens":2}\n'
    ended = publishing_cli("publish", "-", "--type", "usage.deduct", stdin=twice + b"{}\n[1]\nno\n")
    assert ended.code == 1
    assert [line.split(":")[1].strip() for line in ended.err.splitlines()] == [
        "duplicate_field",
        "missing_field",
        "not_an_object",
        "not_json",
    ]


# -- refused lines ----------------------------------------------------------------------------------------


def test_lines_the_worker_would_refuse_are_named_and_not_sent(
    publishing_cli: Cli, rabbit: RabbitClient
) -> None:
    stdin = (
        lines(1) + b"oops\n\n" + json.dumps(GOOD | {"tokens": -1}).encode() + b"\n\xff\n" + lines(2, first=1)
    )
    ended = publishing_cli("publish", "-", stdin=stdin)
    assert (ended.code, ended.out) == (1, "published 2, refused 3, unroutable 0\n")
    assert [line.split(":")[:2] for line in ended.err.splitlines()] == [
        ["line 2", " not_json"],
        ["line 4", " invalid_field"],
        ["line 5", " not_utf8"],
    ]
    assert references(rabbit.take("billing.usage", 2)) == ["r-0", "r-1"]


def test_bad_item_is_named_by_its_place_and_nothing_of_the_batch_is_sent(
    publishing_cli: Cli, rabbit: RabbitClient
) -> None:
    batch = {"type": "usage.batch", "referenceId": "b-1", "items": [GOOD, GOOD | {"tokens": -1}]}
    ended = publishing_cli("publish", "-", stdin=json.dumps(batch).encode())
    assert (ended.code, ended.out) == (1, "published 0, refused 1, unroutable 0\n")
    assert ended.err == "line 1: invalid_field: items.1.tokens: must be 0 or more\n"
    assert rabbit.depth("billing.usage") == 0
    again = publishing_cli("publish", "-", "--unchecked", stdin=json.dumps(batch).encode())
    assert again.out == "published 1, refused 0, unroutable 0\n"
    ((_, body),) = rabbit.take("billing.usage", 1)
    assert json.loads(body) == batch


def test_maximum_is_the_one_that_is_configured(publishing_cli: Cli) -> None:
    ended = publishing_cli("publish", "-", stdin=lines(1), BILLING_MAX_QUANTITY="4")
    assert ended.code == 1
    assert "line 1: invalid_field: tokens: at most 4 is taken." in ended.err


def test_unchecked_lines_are_sent_as_they_are(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    stdin = b'oops\n\xff\n{"type": "usage.deduct"}\n{"type": 5}\n{"type": "' + b"u" * 300 + b'"}\n'
    ended = publishing_cli("publish", "-", "--unchecked", stdin=stdin)
    assert (ended.code, ended.out) == (0, "published 5, refused 0, unroutable 0\n")
    assert [body for _, body in rabbit.take("billing.usage", 5)] == stdin.splitlines()


def test_lines_that_no_queue_takes_are_named(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    nowhere = b'{"type": "nowhere.at_all"}\n'
    ended = publishing_cli("publish", "-", "--unchecked", stdin=lines(1) + nowhere + nowhere + lines(1))
    assert (ended.code, ended.out) == (1, "published 2, refused 0, unroutable 2\n")
    assert ended.err.splitlines() == [
        "line 2: no queue takes 'nowhere.at_all'",
        "line 3: no queue takes 'nowhere.at_all'",
    ]
    assert rabbit.depth("billing.usage") == 2


def test_publish_without_the_topology_sends_nothing(ledger_cli: Cli, bare_broker_url: str) -> None:
    ended = ledger_cli("publish", "-", stdin=lines(1), BILLING_BROKER_URL=bare_broker_url)
    assert ended.code == 3
    assert "billing-worker topology declare" in ended.error


@pytest.mark.parametrize("source", ["missing.jsonl", "."])
def test_file_that_cannot_be_read_is_wrong_usage(publishing_cli: Cli, source: str) -> None:
    ended = publishing_cli("publish", source)
    assert ended.code == 2
    assert ended.error.startswith(f"{source} can't be read: ")


def test_empty_file_is_published(publishing_cli: Cli) -> None:
    Path("empty.jsonl").touch()
    ended = publishing_cli("publish", "empty.jsonl")
    assert (ended.code, ended.out) == (0, "published 0, refused 0, unroutable 0\n")


def test_progress_bar_is_for_terminals_alone(publishing_cli: Cli) -> None:
    Path("day.jsonl").write_bytes(lines(3))
    shown = publishing_cli("publish", "day.jsonl", terminal=True)
    assert "publishing" in shown.err
    assert "3/3" in shown.err
    assert publishing_cli("publish", "day.jsonl").err == ""


# -- going on after an interruption -----------------------------------------------------------------------


class Interruption:
    """Loss of the connection in chunk number ``chunk``, before or ``after`` it has reached the broker."""

    def __init__(self, patch: pytest.MonkeyPatch, *, chunk: int, after: bool) -> None:
        self._left = chunk
        publish = AmqpLink.publish

        def interrupted(link: AmqpLink, messages: Sequence[Outgoing]) -> PublishResult:
            self._left -= 1
            result = publish(link, messages) if self._left or after else PublishResult(messages)
            if not self._left:
                raise BrokerUnavailableError("the connection is lost")
            return result

        patch.setattr(AmqpLink, "publish", interrupted)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the chunk size to 50 lines."""
    monkeypatch.setattr(publish_module, "_CHUNK", 50)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("after", "doubled"), [(False, 0), (True, 50)])
def test_same_call_goes_on_after_the_last_chunk_that_was_confirmed(
    publishing_cli: Cli, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch, after: bool, doubled: int
) -> None:
    Path("big.jsonl").write_bytes(lines(170))
    with monkeypatch.context() as patch:
        Interruption(patch, chunk=3, after=after)
        interrupted = publishing_cli("publish", "big.jsonl")
    assert interrupted.code == 3
    assert Path("big.jsonl.published").exists()
    resumed = publishing_cli("publish", "big.jsonl")
    assert (resumed.code, resumed.out) == (0, "published 70, refused 0, unroutable 0\n")
    taken = rabbit.take("billing.usage", 170 + doubled)
    assert sorted(set(references(taken))) == sorted(f"r-{number}" for number in range(170))
    assert len({properties.message_id for properties, _ in taken}) == 170, "ids tell the doubled ones"
    assert rabbit.depth("billing.usage") == 0
    assert [path.name for path in Path().iterdir()] == ["big.jsonl"]


@pytest.mark.usefixtures("small_chunks")
def test_file_that_has_changed_meanwhile_starts_over(
    publishing_cli: Cli, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("big.jsonl").write_bytes(lines(120))
    with monkeypatch.context() as patch:
        Interruption(patch, chunk=2, after=False)
        publishing_cli("publish", "big.jsonl")
    Path("big.jsonl").write_bytes(lines(60))
    assert publishing_cli("publish", "big.jsonl").out == "published 60, refused 0, unroutable 0\n"
    assert rabbit.depth("billing.usage") == 50 + 60


@pytest.mark.parametrize("mark", [b"", b"\xff\xfe", b"x 5 0", b"5", b"{hash} -1 0", b"{hash} many 0"])
def test_unreadable_mark_starts_over(publishing_cli: Cli, mark: bytes) -> None:
    Path("day.jsonl").write_bytes(lines(3))
    Path("day.jsonl.published").write_bytes(mark)
    assert publishing_cli("publish", "day.jsonl").out == "published 3, refused 0, unroutable 0\n"


@pytest.mark.usefixtures("small_chunks")
def test_lines_refused_before_the_interruption_still_count_in_the_exit_code(
    publishing_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("big.jsonl").write_bytes(b"oops\n" + lines(100))
    with monkeypatch.context() as patch:
        Interruption(patch, chunk=2, after=False)
        publishing_cli("publish", "big.jsonl")
    resumed = publishing_cli("publish", "big.jsonl")
    assert resumed.code == 1
    assert "before the interruption 1 lines were not taken" in resumed.err


@pytest.mark.usefixtures("small_chunks")
def test_unwritable_mark_is_an_error_before_much_is_sent(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    Path("big.jsonl").write_bytes(lines(100))
    Path("big.jsonl.published.new").mkdir()
    ended = publishing_cli("publish", "big.jsonl")
    assert ended.code == 2
    assert "publish from standard input to do without it" in ended.error
    assert rabbit.depth("billing.usage") == 50


def test_process_that_is_killed_loses_nothing_and_doubles_one_chunk_at_most(
    publishing_cli: Cli, broker_url: str, rabbit: RabbitClient
) -> None:
    count = 20_000
    Path("big.jsonl").write_bytes(lines(count))
    process = ForkedPython(
        *("worker", "publish", "big.jsonl"),
        env=worker_environment(
            load_settings(
                broker_url=broker_url, database_url=publishing_cli.environment["BILLING_DATABASE_URL"]
            )
        ),
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: rabbit.depth("billing.usage") > 1_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Path("big.jsonl.published").exists(), "it was faster than the kill"
    resumed = publishing_cli("publish", "big.jsonl")
    assert resumed.code == 0
    assert int(resumed.out.split()[1].rstrip(",")) < count, "it went on and did not start over"
    assert not Path("big.jsonl.published").exists()
    arrived = taken_at_once(rabbit, "billing.usage")
    assert set(arrived) == {f"r-{number}" for number in range(count)}
    assert len(arrived) <= count + 500


def taken_at_once(rabbit: RabbitClient, queue: str) -> list[str]:
    """Take all messages from ``queue`` and return their references."""
    found: list[str] = []
    for method, _, body in rabbit.channel.consume(queue, auto_ack=True, inactivity_timeout=0.3):
        if method is None:
            return found
        found.append(json.loads(body)["referenceId"])
    return found


# -- the activity log -------------------------------------------------------------------------------------


def logged(cli: Cli) -> list[dict[str, Any]]:
    """Return the activity log, oldest first."""
    entries: list[dict[str, Any]] = json.loads(cli("activity", "--json").out)["entries"]
    return entries[::-1]


def test_publishing_is_in_the_activity_log_with_the_files_hash(
    publishing_cli: Cli, rabbit: RabbitClient
) -> None:
    Path("day.jsonl").write_bytes(lines(3))
    digest = hashlib.sha256(lines(3)).hexdigest()
    assert publishing_cli("publish", "day.jsonl", "--actor", "ann", "--reason", "lost day").code == 0
    begun, ended = logged(publishing_cli)
    assert [one["action"] for one in (begun, ended)] == ["publish", "publish.ended"]
    assert {one["actor"] for one in (begun, ended)} == {"ann"}
    assert {one["subject"] for one in (begun, ended)} == {"day.jsonl"}
    assert {one["reason"] for one in (begun, ended)} == {"lost day"}
    assert (begun["osUser"], begun["host"]) == (system_user(), socket.gethostname())
    assert (begun["detail"]["sha256"], begun["detail"]["lines"]) == (digest, 3)
    assert (ended["detail"]["sha256"], ended["detail"]["published"]) == (digest, 3)


def test_publishing_of_a_stream_is_logged_with_its_hash(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    publishing_cli("publish", "-", stdin=lines(2))
    begun, ended = logged(publishing_cli)
    assert (begun["subject"], begun["detail"]) == ("standard input", {"lane": "interactive"})
    assert ended["detail"]["sha256"] == hashlib.sha256(lines(2)).hexdigest()


def test_interrupted_publishing_is_logged(publishing_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any) -> PublishResult:
        raise BrokerUnavailableError("lost")

    monkeypatch.setattr(AmqpLink, "publish", lose)
    assert publishing_cli("publish", "-", stdin=lines(2)).code == 3
    assert [one["action"] for one in logged(publishing_cli)] == ["publish"]


def test_publishing_that_can_t_be_logged_sends_nothing(broker_cli: Cli, rabbit: RabbitClient) -> None:
    broker_cli.environment["BILLING_DATABASE_URL"] = "postgresql://billing@127.0.0.1:1/billing"
    assert broker_cli("publish", "-", stdin=lines(2)).code == 3
    assert rabbit.take("billing.usage", 0) == []


def test_line_of_a_customer_of_before_is_sent(publishing_cli: Cli, rabbit: RabbitClient) -> None:
    nfd = "zoe\u0308"
    engine = ledger_engine(publishing_cli.environment["BILLING_DATABASE_URL"])
    FilledLedger(engine).open(nfd)
    engine.dispose()
    known, new = (json.dumps(GOOD | {"userId": user}).encode() for user in (nfd, "ann\u0301"))
    ended = publishing_cli("publish", "-", stdin=known + b"\n" + new + b"\n")
    assert ended.out == "published 1, refused 1, unroutable 0\n"
    assert ended.err.startswith("line 2: invalid_id: userId: ")
