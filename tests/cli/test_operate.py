"""Commands that run a worker: ``check``, ``migrate``, ``topology``, ``run --drain``."""

import json
import shlex
from collections.abc import Callable

import pika
import pytest

from tests.cli.console import Cli, Ended
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.waiting import eventually
from tests.support.witness import Witness
from worker.broker import BILLING, open_link
from worker.broker.management import Management
from worker.broker.topology import Queue, Topology
from worker.ledger.revisions import newest_revision

QUEUES = [queue.name for queue in BILLING.queues]


# -- check ------------------------------------------------------------------------------------------------


def forecasts(ended: Ended) -> dict[str, str]:
    """Return the verdict of each check by the check's first word."""
    return {line.split()[1].rstrip(":"): line.split()[0] for line in ended.lines}


def test_check_says_of_each_part_in_a_line_that_it_is_well(
    bare_cli: Cli, broker_url: str, postgres_url: str
) -> None:
    ended = bare_cli("check", "--broker-url", broker_url, "--database-url", postgres_url)
    assert ended.code == 0, ended.all
    well = dict.fromkeys(["catalog", "database", "schema", "writes", "broker", "topology", "paused"], "ok")
    noted = dict.fromkeys(["delivery", "workers"], "note")  # the worker may start after the check
    assert forecasts(ended) == {**well, **noted}
    assert ended.err == ""
    assert "\x1b" not in ended.out


def test_check_is_coloured_on_a_terminal(cli: Cli) -> None:
    assert "\x1b[32mok" in cli("check", terminal=True).out


@pytest.mark.parametrize(
    ("variables", "bad", "told"),
    [
        ({"BILLING_CATALOG": "none.toml"}, ["catalog"], "catalog none.toml: cannot be read"),
        (
            {"BILLING_DATABASE_URL": "sqlite:///new.sqlite3"},
            ["schema"],
            "run `billing-worker migrate`",
        ),
        (
            {"BILLING_DATABASE_URL": "postgresql://u@127.0.0.1:9/db"},
            ["database", "schema"],
            "Connection refused",
        ),
        ({"BILLING_DATABASE_URL": "mysql://u@h/db"}, ["database", "schema"], "PostgreSQL and SQLite"),
        ({"BILLING_BROKER_URL": "amqp://127.0.0.1:9"}, ["broker", "topology"], "Connection refused"),
        ({"BILLING_BROKER_URL": "redis://h"}, ["broker", "topology"], "use amqp://"),
    ],
)
def test_check_says_what_is_bad_and_what_to_do_and_looks_at_the_rest(
    cli: Cli, variables: dict[str, str], bad: list[str], told: str
) -> None:
    cli.environment |= variables
    ended = cli("check")
    assert ended.code == 1
    assert [name for name, forecast in forecasts(ended).items() if forecast == "bad"] == bad
    assert len(ended.lines) == 9
    assert told in next(line for line in ended.lines if line.startswith("bad"))


def test_check_finds_a_topology_that_is_missing(ledger_cli: Cli, bare_broker_url: str) -> None:
    ended = ledger_cli("check", BILLING_BROKER_URL=bare_broker_url)
    assert ended.code == 1
    assert forecasts(ended)["broker"] == "ok"
    *_, topology, _, workers, _ = ended.lines
    assert "queue 'billing.usage' is missing: run `billing-worker topology declare`" in topology
    assert workers.startswith("note workers: unknown: ")


def test_check_says_who_consumes_and_fails_where_messages_wait_and_nobody_does(
    cli: Cli, broker_url: str, witness: Witness
) -> None:
    witness.publish(b"oops", routing_key="usage.deduct")
    alone = cli("check")
    neither = "billing.payments has no consumers, 0 waiting, billing.usage has no consumers, 1 waiting"
    assert alone.code == 1
    assert alone.lines[-2].startswith(f"bad  workers: {neither}: messages wait and nobody consumes them")
    link = open_link(broker_url, consume=[queue.name for queue in BILLING.work], prefetch=1)
    both = "ok   workers: billing.payments has 1 consumer, 0 waiting, billing.usage has 1 consumer, 0 waiting"
    try:
        eventually(lambda: cli("check").lines[-2] == both)
    finally:
        link.close()


def test_topology_sets_its_policies_where_it_is_told_to(
    cli: Cli, rabbitmq: RabbitMQServer, broker_url: str
) -> None:
    cli.environment["BILLING_MANAGEMENT_URL"] = rabbitmq.address.management_url
    ended = cli("topology", "declare", "--policies")
    assert (ended.code, ended.lines[-2:]) == (0, ["policy billing-work: set", "policy billing-kept: set"])
    management = Management(broker_url, rabbitmq.address.management_url)
    wanted = dict(BILLING.least_delivery_limits())
    eventually(lambda: management.delivery_limits(*wanted) == wanted, what="the limits in force")


def test_topology_says_that_the_management_api_does_not_answer(cli: Cli) -> None:
    ended = cli("topology", "declare", "--policies", BILLING_MANAGEMENT_URL="http://127.0.0.1:1")
    assert ended.code == 3
    assert "the management API at 127.0.0.1:1 does not answer" in ended.err


@pytest.mark.parametrize(
    ("limits", "state", "said"),
    [
        ({"billing-kept": 1_000_000, "billing-work": 1_000}, "ok", "high enough"),
        ({"billing-kept": 999_999, "billing-work": 1_000}, "bad", "billing.dead 999999 (at least 1000000)"),
        ({"billing-work": 20}, "note", "billing.usage 20 (at least 1000)"),
        ({}, "ok", "high enough"),  # this RabbitMQ is older than the default limit of 4.0
    ],
)
def test_check_fails_where_the_broker_would_drop_dead_letters_that_are_looked_at(
    cli: Cli, rabbitmq: RabbitMQServer, broker_url: str, limits: dict[str, int], state: str, said: str
) -> None:
    vhost = broker_url.rpartition("/")[2]
    for name, limit in limits.items():
        pattern, _ = BILLING.policies()[name]
        rabbitmq.management.set_policy(vhost, name, pattern=pattern, definition={"delivery-limit": limit})
    cli.environment["BILLING_MANAGEMENT_URL"] = rabbitmq.address.management_url

    def line() -> str | None:
        (found,) = [line for line in cli("check").lines if "delivery limits" in line]
        return found if said in found else None  # a policy takes a moment to come into force

    assert str(eventually(line)).startswith(state)


def test_check_does_not_say_that_nobody_consumes_where_it_cannot_know(ledger_cli: Cli) -> None:
    ended = ledger_cli("check", BILLING_BROKER_URL="sqla+sqlite:///broker.sqlite3")
    assert ended.lines[-2].startswith("ok   workers: billing.payments has consumers that an embedded broker")


def test_check_says_what_a_wrong_vhost_is(cli: Cli, broker_url: str) -> None:
    ended = cli("check", BILLING_BROKER_URL=broker_url.rpartition("/")[0] + "/no-such-vhost")
    assert ended.code == 1
    assert "no-such-vhost" in next(line for line in ended.lines if line.startswith("bad"))


# -- passwords --------------------------------------------------------------------------------------------

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
def test_a_wrong_password_is_refused_and_not_shown(
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
def test_the_password_of_a_server_that_is_away_is_not_shown(
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
def test_a_url_that_is_none_is_not_shown(bare_cli: Cli, command: tuple[str, ...], url: str) -> None:
    ended = bare_cli(*command, BILLING_BROKER_URL=url, BILLING_DATABASE_URL=url)
    assert ended.code == 2
    assert "BILLING_BROKER_URL: " in ended.error
    assert "BILLING_DATABASE_URL: " in ended.error
    nothing_is_shown(ended)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_worker_logs_where_it_works_without_passwords(
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
        assert all({"time", "level", "message"} <= json.loads(line).keys() for line in ended.err.splitlines())


# -- migrate ----------------------------------------------------------------------------------------------


def test_migrating_twice_is_migrating_once(bare_cli: Cli) -> None:
    first = bare_cli("migrate", "--database-url", "sqlite:///ledger.sqlite3")
    assert (first.code, first.out) == (0, f"schema at {newest_revision()}, was empty\n")
    second = bare_cli("migrate", "--database-url", "sqlite:///ledger.sqlite3")
    assert (second.code, second.out) == (0, f"schema at {newest_revision()} already\n")
    assert bare_cli("stats", "--database-url", "sqlite:///ledger.sqlite3").code == 0


def test_migrating_works_on_postgresql_too(bare_cli: Cli, postgres: PostgresServer) -> None:
    postgres.databases.create_database("test_cli_migrate")
    try:
        url = postgres.address.url("test_cli_migrate")
        assert bare_cli("migrate", "--database-url", url).out.endswith("was empty\n")
        assert bare_cli("migrate", "--database-url", url).out.endswith("already\n")
    finally:
        postgres.databases.drop_database("test_cli_migrate")


# -- topology ---------------------------------------------------------------------------------------------


def test_declaring_makes_what_verify_misses(bare_cli: Cli, bare_broker_url: str) -> None:
    bare_cli.environment["BILLING_BROKER_URL"] = bare_broker_url
    before = bare_cli("topology", "verify")
    assert before.code == 1
    assert before.lines == [
        f"{what} is missing: run `billing-worker topology declare`"
        for what in (
            *(f"exchange '{name}'" for name in BILLING.exchanges),
            *(f"queue '{name}'" for name in QUEUES),
        )
    ]
    declared = bare_cli("topology", "declare")
    assert declared.code == 0
    assert [line.partition(":")[0] for line in declared.lines[:4]] == QUEUES
    assert "bound to usage.*" in declared.lines[1]
    assert "exchange billing.events: declared, for notices; bind a queue to receive them" in declared.lines
    after = bare_cli("topology", "verify")
    assert after.code == 0
    assert after.out.startswith("the topology is as it must be")
    assert bare_cli("topology", "declare").out == declared.out


def test_the_policies_to_set_are_commands_that_can_be_pasted(broker_cli: Cli) -> None:
    told = [line for line in broker_cli("topology", "declare").lines if line.startswith("policy to set: ")]
    pasted = [shlex.split(line.removeprefix("policy to set: ")) for line in told]
    assert {words[2]: (words[3], json.loads(words[4])) for words in pasted} == BILLING.policies()
    for words in pasted:
        assert words[:2] == ["rabbitmqctl", "set_policy"]
        assert words[5:] == ["--apply-to", "queues"]


Wrong = Callable[[pika.adapters.blocking_connection.BlockingChannel], object]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda channel: channel.queue_delete("billing.usage"), "queue 'billing.usage' is missing"),
        (lambda channel: channel.exchange_delete("billing"), "exchange 'billing' is missing"),
    ],
)
def test_verify_names_what_is_gone(broker_cli: Cli, witness: Witness, wrong: Wrong, told: str) -> None:
    wrong(witness.channel)
    ended = broker_cli("topology", "verify")
    assert ended.code == 1
    assert ended.lines == [f"{told}: run `billing-worker topology declare`"]


def test_a_queue_of_another_type_is_shown_with_the_difference_and_the_way_out(
    broker_cli: Cli, witness: Witness
) -> None:
    witness.channel.queue_delete("billing.usage")
    witness.channel.queue_declare("billing.usage", durable=True)
    verified = broker_cli("topology", "verify")
    assert verified.code == 1
    (line,) = verified.lines
    assert line.startswith("queue 'billing.usage' differs: PRECONDITION_FAILED")
    assert "x-queue-type" in line
    assert line.endswith("delete it when it is empty, then declare it")
    declared = broker_cli("topology", "declare")
    assert declared.code == 2
    assert "PRECONDITION_FAILED" in declared.error
    witness.channel.queue_delete("billing.usage")
    assert broker_cli("topology", "declare").code == 0
    assert broker_cli("topology", "verify").code == 0


def test_an_exchange_of_another_type_is_shown_with_the_difference(
    bare_cli: Cli, bare_broker_url: str
) -> None:
    bare_cli.environment["BILLING_BROKER_URL"] = bare_broker_url
    with Witness(bare_broker_url) as witness:
        witness.channel.exchange_declare("billing", "fanout", durable=True)
        ended = bare_cli("topology", "verify")
    assert ended.code == 1
    assert ended.lines[0].startswith("exchange 'billing' differs: PRECONDITION_FAILED")
    assert "'fanout'" in ended.lines[0]
    assert len(ended.lines) == 6, "the queues are looked at all the same"


def test_a_binding_that_is_gone_is_put_right_by_declaring(broker_cli: Cli, witness: Witness) -> None:
    witness.channel.queue_unbind("billing.usage", "billing", "usage.*")
    with pytest.raises(pika.exceptions.UnroutableError):
        witness.publish({"type": "usage.deduct"})
    broker_cli("topology", "declare")
    witness.publish({"type": "usage.deduct"})


def test_a_topology_with_more_than_ours_is_as_it_must_be(broker_cli: Cli, broker_url: str) -> None:
    link = open_link(broker_url)
    link.declare(Topology("other", work=(), replies=Queue("other.replies"), dead=Queue("other.dead")))
    link.close()
    assert broker_cli("topology", "verify").code == 0


# -- run --------------------------------------------------------------------------------------------------


def test_drain_applies_what_waits_and_ends(cli: Cli, witness: Witness) -> None:
    witness.publish({"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"})
    witness.publish({"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 400})
    assert cli("run", "--drain").code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 9_600


def test_drain_is_for_one_worker(cli: Cli) -> None:
    ended = cli("run", "--drain", "--workers", "2")
    assert ended.code == 2
    assert ended.error == "--drain runs one worker; leave --workers out"


def test_a_worker_on_a_wrong_schema_ends_with_2(bare_cli: Cli, broker_url: str) -> None:
    ended = bare_cli("run", "--drain", BILLING_BROKER_URL=broker_url, BILLING_DATABASE_URL="sqlite:///x.db")
    assert ended.code == 2
    assert "billing-worker migrate" in ended.err


def test_all_of_it_works_on_the_embedded_broker(ledger_cli: Cli) -> None:
    ledger_cli.environment["BILLING_BROKER_URL"] = "sqla+sqlite:///broker.sqlite3"
    assert "policy to set" not in ledger_cli("topology", "declare").out
    assert ledger_cli("topology", "verify").code == 0
    assert ledger_cli("check").code == 0
    opened = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
    lines = json.dumps(opened).encode() + b"\noops\n"
    assert ledger_cli("publish", "-", "--unchecked", stdin=lines).code == 0
    assert ledger_cli("run", "--drain").code == 0
    assert ledger_cli("dead-letters", "drain").code == 0
    assert ledger_cli("balance", "ann", "--json").json["balance"] == 10_000
    (reply,) = ledger_cli("replies", "--take", "--limit", "1").lines
    assert json.loads(reply)["code"] == "account_opened"
    (line,) = ledger_cli("dead-letters", "list", "--json").json["deadLetters"]
    dead_letter = ledger_cli("dead-letters", "show", str(line["number"]), "--json").json
    assert (line["reason"], dead_letter["body"]) == ("not_json", "oops")
    replayed = ledger_cli("dead-letters", "replay", "1", "--reason", "again", "--patience", "0")
    assert (replayed.code, "is a worker running?" in replayed.out + replayed.err) == (1, True)
    assert ledger_cli("run", "--drain").code == 0
    assert ledger_cli("dead-letters", "drain").code == 0
    (dead_letter,) = ledger_cli("dead-letters", "list", "--json").json["deadLetters"]
    assert dead_letter["attempts"] == 2
