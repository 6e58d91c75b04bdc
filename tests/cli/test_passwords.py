"""Passwords in URLs: no command shows them, whatever fails."""

import json

import pytest

from tests.cli.console import Cli, Ended
from tests.support.provision import PostgresServer, RabbitMQServer

PASSWORD = "Tr0ub4dor%263%2F"  # as written in a URL
PIECES = ("Tr0ub4dor", "dor&3", "dor%263")

EVERY_COMMAND = [
    ("check",),
    ("migrate",),
    ("stats",),
    ("topology", "verify"),
    ("replies", "--limit", "1"),
    ("dead-letters", "list"),
    ("run", "--drain", "--log-level", "DEBUG"),
]


def nothing_is_shown(ended: Ended) -> None:
    assert ended.all, "says nothing at all"
    for piece in PIECES:
        assert piece not in ended.all


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_wrong_password_is_refused_and_not_shown(
    ledger_cli: Cli, postgres: PostgresServer, rabbitmq: RabbitMQServer, command: tuple[str, ...]
) -> None:
    broker, database = rabbitmq.address, postgres.address
    login = f"amqp://{broker.user}:{PASSWORD}@{broker.host}:{broker.port}/"
    ledger_cli.environment["BILLING_BROKER_URL"] = login
    if command[0] != "run":  # a worker would wait for its database and never reach the broker
        login = f"postgresql://{database.user}:{PASSWORD}@{database.host}:{database.port}/postgres"
        ledger_cli.environment["BILLING_DATABASE_URL"] = login
    ended = ledger_cli(*command)
    assert ended.code in {1, 2, 3}
    nothing_is_shown(ended)


@pytest.mark.parametrize("command", EVERY_COMMAND[:-1], ids=" ".join)
@pytest.mark.parametrize("place", ["127.0.0.1:9", "no-such-host.invalid"])
def test_password_of_a_server_that_is_away_is_not_shown(
    bare_cli: Cli, command: tuple[str, ...], place: str
) -> None:
    ended = bare_cli(
        *command,
        BILLING_BROKER_URL=f"amqp://user:{PASSWORD}@{place}/",
        BILLING_DATABASE_URL=f"postgresql://user:{PASSWORD}@{place}/db",
    )
    assert ended.code in {1, 3}
    nothing_is_shown(ended)


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
@pytest.mark.parametrize(
    "url",
    [
        "Tr0ub4dor",
        "user:Tr0ub4dor@host",
        "://user:Tr0ub4dor@host",
        "amqp://user:Tr0ub4dor",
        "amqp://user:Tr0ub4dor@Tr0ub4dor@host/",
        "amqp://user:Tr0ub4dor/Tr0ub4dor@host/",
        "amqp://user:Tr0ub4dor#Tr0ub4dor@host/",
        "amqp://user:[Tr0ub4dor@host/",
    ],
)
def test_url_that_is_none_is_not_shown(bare_cli: Cli, command: tuple[str, ...], url: str) -> None:
    ended = bare_cli(*command, BILLING_BROKER_URL=url, BILLING_DATABASE_URL=url)
    assert ended.code == 2
    assert "BILLING_BROKER_URL: " in ended.error
    assert "BILLING_DATABASE_URL: " in ended.error
    nothing_is_shown(ended)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_worker_logs_where_it_works_without_passwords(
    bare_cli: Cli, broker_url: str, postgres_url: str, log_format: str
) -> None:
    ended = bare_cli(
        *("run", "--drain", "--log-level", "DEBUG", "--log-format", log_format),
        *("--broker-url", broker_url, "--database-url", postgres_url),
    )
    assert ended.code == 0, ended.err
    assert "consuming from amqp://" in ended.err
    for url in (broker_url, postgres_url):
        password = url.partition("://")[2].partition("@")[0].partition(":")[2]
        assert len(password) > 8
        assert password not in ended.all
    if log_format == "json":
        assert all({"ts", "level", "message"} <= json.loads(line).keys() for line in ended.err.splitlines())
