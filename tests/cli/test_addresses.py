"""Addresses on the command line: what is wrong ends a command in one line, without a traceback."""

import pytest
from sqlalchemy import make_url

from tests.cli.console import Cli

SECRET = "s3cr3t-Pa55"


@pytest.mark.parametrize(
    ("name", "url", "error"),
    [
        ("BROKER_URL", f"amqps://u:{SECRET}@h?cacertfil=x", "did you mean cacertfile"),
        ("BROKER_URL", f"amqps://u:{SECRET}@h?verify=verify_none", "name the CA of yours"),
        ("BROKER_URL", f"amqp://u:{SECRET}@h?ssl=0", "amqps://"),
        ("BROKER_URL", f"amqp://u:{SECRET}@a,amqp://v:{SECRET}@b", "nodes of one broker"),
        ("BROKER_URL", f"amqp://u:{SECRET}@a,", "empty address"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/db?sslmod=require", "did you mean sslmode"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/db?ssl=0", "sslmode=verify-full"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/db?sslrootcert=/ca.pem", "sslmode=verify-full"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@a,,b/db", "empty address"),
        ("READ_DATABASE_URL", f"postgresql://u:{SECRET}@h/db?sslmode=on", "sslmode that is none of"),
        ("MANAGEMENT_URL", f"https://u:{SECRET}@h:15671/?verify=0", "https://host:15671"),
    ],
)
def test_url_that_sets_up_a_connection_wrongly_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, error: str
) -> None:
    ended = Cli(monkeypatch, {f"BILLING_{name}": url})("check")
    assert ended.code == 2
    assert ended.all.count("\n") == 1
    assert f"BILLING_{name}: " in ended.err
    assert error in ended.err
    assert SECRET not in ended.all


def test_command_takes_the_list_of_servers_and_uses_the_primary(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    parsed = make_url(postgres_url)
    url = f"postgresql://{parsed.username}:{parsed.password}@127.0.0.1:1,{parsed.host}:{parsed.port}/{parsed.database}"
    cli = Cli(monkeypatch, {"BILLING_DATABASE_URL": url, "BILLING_BROKER_URL": "amqp://127.0.0.1:1"})
    assert cli("balance", "nobody").code == 4
    (line,) = [line for line in cli("check").lines if line.split()[1] == "database"]
    assert line.startswith("note")
    assert "127.0.0.1:1 does not answer" in line
    assert f"{parsed.port} answers as the primary" in line
    assert str(parsed.password) not in line
