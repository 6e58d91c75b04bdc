"""``billing-worker console``: refusals to serve, and the file of users."""

import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.console import Cli
from tests.console.conftest import NOWHERE
from tests.support.forked_python import ForkedPython
from tests.support.processes import worker_environment
from worker.console.guard import os_user
from worker.settings import load_settings


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(monkeypatch, {"BILLING_DATABASE_URL": sqlite_url, "BILLING_BROKER_URL": NOWHERE})


@pytest.mark.parametrize("address", ["0.0.0.0:8800", "192.168.0.7:80", "[::]:8800", "console.example:8800"])
def test_console_without_users_refuses_a_public_address(address: str, cli: Cli) -> None:
    ended = cli("console", "--listen", address)
    assert ended.code == 2
    assert "needs users" in ended.error
    assert "billing-worker console user" in ended.error


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.168.0.7:80", "[::]:0", "[fe80::1]:80", "billing:80"])
def test_console_refuses_a_public_address_without_a_word_about_tls(
    address: str, cli: Cli, users_file: Path
) -> None:
    ended = cli("console", "--listen", address, "--users", str(users_file))
    assert ended.code == 2
    assert "passwords would be sent in clear text" in ended.error
    assert "--https" in ended.error
    assert "--insecure" in ended.error


@pytest.mark.parametrize("word", ["--https", "--insecure"])
def test_public_address_is_served_with_such_a_word(word: str, cli: Cli, users_file: Path) -> None:
    ended = cli(
        "console", "--listen", "0.0.0.0:0", "--users", str(users_file), word, BILLING_CONSOLE_SECRET="x"
    )
    assert "BILLING_CONSOLE_SECRET is too short" in ended.err  # the next check
    assert ("without --trusted-proxy" in ended.all) is (word == "--https")


@pytest.mark.parametrize("proxy", ["0.0.0.0/0", "proxy.example", "10.0.0.7/8"])
def test_wrong_trusted_proxy_is_a_usage_error(proxy: str, cli: Cli) -> None:
    for ended in (
        cli("console", "--trusted-proxy", "10.0.0.7", "--trusted-proxy", proxy),
        cli("console", BILLING_CONSOLE_TRUSTED_PROXIES=f"10.0.0.7, {proxy}"),
    ):
        assert ended.code == 2
        assert "BILLING_CONSOLE_TRUSTED_PROXIES" in ended.err
        assert proxy in ended.err


def test_trusted_proxy_needs_users(cli: Cli) -> None:
    ended = cli("console", "--trusted-proxy", "10.0.0.7")
    assert ended.code == 2
    assert "console users add NAME" in ended.error


def test_empty_file_of_users_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "users").touch(0o600)
    ended = cli("console", "--users", "users", "--listen", "0.0.0.0:0")
    assert ended.code == 2
    assert "names nobody who could sign in" in ended.error


def test_missing_file_is_refused(cli: Cli) -> None:
    ended = cli("console", BILLING_CONSOLE_USERS="nowhere")
    assert ended.code == 2
    assert "can't be read" in ended.error


def test_short_secret_is_refused_and_not_shown(cli: Cli) -> None:
    ended = cli("console", "--listen", "127.0.0.1:0", BILLING_CONSOLE_SECRET="hunter2")
    assert ended.code == 2
    assert "BILLING_CONSOLE_SECRET is too short" in ended.error
    assert "hunter2" not in ended.all


@pytest.mark.parametrize("listen", ["8800", "127.0.0.1:", "127.0.0.1:x", ":8800", "127.0.0.1:99999"])
def test_invalid_address_is_a_usage_error(listen: str, cli: Cli) -> None:
    ended = cli("console", "--listen", listen)
    assert ended.code == 2
    assert "HOST:PORT" in ended.err


def test_command_adds_changes_and_removes_users(cli: Cli, tmp_path: Path) -> None:
    users = tmp_path / "users"
    added = cli(
        "console", "user", "ann", "--role", "operator", "--users", "users", stdin=b"a long password\n"
    )
    assert (added.code, added.lines) == (0, ["ann may sign in as operator"])
    before = users.read_text()
    cli(
        "console",
        "user",
        "ann",
        "--role",
        "viewer",
        BILLING_CONSOLE_USERS="users",
        stdin=b"another long one\n",
    )
    assert users.read_text() != before
    assert users.read_text().startswith("ann:viewer:")
    assert "long" not in users.read_text()
    assert cli("console", "user", "ann", "--remove", "--users", "users").code == 0
    assert cli("console", "user", "ann", "--remove", "--users", "users").code == 2


def test_user_needs_a_file_a_role_and_a_long_password(cli: Cli) -> None:
    assert "name the file" in cli("console", "user", "ann", "--role", "viewer").err
    assert "--role viewer" in cli("console", "user", "ann", "--users", "users").err
    short = cli("console", "user", "ann", "--role", "viewer", "--users", "users", stdin=b"short\n")
    assert "at least 10 characters" in short.error


def test_missing_package_is_named_with_the_command_that_installs_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    ended = cli("console")
    assert ended.code == 2
    assert "pip install 'billing-worker[console]'" in ended.error


def test_help_shows_an_example(cli: Cli) -> None:
    assert (
        "billing-worker console --users users --listen 0.0.0.0:8800 --https --trusted-proxy 10.0.0.7"
        in cli("console", "--help").out
    )


def idle_sockets(url: str, count: int) -> list[socket.socket]:
    """Return connections on which nothing is sent."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    return [socket.create_connection(address, timeout=30) for _ in range(count)]


@contextmanager
def closing_all(sockets: list[socket.socket]) -> Iterator[None]:
    """Close the sockets in the end."""
    with ExitStack() as stack:
        for connection in sockets:
            stack.enter_context(connection)
        yield


def refused_request(url: str) -> bytes:
    """Return the answer to what is no request."""
    with closing_all(sockets := idle_sockets(url, 1)):
        sockets[0].sendall(b"nonsense\r\n\r\n")
        answer = b""
        while piece := sockets[0].recv(65_536):
            answer += piece
    return answer


def test_console_prints_its_url_serves_beside_idle_sockets_and_ends_in_order(sqlite_url: str) -> None:
    settings = load_settings(broker_url=NOWHERE, database_url=sqlite_url)
    process = ForkedPython(
        *("worker", "console", "--listen", "127.0.0.1:0"),
        env={**worker_environment(settings), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip().removeprefix("console on ")
        with closing_all(idle_sockets(url, 250)):
            with urllib.request.urlopen(f"{url}letters") as answer:  # noqa: S310 - our own
                assert answer.status == 200
                assert answer.headers.get("Server") is None
            assert refused_request(url).startswith(b"HTTP/1.0 400 Bad Request\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    watchdog.cancel()


def test_os_user_has_a_name() -> None:
    assert os_user()
