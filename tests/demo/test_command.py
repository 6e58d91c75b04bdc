"""`billing-worker demo`: its output without servers and on servers, its end and its errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest

from schemas import NoticeType
from tests.support.forked_python import ROOT, run_python
from tests.support.provision import RabbitMQServer
from worker.broker import BILLING

PATIENCE_S = 60
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05,0,0
2023-11-16 18:18:04.5,110,27
"""


def _environment(tmp_path: Path) -> dict[str, str]:
    # Nothing listens there: the environment must have no effect.
    unreachable = {"BILLING_BROKER_URL": "amqp://127.0.0.1:1/", "BILLING_SENDERS": '{"*": ["nobody"]}'}
    return {**os.environ, **unreachable, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}


def _demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ended = run_python(
        "worker", "demo", *arguments, timeout_s=PATIENCE_S, forks=True, env=_environment(tmp_path)
    )
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )


def _json_of(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr + ended.stdout
    summary: dict[str, Any] = json.loads(ended.stdout)
    assert summary["ok"]
    assert summary["problems"] == []
    assert summary["answered"] == summary["messages"] == sum(summary["sent"].values())
    assert summary["audit"]["drift"] == 0
    return summary


def test_short_day_without_servers_shows_every_table_and_leaves_no_file(tmp_path: Path) -> None:
    ended = _demo(tmp_path, "--messages", "200")

    assert ended.returncode == 0, ended.stderr + ended.stdout
    for expected in (
        "# Outcomes by type\ntype\tstatus\tcode\tfirst\tagain\n",
        "account.open\tapplied\taccount_opened\t",
        "payment.succeeded\trejected\tamount_mismatch\t",
        "usage.deduct\trejected\tinsufficient_balance\t",
        "usage.free_upload\trejected\tfree_upload_limit_exceeded\t",
        "usage.batch\tapplied\tbatch_processed\t",
        "usage.extend\tapplied\thold_extended\t",
        "usage.settle\tapplied\thold_settled_late\t",
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
        "second attempt\tapplied\t",
        "# History of ",
        "# Usage of ",
        "# Dead letters: ",
        "reference_conflict\t",
        "body_too_large\t",
        "wrong_routing_key\t",
        "every balance explained, drift 0",
        "200 of 200 messages have a reply",
        "every message has its reply or its dead letter",
    ):
        assert expected in ended.stdout, expected
    assert "day: " in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_summary_is_one_document_and_keep_keeps_the_files(tmp_path: Path) -> None:
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
    assert summary["notices"].keys() == set(get_args(NoticeType))
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


def test_trace_leaves_out_rows_without_tokens(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    summary = _json_of(_demo(tmp_path, "--trace", str(file), "--users", "2", "--json"))

    assert (summary["rows"], summary["rowsLeftOut"], summary["sent"]["deduct"]) == (4, 1, 3)
    assert summary["sent"]["opening"] == summary["users"] == 2
    assert summary["user"]["usage"]["totalUsed"] > 0


def test_demo_on_servers_migrates_declares_and_deletes_its_reply_queue(
    tmp_path: Path, bare_broker_url: str, rabbitmq: RabbitMQServer, postgres_url: str
) -> None:
    servers = ("--broker-url", bare_broker_url, "--database-url", postgres_url, "--workers", "2")

    summary = _json_of(_demo(tmp_path, *servers, "--messages", "300", "--json"))

    assert summary["messages"] == 300
    assert summary["deadLetters"]["reference_conflict"] == summary["sent"]["reused reference"]
    depths = rabbitmq.management.queue_depths(urlsplit(bare_broker_url).path[1:])
    assert summary["notices"].keys() == set(get_args(NoticeType))
    assert {name: depth.ready + depth.unacknowledged for name, depth in depths.items()} == dict.fromkeys(
        (queue.name for queue in BILLING.queues), 0
    )


def test_ctrl_c_stops_every_process_and_leaves_no_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "demo", "--messages", "20000"],
        env=_environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        assert "replies" in process.stderr.readline()  # the worker and the producer run now
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
def test_invalid_options_exit_with_2(
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
