"""``billing-worker bridge``: refusals to serve, the check, the process and its end."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.console import Cli
from tests.gateways.conftest import event_of
from tests.gateways.signing import SECRET, stripe_header
from tests.http.conftest import NOWHERE
from tests.support.forked_python import ForkedPython
from tests.support.processes import worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.catalog import DEFAULT_CATALOG
from worker.settings import load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """File of the bridge's configuration."""
    path = tmp_path / "bridge.toml"
    path.write_text('[stripe]\n[stripe.packages]\nprice_1 = "starter"\n', encoding="utf-8")
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Path) -> Cli:
    """The command line with a configuration and a secret, without a broker."""
    monkeypatch.chdir(tmp_path)
    environment = {
        "BILLING_BROKER_URL": NOWHERE,
        "BILLING_BRIDGE_CONFIG": str(config),
        "BILLING_BRIDGE_STRIPE_SECRETS": SECRET,
    }
    return Cli(monkeypatch, environment)


def test_missing_configuration_is_refused_with_the_flag(cli: Cli) -> None:
    del cli.environment["BILLING_BRIDGE_CONFIG"]
    ended = cli("bridge")
    assert ended.code == 2
    assert "--config FILE, or BILLING_BRIDGE_CONFIG" in ended.error


def test_missing_secret_is_refused_with_the_variable(cli: Cli) -> None:
    del cli.environment["BILLING_BRIDGE_STRIPE_SECRETS"]
    ended = cli("bridge", "--check")
    assert ended.code == 2
    assert "BILLING_BRIDGE_STRIPE_SECRETS_FILE" in ended.error


def test_secret_comes_from_a_file_as_well(cli: Cli, tmp_path: Path, broker_url: str) -> None:
    del cli.environment["BILLING_BRIDGE_STRIPE_SECRETS"]
    (tmp_path / "secrets").write_text(f"{SECRET}\n", encoding="utf-8")
    ended = cli("bridge", "--check", "--broker-url", broker_url, BILLING_BRIDGE_STRIPE_SECRETS_FILE="secrets")
    assert (ended.code, ended.out) == (0, "ok: stripe, broker\n")
    ended = cli("bridge", "--check", BILLING_BRIDGE_STRIPE_SECRETS_FILE="nowhere")
    assert ended.code == 2
    assert "the secrets in nowhere can't be read" in ended.error


def test_check_says_that_the_broker_does_not_answer(cli: Cli) -> None:
    ended = cli("bridge", "--check")
    assert ended.code == 3
    assert SECRET not in ended.all


def test_package_that_the_catalog_lacks_is_refused(cli: Cli, config: Path) -> None:
    config.write_text('[stripe.packages]\nprice_1 = "gold"\n', encoding="utf-8")
    ended = cli("bridge", "--check")
    assert ended.code == 2
    assert "stripe.packages.price_1: the catalog has no 'gold'" in ended.error


@pytest.mark.parametrize("address", ["0.0.0.0:8802", "[::]:8802", "billing.example:8802"])
def test_public_address_is_refused_without_a_word_about_tls(address: str, cli: Cli) -> None:
    ended = cli("bridge", "--listen", address)
    assert ended.code == 2
    assert "--https" in ended.error
    assert "--insecure" in ended.error


@pytest.mark.parametrize("listen", ["8802", "127.0.0.1:", ":8802", "127.0.0.1:99999"])
def test_invalid_address_is_a_usage_error(listen: str, cli: Cli) -> None:
    for ended in (cli("bridge", "--listen", listen), cli("bridge", BILLING_BRIDGE_LISTEN=listen)):
        assert ended.code == 2
        assert "HOST:PORT" in ended.err


def test_missing_package_is_named_with_the_command_that_installs_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    ended = cli("bridge")
    assert ended.code == 2
    assert "pip install 'billing-worker[http]'" in ended.error


def test_help_shows_a_configuration_that_loads(cli: Cli, config: Path) -> None:
    shown = cli("bridge", "--help").out
    toml = shown[shown.index('mode = "live"') : shown.index("Secrets are in")]
    config.write_text(toml, encoding="utf-8")
    ended = cli("bridge", "--check", BILLING_BRIDGE_PADDLE_SECRETS=SECRET)
    assert ended.code == 3, ended.all  # all of it is good but the broker


# -- the process ------------------------------------------------------------------------------------------


@pytest.fixture
def bridge(broker_url: str, config: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The bridge as a process, and its port."""
    catalog = config.with_name("catalog.toml")
    catalog.write_text(DEFAULT_CATALOG.read_text())
    environment = {
        **worker_environment(load_settings(broker_url=broker_url, catalog=catalog)),
        "BILLING_BRIDGE_STRIPE_SECRETS": SECRET,
        "PYTHONUNBUFFERED": "1",
    }
    with config.with_name("log").open("wb") as log:
        process = ForkedPython(
            *("worker", "bridge", "--config", str(config), "--listen", "127.0.0.1:0"),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith("serving on http://127.0.0.1:")
        port = urlsplit(line.removeprefix("serving on ")).port
        assert port is not None
        yield process, port
        process.kill()
    watchdog.cancel()


def fresh_event() -> bytes:
    """Return an event of this moment: a worker refuses times far from its own."""
    return json.dumps({**event_of("stripe", "intent succeeded"), "created": int(time.time())}).encode()


def ask(
    port: int, body: bytes, headers: list[tuple[str, str]], *, length: int | None = None
) -> tuple[int, Any]:
    """Send a POST with these very headers, which may promise more; return the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/webhooks/stripe")
    for name, value in [*headers, ("Content-Length", str(length or len(body)))]:
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_process_publishes_refuses_and_ends_in_order(
    bridge: tuple[subprocess.Popen[bytes], int], rabbit: RabbitClient, config: Path
) -> None:
    process, port = bridge
    body = fresh_event()
    signature = ("Stripe-Signature", stripe_header(body, at=int(time.time())))
    assert ask(port, body, [signature])[0] == 200
    assert json.loads(rabbit.take("billing.payments", 1)[0][1])["referenceId"] == "stripe:pi_Lamp"

    status, problem = ask(port, body, [signature, signature])
    assert (status, problem["code"]) == (400, "signature_unreadable")
    assert ask(port, body, [])[1]["code"] == "signature_missing"
    status, problem = ask(port, b"", [signature], length=1024 * 1024 + 1)
    assert (status, problem["detail"]) == (413, "The body is longer than 1048576 bytes.")

    # It goes on with its catalog where a new one lacks a package that it sells.
    config.with_name("catalog.toml").write_text(DEFAULT_CATALOG.read_text().replace('"starter"', '"gone"'))
    process.send_signal(signal.SIGHUP)
    log = config.with_name("log")
    eventually(lambda: "the catalog stays as it was" in log.read_text(), what="it judges the catalog")
    assert "starter" in log.read_text()
    assert ask(port, body, [signature])[0] == 200

    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
