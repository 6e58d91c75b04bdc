"""``activity``: what operators did, with the system's user and host beside the name they gave."""

import json
import os
import pwd
import socket
from typing import Any

import pytest

from tests.cli.console import Cli
from tests.support.private_server import free_port
from worker.bootstrap import Application
from worker.runtime.identity import Operator, system_user
from worker.settings import load_settings


@pytest.fixture
def application(ledger_cli: Cli) -> Application:
    return Application(load_settings(database_url=ledger_cli.environment["BILLING_DATABASE_URL"]))


def entries(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli("activity", "--json", *arguments).out)["entries"]
    return found


def test_name_in_the_environment_is_not_the_systems_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "mallory")
    assert system_user() == pwd.getpwuid(os.getuid()).pw_name


def test_entry_has_where_it_was_done_and_unknown_where_nobody_knows(
    ledger_cli: Cli, application: Application
) -> None:
    service = application.service()
    service.record("bob", "sign-in", "console")
    service.record(Operator.here("ann"), "replay", "replay 1", "mended")
    newest, console = entries(ledger_cli)
    assert (newest["actor"], newest["osUser"], newest["host"]) == ("ann", system_user(), socket.gethostname())
    assert (console["osUser"], console["host"]) == (None, None)
    lines = ledger_cli("activity").lines
    assert lines[1].split("\t")[1:4] == ["ann", system_user(), socket.gethostname()]
    assert lines[2].split("\t")[1:4] == ["bob", "unknown", "unknown"]


def test_entries_are_found_by_actor_action_and_subject(ledger_cli: Cli, application: Application) -> None:
    for actor, action, subject in (("ann", "publish", "a"), ("ann", "adjust", "b"), ("bob", "adjust", "a")):
        application.service().record(actor, action, subject)
    assert len(entries(ledger_cli, "--actor", "ann")) == 2
    assert len(entries(ledger_cli, "--action", "adjust")) == 2
    assert len(entries(ledger_cli, "--actor", "ann", "--subject", "a")) == 1


def test_adjustment_is_logged_before_it_is_sent(cli: Cli) -> None:
    given = ("--reason", "outage", "--actor", "ann", "--reference", "adj-1", "--timeout", "0")
    assert cli("adjust", "ada", "-5", *given).code == 3, "no worker runs"
    (entry,) = entries(cli)
    assert (entry["action"], entry["subject"], entry["reason"]) == ("adjust", "adj-1", "outage")
    assert (entry["actor"], entry["osUser"]) == ("ann", system_user())
    assert entry["detail"] == {"user": "ada", "tokens": -5, "attempt": 1}


def test_adjustment_that_can_t_be_logged_is_not_sent(broker_cli: Cli) -> None:
    nowhere = f"postgresql://u@127.0.0.1:{free_port()}/db"
    ended = broker_cli("adjust", "ada", "5", "--reason", "x", "--actor", "ann", BILLING_DATABASE_URL=nowhere)
    assert ended.code == 3
    assert "database is not available" in ended.error
