"""``--json``: one JSON object from every command that ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import DeadLetterReason, PaymentSucceeded
from tests.cli.commands import COMMANDS
from tests.cli.console import Cli, FilledLedger
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application, utc_now
from worker.deadletters.fingerprints import fingerprint_of
from worker.ledger.pauses import Pause
from worker.settings import load_settings

#: Commands without ``--json``, and why.
WITHOUT_JSON = {
    (): "a group",
    ("account", "export"): "JSON by nature",
    ("alerts",): "a YAML file, as Prometheus reads it",
    ("bridge",): "runs until it is stopped",
    ("console",): "serves pages until it is stopped",
    ("dashboard",): "JSON by nature",
    ("dead-letters", "export"): "a stream of JSON lines",
    ("readers",): "runs until it is stopped; --log-format json",
    ("replies",): "a stream of JSON lines",
    ("run",): "runs until it is stopped; --log-format json",
    ("serve",): "runs until it is stopped; --log-format json",
    ("topology", "definitions"): "JSON by nature",
}

#: Commands of PostgreSQL alone; ``test_privacy.py`` reads their JSON.
ON_POSTGRESQL = {("account", "erase")}

BONUS = '{"type": "credit.bonus", "referenceId": "b-1", "userId": "ann", "tokens": 5}'
UNKNOWN_PACKAGE = PaymentSucceeded(
    reference_id="pay", user_id="ann", package_id="gone", amount_minor=1, currency="USD"
)
#: Group of the messages that no worker has published.
UNKNOWN_GROUP = fingerprint_of(DeadLetterReason.UNKNOWN, None, None, "", None)
PASSWORD = b"a long password\n"

#: Arguments of each command, standard input, and the lists of its output; in the order in which they run.
CALLS: dict[tuple[str, ...], tuple[tuple[str, ...], bytes, tuple[str, ...]]] = {
    ("migrate",): ((), b"", ()),
    ("topology", "declare"): (("--journal",), b"", ("queues", "exchanges", "policies")),
    ("topology", "verify"): ((), b"", ("differences",)),
    ("publish",): (("-",), BONUS.encode(), ()),
    ("adjust",): (("ann", "5", "--reason", "x", "--timeout", "60"), b"", ()),
    ("activity",): ((), b"", ("entries",)),
    ("check",): ((), b"", ("checks",)),
    ("deploy",): (("systemd",), b"", ("files",)),
    ("plan",): (("--messages-per-second", "2000"), b"", ("parts", "limits", "assumptions")),
    ("config",): ((), b"", ("settings", "unknown", "differences")),
    ("recover",): (("--since", "1h"), b"", ("messages",)),
    ("scheduler",): (("--once",), b"", ()),
    ("activity", "purge"): (("--older-than", "1d"), b"", ()),
    ("dead-letters", "purge"): (("--older-than", "1d"), b"", ()),
    ("pause",): (("usage", "--reason", "x", "--type", "usage.deduct"), b"", ("paused",)),
    ("quiesce",): (("bulk", "--reason", "x"), b"", ("paused",)),
    ("status",): ((), b"", ("lanes", "workers", "advice")),
    ("resume",): ((), b"", ("resumed",)),
    ("accounts",): ((), b"", ("accounts",)),
    ("balance",): (("ann",), b"", ("quotas",)),
    ("can-afford",): (("ann", "5"), b"", ()),
    ("history",): (("ann",), b"", ("transactions",)),
    ("holds",): (("ann",), b"", ("holds",)),
    ("lots",): (("ann",), b"", ("lots",)),
    ("expiring",): ((), b"", ("expiring",)),
    ("explain",): (("open-ann",), b"", ("outcomes", "entries")),
    ("statement",): (("ann",), b"", ("entries",)),
    ("stats",): ((), b"", ()),
    ("usage",): (("ann",), b"", ("byDay",)),
    ("audit",): ((), b"", ("findings",)),
    ("operations",): ((), b"", ("operations",)),
    ("payments",): ((), b"", ("incidents",)),
    ("report",): (("liability",), b"", ("rows",)),
    ("reverse",): (("--list",), b"", ("runs",)),
    ("retry",): (("pay", "--reason", "x", "--timeout", "60"), b"", ("replies",)),
    ("dead-letters", "drain"): ((), b"", ()),
    ("dead-letters", "park"): ((), b"", ()),
    ("dead-letters", "groups"): ((), b"", ("groups",)),
    ("dead-letters", "group"): ((UNKNOWN_GROUP,), b"", ()),
    ("dead-letters", "list"): ((), b"", ("deadLetters",)),
    ("dead-letters", "note"): (("1", "asked"), b"", ()),
    ("dead-letters", "edit"): (("1", "--from-file", "-", "--reason", "x"), BONUS.encode(), ()),
    ("dead-letters", "show"): (("1",), b"", ("events", "edits", "ledger")),
    ("dead-letters", "import"): (("-",), b"", ()),
    ("dead-letters", "replay", "pause"): (("1",), b"", ()),
    ("dead-letters", "replay", "resume"): (("1",), b"", ()),
    ("dead-letters", "replay", "start"): (("2", "--reason", "x", "--patience", "0"), b"", ()),
    ("dead-letters", "replay", "list"): ((), b"", ("replays",)),
    ("dead-letters", "replay", "show"): (("1",), b"", ("notable",)),
    ("dead-letters", "replay", "cancel"): (("3",), b"", ()),
    ("dead-letters", "discard"): (("3", "--reason", "x"), b"", ("numbers",)),
    ("dead-letters", "resolve"): (("3", "--applied", "--reason", "x"), b"", ("numbers",)),
    ("dead-letters", "restore"): (("3",), b"", ("numbers",)),
    ("console", "users", "add"): (("ann", "--role", "viewer"), PASSWORD, ()),
    ("console", "user"): (("bob", "--role", "viewer"), PASSWORD, ()),
    ("console", "users", "list"): ((), b"", ("users",)),
    ("console", "users", "remove"): (("ann",), b"", ()),
    ("tokens", "add"): (("app", "--scope", "accounts"), b"", ("scopes",)),
    ("tokens", "list"): ((), b"", ("tokens",)),
    ("tokens", "remove"): (("app",), b"", ()),
    ("demo",): (("--messages", "150"), b"", ()),
    ("import",): (("accounts.csv", "--as-of", "2026-11-22T10:00:00Z", "--yes"), b"", ("unexpected",)),
}
PAGED = {path for path, command in COMMANDS.items() if "cursor" in {one.name for one in command.params}}
LISTS = {*PAGED, ("console", "users", "list"), ("tokens", "list")}
HAVING = {path for path, command in COMMANDS.items() if "as_json" in {one.name for one in command.params}}
#: Groups that do nothing by themselves.
GROUPS = {path for path, command in COMMANDS.items() if hasattr(command, "list_commands")} - HAVING


def test_every_command_has_json_or_a_reason() -> None:
    assert COMMANDS.keys() - GROUPS - WITHOUT_JSON.keys() == HAVING
    assert CALLS.keys() == HAVING - ON_POSTGRESQL


@pytest.fixture
def application(cli: Cli) -> Application:
    environment = cli.environment
    return Application(
        load_settings(
            broker_url=environment["BILLING_BROKER_URL"], database_url=environment["BILLING_DATABASE_URL"]
        )
    )


def running_replay(application: Application) -> None:
    """Store a replay of dead letter 1 that looks as if its runner was killed."""
    application.service().create_replay([1], "x", "ann")
    with application.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE replays SET state = 'running'")


def test_every_command_prints_one_json_object(
    cli: Cli, ledger: FilledLedger, rabbit: RabbitClient, application: Application, tmp_path: Path
) -> None:
    ledger.open("ann")
    for number in range(3):
        rabbit.publish(b"oops", exchange="", routing_key="billing.dead", message_id=f"m-{number}")
    application.pauses.begin(Pause("billing.usage", "w:1", "faults", "x", utc_now()), "config")
    replay = ("dead-letters", "replay")
    before: dict[tuple[str, ...], Callable[[], object]] = {
        (*replay, "pause"): lambda: running_replay(application),
        ("import",): lambda: (tmp_path / "accounts.csv").write_text(
            "user_id,tier,opened_at,balance\nivy,free,2024-01-05T08:00:00Z,5\n"
        ),
        ("payments",): lambda: ledger.apply(UNKNOWN_PACKAGE),
        (*replay, "cancel"): lambda: application.service().create_replay([3], "x", "ann"),
    }
    cli.environment["BILLING_CONSOLE_USERS"] = str(tmp_path / "users")
    cli.environment["BILLING_HTTP_TOKENS"] = str(tmp_path / "tokens")
    with running(application):
        for path, (arguments, stdin, lists) in CALLS.items():
            if path in before:
                before[path]()
            shown = cli(*path, *arguments, "--json", stdin=stdin)
            assert shown.code in {0, 1}, (path, shown.all)
            assert shown.out, (path, shown.all)
            found: Any = shown.json
            assert isinstance(found, dict), path
            assert all(isinstance(found[name], list) for name in lists), path
            assert ("next" in found) >= (path in LISTS), path
    application.engine.dispose()
