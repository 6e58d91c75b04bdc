"""Standard streams that are closed, full, or not UTF-8."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import DeductUsage
from tests.cli.console import Cli, FilledLedger
from tests.cli.dead_letters.parts import worker
from tests.support.processes import worker_environment
from tests.support.rabbit_client import RabbitClient
from worker.settings import load_settings

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(sqlite_url: str, tmp_path: Path) -> Run:
    """The command line as a shell starts it on a ledger, with redirections."""

    def run(redirections: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f'exec "$0" -m worker "$@" {redirections}', sys.executable, *arguments],
            env=worker_environment(load_settings(database_url=sqlite_url)),
            input=b"",
            capture_output=True,
            timeout=60,
        )

    return run


NO_SPACE = b"error: the output can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("redirections", "arguments", "code", "err"),
    [
        (">&-", ("--help",), 0, b""),
        (">&-", ("stats",), 0, b""),
        (">&- 2>&- <&-", ("stats",), 0, b""),
        (">/dev/full", ("--help",), 2, NO_SPACE),
        (">/dev/full", ("stats",), 2, NO_SPACE),
        (">/dev/full", ("dead-letters", "list", "--json"), 2, NO_SPACE),
        (">/dev/full 2>/dev/full", ("stats",), 2, b""),
        ("2>/dev/full", ("balance", "nobody"), 4, b""),
        ("2>/dev/full", ("balance",), 2, b""),
        ("2>&-", ("balance", "nobody"), 4, b""),
        ("<&-", ("dead-letters", "import", "-"), 0, b""),
    ],
)
def test_closed_or_full_stream_ends_in_an_exit_code(
    run: Run, redirections: str, arguments: tuple[str, ...], code: int, err: bytes
) -> None:
    ended = run(redirections, *arguments)
    assert (ended.returncode, ended.stderr) == (code, err)


def test_question_without_an_input_is_wrong_usage(run: Run) -> None:
    ended = run("<&-", "dead-letters", "discard", "--code", "not_json", "--reason", "x")
    assert ended.returncode == 2
    assert b"add --yes" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_body_from_a_closed_input_is_empty_and_refused(cli: Cli, rabbit: RabbitClient, run: Run) -> None:
    rabbit.publish(b"oops", routing_key="usage.deduct")
    worker(cli)
    ended = run("<&-", "dead-letters", "edit", "1", "--from-file", "-", "--reason", "x")
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: a worker would refuse this body: ")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", [("history", "ann", "--json"), ("statement", "ann", "--json")])
def test_json_stays_json_on_a_stream_that_is_not_utf_8(
    ledger_cli: Cli, ledger: FilledLedger, command: tuple[str, ...], encoding: str
) -> None:
    ledger.open("ann")
    ledger.apply(DeductUsage(reference_id="d-1", user_id="ann", tokens=1, description="café 😀"))
    shown = ledger_cli(*command, encoding=encoding)
    assert shown.json == ledger_cli(*command).json
    assert "caf\\u00e9 \\ud83d\\ude00" in shown.out


def test_export_stays_json_on_a_stream_that_is_not_utf_8(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish("café 😀".encode(), exchange="", routing_key="billing.dead")
    cli("dead-letters", "drain")
    shown = cli("dead-letters", "export", encoding="latin-1")
    assert shown.json == json.loads(cli("dead-letters", "export").out)
    assert "caf\\u00e9" in shown.out
