"""``check``: a line each of what is well, and what to do about the rest."""

import re
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url

from schemas import PaymentRefunded, PaymentSucceeded
from tests.cli.console import Cli, Ended, FilledLedger
from tests.support.apply_commands import applied
from tests.support.pages import page, section
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.bootstrap import utc_now
from worker.broker import BILLING, open_link
from worker.catalog import DEFAULT_CATALOG, load_catalog
from worker.messages import reply_queue


def states(ended: Ended) -> dict[str, str]:
    """Return the state of each check by the check's first word."""
    return {line.split()[1].rstrip(":"): line.split()[0] for line in ended.lines}


def test_check_says_of_each_part_in_a_line_that_it_is_well(
    bare_cli: Cli, broker_url: str, postgres_url: str
) -> None:
    ended = bare_cli("check", "--broker-url", broker_url, "--database-url", postgres_url)
    assert ended.code == 0, ended.all
    well = dict.fromkeys(
        [
            *("settings", "catalog", "database", "schema", "writes", "session", "tiers", "broker"),
            *("topology", "replies", "paused"),
        ],
        "ok",
    ) | {"payments": "ok"}
    noted = dict.fromkeys(
        ["senders", "journal", "delivery", "readers", "workers"], "note"
    )  # the worker may start after the check
    found = states(ended)
    assert found.pop("durability") in {"ok", "note"}  # servers of tests need not flush
    assert found == {**well, **noted}
    assert ended.err == ""
    assert "\x1b" not in ended.out


def test_check_warns_while_anyone_may_give_credit(cli: Cli) -> None:
    line = next(line for line in cli("check").lines if "senders" in line)
    assert line == (
        "note senders: anyone who may publish may send payment.succeeded and credit.bonus: "
        "say in BILLING_SENDERS who may"
    )
    ended = cli("check", BILLING_SENDERS='{"payment.*": ["gateway"]}')
    assert "ok   senders: rules say who may give credit" in ended.lines


def test_check_names_the_setting_that_a_misspelled_variable_meant(cli: Cli) -> None:
    ended = cli("check", BILLING_SENDERZ="{}")
    line = next(line for line in ended.lines if "settings" in line)
    assert line == (
        "note settings: BILLING_SENDERZ is no setting and changes nothing: did you mean BILLING_SENDERS?"
    )


def test_check_counts_the_accounts_on_tiers_that_the_catalog_lacks(
    cli: Cli, ledger: FilledLedger, tmp_path: Path
) -> None:
    def line() -> str:
        ended = cli("check", "--catalog", str(catalog))
        return next(line for line in ended.lines if " tiers:" in line)

    catalog = tmp_path / "catalog.toml"
    packaged = DEFAULT_CATALOG.read_text()
    catalog.write_text(packaged)
    for name in ("ann", "bob"):
        ledger.open(name)
    assert line() == "ok   tiers: the catalog has those of all accounts"
    catalog.write_text(packaged.replace("tiers.free", "tiers.gratis"))
    assert line() == (
        "note tiers: the catalog lacks the tier of accounts: 2 on 'free'; "
        "put the tiers back, or change the accounts"
    )


def test_check_is_coloured_on_a_terminal(cli: Cli) -> None:
    assert "\x1b[32mok" in cli("check", terminal=True).out


@pytest.mark.parametrize(
    ("variables", "bad", "advice"),
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
    cli: Cli, variables: dict[str, str], bad: list[str], advice: str
) -> None:
    cli.environment |= variables
    ended = cli("check")
    assert ended.code == 1
    assert [name for name, forecast in states(ended).items() if forecast == "bad"] == bad
    assert len(ended.lines) == 18
    assert advice in next(line for line in ended.lines if line.startswith("bad"))


def test_check_names_the_settings_that_the_role_of_the_workers_lacks(
    bare_cli: Cli, broker_url: str, postgres_url: str, postgres_engine: Engine
) -> None:
    role = f"role_{uuid4().hex[:8]}"
    url = make_url(postgres_url)
    password = f"LOGIN SUPERUSER PASSWORD '{url.password}'"
    own = url.set(username=role).render_as_string(hide_password=False)
    environment = {"BILLING_SESSION_SETTINGS": "role", "BILLING_DATABASE_URL": own}
    bare_cli.environment |= {**environment, "BILLING_BROKER_URL": broker_url}

    def line_after(*statements: str) -> str:
        with postgres_engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        (found,) = [line for line in bare_cli("check").lines if " session: " in line]
        return found

    documented = [
        statement.replace("billing_worker", role)
        for statement in re.findall(
            r"^ALTER ROLE .*;$",
            section(page("worker/OPERATING.md"), "Session settings on the role"),
            re.MULTILINE,
        )
    ]
    needed, advised = documented[:4], documented[4:]
    first = line_after(f"CREATE ROLE {role} {password}", f"ALTER ROLE {role} SET timezone = 'Asia/Tokyo'")
    assert first == f"bad  session: lacks settings: {' '.join(needed)}"
    assert line_after(*needed) == f"note session: may have slow plans: {' '.join(advised)}"
    assert line_after(*advised) == "ok   session: has the settings it needs"
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f"DROP ROLE {role}")


def test_check_finds_a_topology_that_is_missing(ledger_cli: Cli, bare_broker_url: str) -> None:
    ended = ledger_cli("check", BILLING_BROKER_URL=bare_broker_url)
    assert ended.code == 1
    assert states(ended)["broker"] == "ok"
    *_, topology, _, _, _, _, workers, _ = ended.lines
    assert "queue 'billing.usage' is missing: run `billing-worker topology declare`" in topology
    assert workers.startswith("note workers: unknown: ")


def test_check_says_who_consumes_and_fails_where_messages_wait_and_nobody_does(
    cli: Cli, broker_url: str, rabbit: RabbitClient
) -> None:
    rabbit.publish(b"oops", routing_key="usage.deduct")
    alone = cli("check")
    neither = "billing.payments has no consumers, 0 waiting, billing.usage has no consumers, 1 waiting, "
    neither += "billing.bulk has no consumers, 0 waiting"
    assert alone.code == 1
    assert alone.lines[-2].startswith(f"bad  workers: {neither}: messages wait and nobody consumes them")
    link = open_link(broker_url, consume=[queue.name for queue in BILLING.work], prefetch=1)
    consumed = ", ".join(f"{queue.name} has 1 consumer, 0 waiting" for queue in BILLING.work)
    both = f"ok   workers: {consumed}"
    try:
        eventually(lambda: cli("check").lines[-2] == both)
    finally:
        link.close()


def test_check_counts_the_queues_of_partitions_and_names_those_that_nobody_consumes(
    cli: Cli, broker_url: str
) -> None:
    topology = BILLING.partitioned(8)
    with closing(open_link(broker_url)) as link:
        link.declare(topology)
    cli.environment["BILLING_PARTITIONS"] = "8"
    consumed = [queue.name for queue in topology.work_queues if queue.name != "billing.usage.03"]
    with closing(open_link(broker_url, consume=consumed, prefetch=1)):
        eventually(
            lambda: (
                cli("check")
                .lines[-2]
                .startswith("note workers: 27 queues of work have 26 consumers, 0 waiting; ")
            )
        )
        lines = cli("check").lines
    assert "billing.usage.03 has no consumers, 0 waiting: a queue without a consumer" in lines[-2]
    assert "note partitions: nobody takes 0-7: a worker takes them within seconds, start one" in lines
    assert any("as it must be, with 8 partitions" in line for line in lines)


def test_check_notes_replies_that_nobody_reads(
    cli: Cli, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_queue, "UNREAD_MAX", 3)
    assert "ok   replies: billing.replies has 0 waiting and no consumers" in cli("check").lines
    for _ in range(3):
        rabbit.publish(b"a reply", exchange="", routing_key="billing.replies")
    (line,) = [line for line in cli("check").lines if " replies: " in line]
    assert line.startswith("note replies: billing.replies has 3 waiting and nobody reads them: let senders")


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


def test_check_does_not_say_that_nobody_consumes_where_it_cannot_know(
    ledger_cli: Cli, tmp_path: Path
) -> None:
    ended = ledger_cli("check", BILLING_BROKER_URL=f"sqla+sqlite:///{tmp_path / 'broker.sqlite3'}")
    assert ended.lines[-2].startswith("ok   workers: billing.payments has consumers that an embedded broker")


def test_check_says_what_a_wrong_vhost_is(cli: Cli, broker_url: str) -> None:
    ended = cli("check", BILLING_BROKER_URL=broker_url.rpartition("/")[0] + "/no-such-vhost")
    assert ended.code == 1
    assert "no-such-vhost" in next(line for line in ended.lines if line.startswith("bad"))


# -- payments ---------------------------------------------------------------------------------------------


def line_of_payments(ended: Ended) -> str:
    (line,) = [line for line in ended.lines if line.split()[1] == "payments:"]
    return line


def waits(ledger: FilledLedger, reference: str, currency: str = "USD", **since: int) -> None:
    """Let a refund of pi_1 wait for its payment since so long."""
    refund = PaymentRefunded.model_validate(
        {
            "reference_id": reference,
            "original_reference_id": "pi_1",
            "amount_minor": 5,
            "currency": currency,
        }
    )
    applied(ledger.engine, load_catalog(), refund, now=utc_now() - timedelta(**since))


def test_check_notes_events_that_wait_too_long_or_cannot_count(cli: Cli, ledger: FilledLedger) -> None:
    assert line_of_payments(cli("check")).endswith("no event waits for a payment, none longer than 3 days")
    waits(ledger, "re_1", days=2)
    assert line_of_payments(cli("check")).startswith("ok")
    waits(ledger, "re_2", days=4)
    waits(ledger, "re_3", "EUR", days=1)
    late = line_of_payments(cli("check"))
    assert late.startswith("note")
    assert late.endswith("1 event waits longer than 3 days for a payment: see `billing-worker payments`")
    ledger.open("ann")
    ledger.apply(
        PaymentSucceeded(
            reference_id="pi_1", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
        )
    )
    stuck = line_of_payments(cli("check"))
    assert stuck.endswith("1 can't count for theirs: see `billing-worker payments`")


def test_check_names_the_journal_where_there_is_one(cli: Cli, broker_url: str) -> None:
    assert "note journal: none: a restored ledger loses what came since the backup" in cli("check").out
    cli("topology", "declare", "--journal")
    assert "ok   journal: kept in billing.journal" in cli("check").lines
