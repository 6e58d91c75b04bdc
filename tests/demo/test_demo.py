"""`billing-worker demo`: its output without any server and on servers, and its refusals."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from schemas import (
    MESSAGE_TYPES,
    Code,
    Command,
    Limits,
    Malformed,
    Notice,
    Reply,
    Status,
    commands_of,
    decode,
)
from tests.support.processes import ROOT
from tests.support.provision import RabbitMQServer
from worker.broker import Delivery
from worker.catalog import Catalog, load_catalog
from worker.demo.day import MESSAGES_MIN, day
from worker.demo.noticed import Noticed
from worker.demo.script import DemoMessage, Script
from worker.demo.show import Ended
from worker.demo.tally import Tally
from worker.demo.trace import rows_in, trace_script
from worker.errors import ConfigurationError
from worker.ledger.audit import AuditReport

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
PATIENCE_S = 60
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05,0,0
2023-11-16 18:18:04.5,110,27
"""


def _environment(tmp_path: Path) -> dict[str, str]:
    # Nothing listens there: the demo must ignore the environment.
    astray = {"BILLING_BROKER_URL": "amqp://127.0.0.1:1/", "BILLING_SENDERS": '{"*": ["nobody"]}'}
    return {**os.environ, **astray, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}


def _demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", "demo", *arguments],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def _json_of(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr + ended.stdout
    summary: dict[str, Any] = json.loads(ended.stdout)
    assert summary["ok"]
    assert summary["problems"] == []
    assert summary["answered"] == summary["messages"] == sum(summary["sent"].values())
    assert summary["audit"]["drift"] == 0
    return summary


# -- output -----------------------------------------------------------------------------------------------


def test_a_short_day_without_servers_shows_all_that_is_promised_and_leaves_nothing(tmp_path: Path) -> None:
    ended = _demo(tmp_path, "--messages", "200")

    assert ended.returncode == 0, ended.stderr + ended.stdout
    for promised in (
        "# Outcomes by type\ntype\tstatus\tcode\tfirst\tagain\n",
        "account.open\tapplied\taccount_opened\t",
        "payment.succeeded\trejected\tamount_mismatch\t",
        "usage.deduct\trejected\tinsufficient_balance\t",
        "usage.free_upload\trejected\tfree_upload_limit_exceeded\t",
        "usage.batch\tapplied\tbatch_processed\t",
        "usage.settle\trejected\thold_closed\t",
        "payment.dispute_closed\tapplied\tdispute_lost\t",
        "subscription.change\tapplied\tsubscription_changed\t",
        "# Outcomes of items in batches\n",
        "usage.record\tapplied\tusage_recorded\t",
        "# Notices: ",
        "balance.depleted\t",
        "credit.expiring\t",
        "# Some balances\n",
        "# Lots of ",
        "(unreadable)\tfailed\tmalformed: not_json\t",
        "# Replies to ",
        "Insufficient token balance. Required: ",
        "second try\tapplied\t",
        "# History of ",
        "# Usage of ",
        "# Dead letters: ",
        "reference_conflict\t",
        "body_too_large\t",
        "wrong_routing_key\t",
        "every balance explained, drift 0",
        "200 of 200 messages answered",
        "every message has its answer or its dead letter",
    ):
        assert promised in ended.stdout, promised
    assert "a busy day: " in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_script_gets_one_json_document_and_may_keep_the_files(tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    summary = _json_of(_demo(tmp_path, "--messages", "150", "--json", "--keep", str(kept)))

    assert summary["messages"] == 150
    assert sum(summary["deadLetters"].values()) == sum(
        row["first"] + row["again"]
        for row in summary["outcomes"]
        if row["status"] == "failed" or row["code"] == "reference_conflict"
    )
    assert {reply["userId"] for reply in summary["user"]["replies"]} == {summary["user"]["userId"]}
    assert summary["user"]["history"]["total"] > 0
    assert summary["user"]["usage"]["totalUsed"] > 0
    assert sum(row["first"] for row in summary["batchItems"]) > 0
    assert summary["notices"].keys() == {"balance.low", "balance.depleted", "credit.expiring"}
    owing = [balance for balance in summary["balances"] if balance["debt"]]
    assert [balance["available"] for balance in owing] == [-balance["debt"] for balance in owing]
    assert len(owing) == 1
    assert all(lot["source"] for balance in summary["balances"] for lot in balance["lots"])
    assert {"ledger.sqlite3", "broker.sqlite3", "worker.log", "producer.log"} <= {
        path.name for path in kept.iterdir()
    }
    again = _demo(tmp_path, "--keep", str(kept))
    assert again.returncode == 2
    assert f"{kept} is not empty" in again.stderr


def test_a_trace_is_played_up_to_now_and_rows_without_tokens_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    summary = _json_of(_demo(tmp_path, "--trace", str(file), "--users", "2", "--json"))

    assert (summary["rows"], summary["rowsLeftOut"], summary["sent"]["deduct"]) == (4, 1, 3)
    assert summary["sent"]["opening"] == summary["users"] == 2
    assert summary["user"]["usage"]["totalUsed"] > 0


def test_on_servers_it_migrates_declares_and_takes_its_reply_queue_away(
    tmp_path: Path, bare_broker_url: str, rabbitmq: RabbitMQServer, postgres_url: str
) -> None:
    servers = ("--broker-url", bare_broker_url, "--database-url", postgres_url, "--workers", "2")

    summary = _json_of(_demo(tmp_path, *servers, "--messages", "300", "--json"))

    assert summary["messages"] == 300
    assert summary["deadLetters"]["reference_conflict"] == summary["sent"]["reused reference"]
    depths = rabbitmq.management.queue_depths(urlsplit(bare_broker_url).path[1:])
    assert summary["notices"].keys() == {"balance.low", "balance.depleted", "credit.expiring"}
    assert {name: depth.ready + depth.unacknowledged for name, depth in depths.items()} == dict.fromkeys(
        ("billing.payments", "billing.usage", "billing.replies", "billing.dead"), 0
    )


def test_ctrl_c_stops_everything_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "demo", "--messages", "20000"],
        env=_environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        assert "answered" in process.stderr.readline()  # the worker and the producer run now
        process.send_signal(signal.SIGINT)
        process.stderr.read()

    assert process.wait(PATIENCE_S) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--broker-url", "amqp://127.0.0.1:1/"), "--broker-url and --database-url"),
        (("--database-url", "sqlite:///x"), "--broker-url and --database-url"),
        (("--users", "5"), "--users goes with --trace"),
        (("--trace", "x.csv", "--messages", "500"), "--messages does not go with --trace"),
        (("--trace", "nowhere.csv"), "nowhere.csv can't be read"),
    ],
)
def test_invalid_options_are_refused_with_exit_2(
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.cli import main

    monkeypatch.setattr(sys, "argv", ["billing-worker", "demo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# -- the day ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packaged() -> Catalog:
    return load_catalog()


@pytest.fixture(scope="module", params=[MESSAGES_MIN, 200, 2_000])
def count(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture(scope="module")
def script(packaged: Catalog, count: int) -> Script:
    return day(random.Random(1), NOW, packaged, messages=count)


def test_a_day_has_exactly_as_many_messages_as_asked_for(script: Script, count: int) -> None:
    assert len(script.messages) == count


def test_a_day_has_every_kind_of_message(script: Script) -> None:
    kinds = Counter(message.kind.partition(":")[0] for message in script.messages)

    assert kinds.keys() == {
        *("opening", "unknown tier", "opened twice", "unknown account"),
        *("deduct", "metered", "batch", "free upload", "hold", "settle", "release", "adjustment"),
        *("purchase", "late purchase", "early refund", "payment refunded", "payment failed"),
        *("dispute", "dispute won", "dispute lost", "refund", "bonus"),
        *("bonus that ends soon", "bonus from tomorrow", "bonus of yesterday", "corrected too much"),
        *("upgrade", "downgrade", "renewed too early", "renewed already", "cancellation", "canceled twice"),
        *("hold that runs out", "late settle", "settlement of what is due", "unknown hold", "unknown meter"),
        *("wrong amount", "wrong currency", "unknown package", "upload too large"),
        *("refund of nothing", "refund of too much", "refund in another currency"),
        *("runs dry", "top-up", "second try", "delivered again", "reused reference", "broken"),
    }


def test_a_day_has_every_type_and_one_message_in_twenty_twice(script: Script, count: int) -> None:
    whole = [message for message in script.messages if not message.kind.startswith("broken")]

    assert {message.routing_key for message in whole} == MESSAGE_TYPES.keys()
    assert [message.kind for message in whole].count("delivered again") >= count // 20


def test_the_night_begins_when_the_holds_that_hang_have_run_out(script: Script) -> None:
    hanging = {m.reference_id for m in script.messages if m.kind == "hold that runs out"}

    assert [act.run_out for act in script.acts] == [frozenset()] * 3 + [hanging]
    assert {
        json.loads(message.body)["ttlSeconds"]
        for message in script.messages
        if message.kind == "hold that runs out"
    } == {1}


def test_every_tier_is_opened_and_packages_are_named_by_id_and_by_index(
    script: Script, packaged: Catalog
) -> None:
    bodies = [
        json.loads(message.body) for message in script.messages if message.kind in ("opening", "top-up")
    ]

    assert {body["tier"] for body in bodies if "tier" in body} == packaged.tiers.keys()
    assert any("packageId" in body for body in bodies)
    assert any("packageIndex" in body for body in bodies)


def test_only_what_is_broken_is_refused_and_all_of_it(script: Script) -> None:
    for message in script.messages:
        decoded = decode(message.body, now=NOW, limits=Limits())
        is_refused = isinstance(decoded, Malformed) or decoded.type != message.routing_key
        assert is_refused == message.kind.startswith("broken"), message.kind


def test_accounts_are_opened_before_they_are_used(script: Script) -> None:
    first, *others = script.acts
    opened = {json.loads(message.body)["userId"] for message in first.messages}
    used = {
        command.user_id
        for act in others
        for message in act.messages
        if message.kind != "unknown account"
        for command in _commands(message)
    }

    assert used <= opened


def test_command_that_names_an_operation_comes_in_a_later_act_or_waits_for_its_payment(
    script: Script,
) -> None:
    act_of = {
        command.reference_id: number
        for number, act in reversed(list(enumerate(script.acts)))
        for message in act.messages
        for command in _commands(message)
    }
    for message in script.messages:
        if message.kind in ("early refund", "unknown hold", "delivered again"):
            continue
        for command in _commands(message):
            original = getattr(command, "original_reference_id", None)
            if original is not None:
                assert act_of[original] < act_of[command.reference_id], message.kind


def test_a_message_delivered_again_is_the_same_to_the_byte_and_no_other_is(script: Script) -> None:
    fresh = [message for message in script.messages if message.kind != "delivered again"]
    again = [message for message in script.messages if message.kind == "delivered again"]

    by_id = {message.message_id: message for message in fresh}
    assert len(by_id) == len(fresh)
    assert all(by_id[message.message_id].body == message.body for message in again)


def test_the_same_seed_is_the_same_day_and_another_is_another(packaged: Catalog) -> None:
    def bodies(seed: int, suffix: str = "") -> list[bytes]:
        script = day(random.Random(seed), NOW, packaged, messages=200, suffix=suffix)
        return [message.body for message in script.messages]

    assert bodies(7) == bodies(7)
    assert bodies(7) != bodies(8)
    assert bodies(7) != bodies(7, suffix="-x")


def test_a_suffix_keeps_two_days_apart(packaged: Catalog) -> None:
    scripts = [
        day(random.Random(1), NOW, packaged, messages=200, suffix=suffix) for suffix in ("-one", "-two")
    ]
    one, two = (
        {
            name
            for message in script.messages
            for command in _commands(message)
            for name in (command.user_id, command.reference_id)
        }
        for script in scripts
    )

    assert one.isdisjoint(two)


def _commands(message: DemoMessage) -> tuple[Command, ...]:
    decoded = decode(message.body, now=NOW, limits=Limits())
    return () if isinstance(decoded, Malformed) else commands_of(decoded)


# -- the trace --------------------------------------------------------------------------------------------


def test_a_trace_ends_now_and_keeps_its_intervals(tmp_path: Path, packaged: Catalog) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    script = trace_script(file, seed=1, users=3, now=NOW, catalog=packaged)

    deductions = [json.loads(message.body) for message in script.acts[2].messages]
    assert [fields["tokens"] for fields in deductions] == [4818, 3188, 137]
    times = [datetime.fromisoformat(fields["occurredAt"]) for fields in deductions]
    assert times[-1] == NOW
    assert times[1] - times[0] == timedelta(microseconds=52_000)
    assert any("shifted by 1101 days" in note for note in script.notes)
    assert any("4 rows, 1 of them without tokens" in note for note in script.notes)


def test_some_requests_of_a_trace_are_held_first_where_there_is_enough(
    tmp_path: Path, packaged: Catalog
) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:17:{second:02},{1_000 + second},{second + 1}" for second in range(20)]
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))

    script = trace_script(file, seed=1, users=40, now=NOW, catalog=packaged)

    *_, trace, ends = [[json.loads(message.body) for message in act.messages] for act in script.acts]
    holds = {fields["referenceId"]: fields for fields in trace if fields["type"] == "usage.reserve"}
    assert len(holds) == 4
    assert len(trace) == 20
    for settled in ends:
        hold = holds.pop(settled["originalReferenceId"])
        said = settled["metadata"]
        assert hold["tokens"] == said["contextTokens"] + 1_000
        assert settled["tokens"] == said["contextTokens"] + said["generatedTokens"]
        assert (hold["userId"], hold["occurredAt"]) == (settled["userId"], settled["occurredAt"])
    assert holds == {}
    assert script.facts["rowsHeld"] == 4


def test_the_same_trace_gives_the_same_references_and_another_choice_gives_others(
    tmp_path: Path, packaged: Catalog
) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    def references(now: datetime, seed: int) -> set[str | None]:
        script = trace_script(file, seed=seed, users=3, now=now, catalog=packaged)
        return {message.reference_id for message in script.messages}

    assert references(NOW, 1) == references(NOW + timedelta(days=1), 1)
    assert references(NOW, 1).isdisjoint(references(NOW, 2))


_HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
_GOOD = b"2023-11-16 18:17:03,1,2\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "trace.csv, line 1: the column TIMESTAMP is missing"),
        (b"TIMESTAMP,GeneratedTokens\n", "trace.csv, line 1: the column ContextTokens is missing"),
        (_HEADER, "trace.csv: has no row with tokens"),
        (_HEADER + b"2023-11-16 18:17:03,0,0\n", "trace.csv: has no row with tokens"),
        (_HEADER + _GOOD + b"yesterday,1,2\n", "trace.csv, line 3, column TIMESTAMP: 'yesterday' is no time"),
        (
            _HEADER + b"2023-11-16 18:17:03,-1,2\n",
            "trace.csv, line 2, column ContextTokens: '-1' is no whole",
        ),
        (_HEADER + b"2023-11-16 18:17:03,1,2.5\n", "line 2, column GeneratedTokens: '2.5' is no whole"),
        (_HEADER + b"2023-11-16 18:17:03,1," + b"9" * 5000 + b"\n", "line 2, column GeneratedTokens: '9"),
        (_HEADER + b"2023-11-16 18:17:03,1\n", "trace.csv, line 2, column GeneratedTokens: is missing"),
        (_HEADER + _GOOD + b'"2023-11-16,1,2\n', "trace.csv, line 3: is not CSV"),
        (_HEADER + _GOOD + b"\xff\xfe,1,2\n", "trace.csv, line 3: is not UTF-8"),
    ],
)
def test_a_bad_trace_is_refused_with_file_line_and_column(
    content: bytes, message: str, tmp_path: Path, packaged: Catalog
) -> None:
    file = tmp_path / "trace.csv"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as refused:
        trace_script(file, seed=1, users=3, now=NOW, catalog=packaged)

    assert message in str(refused.value)


def test_a_trace_may_begin_with_a_byte_order_mark_and_have_offsets_and_further_columns() -> None:
    content = b"\xef\xbb\xbfModel," + _HEADER + b"x,2023-11-16T20:17:03+02:00,1,2\n\n"

    (row,) = rows_in(content, "trace.csv")

    assert (row.at, row.tokens, row.line) == (datetime(2023, 11, 16, 18, 17, 3, tzinfo=UTC), 3, 2)


# -- the verdict ------------------------------------------------------------------------------------------


def _ended(
    *replies: tuple[str, Reply],
    codes: dict[str, int | None] | None = None,
    noticed: Sequence[Noticed] = (),
    heard: Sequence[Notice] = (),
) -> Ended:
    sent = {f"id-{number}": DemoMessage("deduct", f"m-{number}", "usage.deduct", b"{}") for number in (1, 2)}
    tally = Tally(sent)
    tally.take(_deliveries(replies))
    tally.hear(Delivery(notice.to_json(), "n", "", notice.type, 1) for notice in heard)
    report = AuditReport((), found={}, drift=0, debtors=0, debt=0, uncollected=0, examined={})
    return Ended(tally, report, noticed, {"worker": 0} if codes is None else codes, 1.0)


def _deliveries(replies: tuple[tuple[str, Reply], ...]) -> Iterator[Delivery]:
    for correlation_id, reply in replies:
        yield Delivery(reply.to_json(), "q", "", "q", 1, properties={"correlation_id": correlation_id})


def _reply(status: Status, code: Code) -> Reply:
    return Reply(status=status, code=code, message="")


_APPLIED = _reply(Status.APPLIED, Code.TOKENS_DEDUCTED)


def test_all_is_well_when_each_message_has_its_answer() -> None:
    assert _ended(("id-1", _APPLIED), ("id-2", _APPLIED), ("id-2", _APPLIED)).problems() == []


def test_a_message_without_answer_and_dead_letter_is_named() -> None:
    (problem,) = _ended(("id-2", _APPLIED), ("of-another", _APPLIED)).problems()

    assert problem == "deduct (correlation id id-1): neither answered nor a dead letter"


@pytest.mark.parametrize(
    "reply",
    [_reply(Status.FAILED, Code.MALFORMED), _reply(Status.REJECTED, Code.REFERENCE_CONFLICT)],
)
def test_an_answer_that_speaks_of_a_dead_letter_needs_one(reply: Reply) -> None:
    (problem,) = _ended(("id-1", _APPLIED), ("id-2", reply)).problems()

    assert problem == "deduct (correlation id id-2): its dead letter is missing"


def test_a_worker_that_ends_badly_is_a_problem() -> None:
    (problem,) = _ended(("id-1", _APPLIED), ("id-2", _APPLIED), codes={"worker": 1}).problems()

    assert problem == "the worker ended with 1"


def test_a_notice_that_is_in_the_ledger_and_came_to_nobody_is_a_problem() -> None:
    low = Notice(type="balance.low", id="n-1", user_id="u", reference_id="r-1", recorded_at=NOW)
    noticed = [("r-1", "balance.low"), ("r-1", "balance.depleted")]

    (problem,) = _ended(("id-1", _APPLIED), ("id-2", _APPLIED), noticed=noticed, heard=[low, low]).problems()

    assert problem == "balance.depleted of r-1: the notice was not heard"


def test_the_notices_of_others_on_the_same_servers_are_not_counted() -> None:
    own, others = (
        Notice(type="balance.low", id=name, user_id="u", reference_id=name, recorded_at=NOW)
        for name in ("r-1", "not-ours")
    )
    first = _APPLIED.model_copy(update={"reference_id": "r-1"})
    ended = _ended(("id-1", first), ("id-2", _APPLIED), heard=[own, others])

    assert ended.tally.own_notices() == [own]
    assert ended.problems() == []


def test_items_of_batches_are_counted_separately() -> None:
    items = (_APPLIED, _APPLIED.model_copy(update={"duplicate": True}))
    batch = _reply(Status.APPLIED, Code.BATCH_PROCESSED).model_copy(
        update={"type": "usage.batch", "items": items}
    )
    tally = _ended(("id-1", batch), ("id-2", _APPLIED)).tally

    assert [(row.code, row.first, row.again) for row in tally.outcomes()] == [
        ("batch_processed", 1, 0),
        ("tokens_deducted", 1, 0),
    ]
    assert [(row.code, row.first, row.again) for row in tally.item_outcomes()] == [("tokens_deducted", 1, 1)]
