"""A supervised worker and reader as machines see them: probes, service manager, log lines, SIGHUP."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.support.notify_socket import NotifySocket
from tests.support.private_server import free_port
from tests.support.process_group import Member, process_group
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.catalog import DEFAULT_CATALOG
from worker.runtime.log_fields import COMMON, FIELDS, LogEvent
from worker.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
OPEN = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "gold"}
GOLD = "\n[tiers.gold]\nmonthly_tokens = 7\nfree_upload_bytes = 0\n"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def catalog_file(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(DEFAULT_CATALOG.read_text())
    return path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with closing(NotifySocket(str(tmp_path / "notify"))) as manager:
        yield manager


@pytest.fixture
def run(
    worker_settings: Settings, tmp_path: Path, port: int, catalog_file: Path, manager: NotifySocket
) -> Iterator[Member]:
    settings = worker_settings.model_copy(
        update={
            "readers": 1,
            "metrics_port": port,
            "catalog": catalog_file,
            "log_format": "json",
            "log_references": True,
        }
    )
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000", "BILLING_CATALOGUE": "typo"}
    with process_group(settings, tmp_path, variables) as group:
        yield group.start("run")


def lines(run: Member, event: LogEvent | None = None) -> list[dict[str, Any]]:
    """Return the lines of the log, or those of an event."""
    whole = run.log.rpartition("\n")[0].splitlines()
    return [line for line in map(json.loads, whole) if event is None or line["event"] == event]


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def publish(rabbit: RabbitClient, message: dict[str, Any], **headers: str) -> None:
    properties = pika.BasicProperties(
        message_id=message["referenceId"], user_id=rabbit.user, headers=headers or None
    )
    body = json.dumps(message).encode()
    rabbit.channel.basic_publish("billing", message["type"], body, properties, mandatory=True)


def result_of(run: Member, reference: str, attempt: int | None = 1) -> dict[str, Any]:
    """Return the line of a message."""

    def found() -> list[dict[str, Any]]:
        wanted = (reference, attempt)
        messages = lines(run, LogEvent.MESSAGE)
        return [line for line in messages if (line.get("referenceId"), line.get("attempt")) == wanted]

    return eventually(found, what=f"the line of {reference}")[0]


def test_machines_see_how_processes_are_and_sighup_brings_a_new_catalog(
    run: Member, port: int, manager: NotifySocket, rabbit: RabbitClient, catalog_file: Path
) -> None:
    # The service is ready once all of it works; then it shows signs of life.
    assert "STATUS=0 of 2 processes work" in manager.until("READY=1")
    manager.until("WATCHDOG=1")
    for each in (port, port + 1):
        assert ask(each, "/livez") == (200, {"state": "live"})
        assert ask(each, "/readyz") == (200, {"state": "ready"})
        assert ask(each, "/")[0] == 404
    assert "NOTIFY_SOCKET" not in environment_of_child(run)

    # A message is followed by its trace; one that can't be applied has a line of its cause.
    publish(rabbit, OPEN, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    assert result_of(run, "o")["traceId"] == TRACE
    assert result_of(run, "o")["code"] == "unknown_tier"
    publish(rabbit, {"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 1, "toknes": 2})
    (dead,) = eventually(lambda: lines(run, LogEvent.DEAD_LETTERS))
    assert (dead["count"], dead["code"], dead["field"]) == (1, "unknown_field", "toknes")
    assert dead["referenceId"] == "d"

    # A bad catalog changes nothing; a good one holds for the next message, in both processes.
    catalog_file.write_text("[tiers")
    run.process.send_signal(signal.SIGHUP)
    (refused,) = eventually(lambda: lines(run, LogEvent.CATALOG_REFUSED))
    assert refused["level"] == "ERROR"
    assert str(catalog_file) in refused["message"]
    catalog_file.write_text(DEFAULT_CATALOG.read_text() + GOLD)
    run.process.send_signal(signal.SIGHUP)
    eventually(lambda: len({line["worker"] for line in lines(run, LogEvent.CATALOG_RELOADED)}) == 2)
    publish(rabbit, {**OPEN, "attempt": 2})
    assert result_of(run, "o", 2)["code"] == "account_opened"

    # No line has a field of another name, and each has the common ones.
    assert run.stop() == 0
    assert "STOPPING=1" in manager.until("STOPPING=1")
    found = lines(run)
    assert {name for line in found for name in line} <= FIELDS
    assert all({*COMMON} <= line.keys() for line in found)
    assert {LogEvent.STARTED, LogEvent.STOPPED, LogEvent.MESSAGE} <= {line["event"] for line in found}
    (unknown,) = [line for line in found if line["event"] == LogEvent.UNKNOWN_SETTING]
    assert "did you mean BILLING_CATALOG?" in unknown["message"]


def environment_of_child(run: Member) -> str:
    """Return the environment of a process under the supervisor."""
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    assert children
    return Path(f"/proc/{children[0]}/environ").read_bytes().decode(errors="replace")
