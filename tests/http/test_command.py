"""``billing-worker serve``: refusals to serve, the process, its end."""

import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from schemas.http import TokenScope
from tests.cli.console import Cli
from tests.http.conftest import NOWHERE
from tests.support.forked_python import ForkedPython
from tests.support.processes import worker_environment
from tests.support.waiting import eventually
from worker.bootstrap import Application, utc_now
from worker.http.tokens import add_token
from worker.settings import load_settings


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    """File with one token."""
    path = tmp_path / "tokens"
    add_token(path, "app", [TokenScope.ACCOUNTS], utc_now())
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str, tokens_file: Path) -> Cli:
    """The command line on a SQLite ledger, with a file of tokens."""
    monkeypatch.chdir(tmp_path)
    environment = {
        "BILLING_DATABASE_URL": sqlite_url,
        "BILLING_BROKER_URL": NOWHERE,
        "BILLING_HTTP_TOKENS": str(tokens_file),
    }
    return Cli(monkeypatch, environment)


@pytest.mark.parametrize("address", ["0.0.0.0:8801", "192.168.0.7:80", "[::]:8801", "billing.example:8801"])
def test_public_address_is_refused_without_a_word_about_tls(address: str, cli: Cli) -> None:
    ended = cli("serve", "--listen", address)
    assert ended.code == 2
    assert "--https" in ended.error
    assert "--insecure" in ended.error


@pytest.mark.parametrize("word", ["--https", "--insecure"])
def test_public_address_is_served_with_such_a_word(word: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    ended = cli("serve", "--listen", "0.0.0.0:0", word)
    assert "has no token" in ended.error  # the next check


def test_missing_setting_of_the_tokens_is_refused_with_the_command(cli: Cli) -> None:
    del cli.environment["BILLING_HTTP_TOKENS"]
    ended = cli("serve")
    assert ended.code == 2
    assert "billing-worker tokens add NAME --scope accounts --tokens FILE" in ended.error


@pytest.mark.parametrize("content", ["", "# none\n", "nonsense\n"])
def test_file_without_a_token_is_refused(cli: Cli, tokens_file: Path, content: str) -> None:
    tokens_file.write_text(content)
    ended = cli("serve")
    assert ended.code == 2
    assert "billing-worker tokens add NAME" in ended.error


def test_missing_file_is_refused(cli: Cli) -> None:
    ended = cli("serve", "--tokens", "nowhere")
    assert ended.code == 2
    assert "nowhere, can't be read" in ended.error


@pytest.mark.parametrize("listen", ["8801", "127.0.0.1:", "127.0.0.1:x", ":8801", "127.0.0.1:99999"])
def test_invalid_address_is_a_usage_error(listen: str, cli: Cli) -> None:
    for ended in (cli("serve", "--listen", listen), cli("serve", BILLING_HTTP_LISTEN=listen)):
        assert ended.code == 2
        assert "HOST:PORT" in ended.err


@pytest.mark.parametrize("threads", ["0", "31", "many"])
def test_invalid_number_of_threads_is_refused(threads: str, cli: Cli) -> None:
    ended = cli("serve", BILLING_HTTP_THREADS=threads)
    assert ended.code == 2
    assert "BILLING_HTTP_THREADS" in ended.error


def test_ledger_without_a_schema_is_refused(cli: Cli, tmp_path: Path) -> None:
    ended = cli("serve", BILLING_DATABASE_URL=f"sqlite:///{tmp_path}/empty.sqlite3")
    assert ended.code == 2
    assert "billing-worker migrate" in ended.error


def test_missing_package_is_named_with_the_command_that_installs_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    ended = cli("serve")
    assert ended.code == 2
    assert "pip install 'billing-worker[http]'" in ended.error


def test_help_shows_how_to_ask(cli: Cli) -> None:
    shown = cli("serve", "--help").out
    assert 'curl -H "Authorization: Bearer $TOKEN"' in shown
    assert "billing-worker tokens add app --scope accounts" in shown


def test_command_prints_its_url_and_ends_in_order(sqlite_url: str, tokens_file: Path) -> None:
    settings = load_settings(broker_url=NOWHERE, database_url=sqlite_url, http_tokens=tokens_file)
    process = ForkedPython(
        *("worker", "serve", "--listen", "127.0.0.1:0"),
        env={**worker_environment(settings), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith("serving on http://127.0.0.1:")
        with urllib.request.urlopen(f"{line.removeprefix('serving on ')}readyz") as answer:  # noqa: S310 - our own
            assert answer.status == 200
        application = Application(settings)
        (known,) = eventually(lambda: application.workers.all(utc_now()), what="its row")
        assert (known.kind, known.pid, known.state) == ("serve", process.pid, "running")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert application.workers.all(utc_now()) == [], "it has said that it ended"
    application.engine.dispose()
    watchdog.cancel()
