"""The whole command line: help that teaches, errors in one line, exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli.commands import COMMANDS
from tests.cli.console import Cli, FilledLedger
from tests.support.forked_python import ForkedPython
from tests.support.processes import worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker import __version__
from worker.settings import load_settings


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_teaches(bare_cli: Cli, path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    shown = bare_cli(*path, "--help")
    assert shown.code == 0
    assert shown.err == ""
    assert " ".join(["Usage: billing-worker", *path]) in shown.out
    assert command.help, "says nothing of what it does"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{parameter.opts} says nothing"
            assert parameter.opts[-1] in shown.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal(bare_cli: Cli, path: tuple[str, ...]) -> None:
    assert all(len(line) <= 100 for line in bare_cli(*path, "-h").lines)


def test_exit_codes_are_in_the_help(bare_cli: Cli) -> None:
    assert "Exit codes: 0 done" in bare_cli("--help").out


def test_call_without_a_command_shows_the_help_and_is_wrong_usage(bare_cli: Cli) -> None:
    shown = bare_cli()
    assert shown.code == 2
    assert "Usage: billing-worker" in shown.all


def test_version_is_shown(bare_cli: Cli) -> None:
    assert bare_cli("--version").out == f"billing-worker, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("no-such-command",), "No such command"),
        (("balance",), "Missing argument 'USER'"),
        (("balance", "a", "b"), "unexpected extra argument"),
        (("balance", "--no-such-option", "a"), "No such option"),
        (("can-afford", "a", "many"), "'many' is not a valid integer"),
        (("dead-letters", "show", "0"), "0 is not in the range"),
        (("dead-letters", "show", "9" * 30), "is not in the range"),
        (("dead-letters", "discard", "1"), "Missing option '--reason'"),
        (("dead-letters", "list", "--status", "lost"), "'lost' is not one of"),
        (("run", "--log-level", "LOUD"), "'LOUD' is not one of"),
        (("publish", "-", "--type", "x" * 256), "--type: a name on the broker has at most 255 bytes"),
        (("replies", "--follow"), "say --take as well"),
        (("scheduler", "--json"), "--json goes with --once"),
        (("balance", "caf\udce9"), "argument 2 is not UTF-8: caf\\xe9"),
        (("balance", "a\0b"), "'USER': it holds a NUL"),
        (("dead-letters", "list", "--text", "caf\udce9"), "argument 4, after --text, is not UTF-8"),
        (("dead-letters", "export", "--user", "a\0b"), "'--user': it holds a NUL"),
        (("dead-letters", "list", "--reason", "caf\udce9"), "argument 4, after --reason, is not UTF-8"),
        (("dead-letters", "note", "1", "x", "--as", "caf\udce9"), "argument 6, after --as, is not UTF-8"),
        (
            ("dead-letters", "note", "1", "x", "--as", "a", "--actor", "\udce9"),
            "argument 8, after --actor, is not UTF-8",
        ),
        (("dead-letters", "list", "--since", "last week"), "'--since': 'last week' is no time"),
        (("dead-letters", "list", "--from", "1h", "--until", "2h"), "'--from' 1h is after '--until' 2h"),
        (("dead-letters", "replay", "--from", "1h", "--to", "2h", "--reason", "x"), "is after '--to' 2h"),
        (("statement", "a", "--from", "1h", "--to", "2h"), "'--from' 1h is after '--to' 2h"),
        (
            ("statement", "a", "--from", "0001-01-01", "--tz", "Asia/Tokyo"),
            "'--from': '0001-01-01' is no time",
        ),
        (("statement", "a", "--to", "9999-12-31 23:59", "--tz", "America/New_York"), "'--to': '9999-12-31"),
        (("statement", "a", "--from", "2026-13-01"), "'2026-13-01' is no time; write 15m, 2h or 3d (ago)"),
        (("history", "a", "--limit", "0"), "0 is not in the range 1<=x<=1000"),
        (("holds", "a", "--all", "--limit", "0"), "0 is not in the range 1<=x<=1000"),
        (("statement", "a", "--format", "xml"), "'xml' is not one of"),
        (("adjust", "a", "many", "--reason", "x"), "'many' is not a valid integer"),
        (("adjust", "a", "-5"), "Missing option '--reason'"),
        (("adjust", "a", "0", "--reason", "x", "--actor", "ann"), "tokens: must not be 0"),
        (("adjust", "a", "5", "--reason", "", "--actor", "ann"), "reason"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    bare_cli: Cli, arguments: tuple[str, ...], expected: str
) -> None:
    ended = bare_cli(*arguments)
    assert ended.code == 2
    assert expected in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("history", "a", "--offset", "1", "--cursor", "x"), "not both"),
        (("usage", "a", "--timezone", "Mars/Olympus"), "Mars/Olympus"),
        (("usage", "a", "--days", "0"), "days must be from 1 to 366"),
        (("can-afford", "a", "0"), "tokens must be from 1"),
        (("can-afford", "a", str(2**63)), "tokens must be from 1"),
        (("expiring", "--days", "0"), "days must be from 1 to 3660"),
        (("holds", "a", "--cursor", "x"), "'x' is no hold of this user"),
        (("statement", "a", "--timezone", "Mars/Olympus"), "Mars/Olympus"),
        (("statement", "a", "--from", "2026-11-02", "--to", "2026-11-02"), "ends after it begins"),
    ],
)
def test_senseless_question_is_wrong_usage_and_not_a_no(
    ledger_cli: Cli, ledger: FilledLedger, arguments: tuple[str, ...], expected: str
) -> None:
    ledger.open("a")
    ended = ledger_cli(*arguments)
    assert ended.code == 2
    assert expected in ended.error


def test_bad_setting_exits_with_2(bare_cli: Cli) -> None:
    ended = bare_cli("stats", BILLING_BATCH_SIZE="0")
    assert ended.code == 2
    assert ended.error.startswith("settings: BILLING_BATCH_SIZE: ")


@pytest.mark.parametrize("catalog", ["missing.toml", "."])
def test_catalog_that_cannot_be_read_exits_with_2(ledger_cli: Cli, catalog: str) -> None:
    ended = ledger_cli("balance", "a", "--catalog", catalog)
    assert ended.code == 2
    assert "catalog" in ended.err


@pytest.mark.parametrize("command", [("balance", "a"), ("history", "a"), ("stats",), ("audit",)])
def test_ledger_without_tables_exits_with_2_and_the_way_out(bare_cli: Cli, command: tuple[str, ...]) -> None:
    ended = bare_cli(*command, BILLING_DATABASE_URL="sqlite:///new.sqlite3")
    assert ended.code == 2
    assert "the ledger's schema is at nothing" in ended.error
    assert "billing-worker migrate" in ended.error


@pytest.mark.parametrize(
    "command", [("stats",), ("migrate",), ("audit",), ("balance", "a"), ("dead-letters", "list")]
)
def test_database_that_does_not_answer_exits_with_3(bare_cli: Cli, command: tuple[str, ...]) -> None:
    ended = bare_cli(*command, BILLING_DATABASE_URL="postgresql://u:p@127.0.0.1:9/db")
    assert ended.code == 3
    assert "the ledger's database is not available" in ended.error


@pytest.mark.parametrize("command", [("topology", "verify"), ("replies",), ("publish", "-")])
def test_broker_that_does_not_answer_exits_with_3(ledger_cli: Cli, command: tuple[str, ...]) -> None:
    ended = ledger_cli(*command, BILLING_BROKER_URL="amqp://u:p@127.0.0.1:9/")
    assert ended.code == 3
    assert "the broker is not available" in ended.error


def test_unknown_user_or_reference_exits_with_4(ledger_cli: Cli) -> None:
    for command in (
        ("balance", "nobody"),
        ("can-afford", "nobody", "1"),
        ("history", "nobody"),
        ("usage", "nobody"),
        ("lots", "nobody"),
        ("holds", "nobody"),
        ("expiring", "nobody"),
        ("statement", "nobody"),
        ("explain", "nobody"),
    ):
        ended = ledger_cli(*command)
        assert ended.code == 4
        assert "nobody" in ended.error


def test_flags_come_before_variables_and_variables_before_the_file(bare_cli: Cli, sqlite_url: str) -> None:
    Path(".env").write_text("BILLING_DATABASE_URL=sqlite:///from-the-file.sqlite3\n")
    assert "at nothing" in bare_cli("stats").error
    assert Path("from-the-file.sqlite3").exists()
    assert bare_cli("stats", BILLING_DATABASE_URL=sqlite_url).code == 0
    flag = ("--database-url", "sqlite:///from-the-flag.sqlite3")
    assert "at nothing" in bare_cli("stats", *flag, BILLING_DATABASE_URL=sqlite_url).error
    assert Path("from-the-flag.sqlite3").exists()


def test_closed_output_ends_a_command_quietly(sqlite_url: str, ledger: FilledLedger) -> None:
    for number in range(40):
        ledger.open(f"user-{number}")
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "stats"],
        env=worker_environment(load_settings(database_url=sqlite_url)),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(
    broker_url: str, sqlite_url: str, rabbit: RabbitClient
) -> None:
    process = ForkedPython(
        *("worker", "publish", "-", "--unchecked"),
        env=worker_environment(load_settings(broker_url=broker_url, database_url=sqlite_url)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"type": "usage.deduct"}\n' * 500)  # one chunk; then it waits for more
    process.stdin.flush()
    eventually(lambda: rabbit.depth("billing.usage") == 500)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert out == b""
