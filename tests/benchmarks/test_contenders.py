"""Fairness of the contenders: the ledger work of the worker, once, and a reply to each message.

Those that need the packages of the extra run in ``make bench``, which checks their ledgers.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pika
import pytest
from sqlalchemy import Engine, select

from schemas import Command
from tests.benchmarks.contenders import BY_HAND, CONTENDERS, ECHO, Contender
from tests.benchmarks.contenders.ledger_by_hand import apply
from tests.benchmarks.loads import deductions, in_turns
from tests.benchmarks.sandbox import Sandbox, Servers, new_sandbox
from tests.support.apply_commands import applied
from tests.support.commands import bonus, deduct, opening
from tests.support.processes import ROOT
from tests.support.provision import PostgresServer, RabbitMQServer
from worker.broker import BILLING
from worker.catalog import Catalog
from worker.core import reply_for
from worker.ledger.audit import audit
from worker.ledger.tables import accounts, entries, lots, operations

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
#: Of 10,120 tokens in three lots: from one, across two, too many, across two and to the last one, too many.
AMOUNTS = (30, 60, 11_000, 10_030, 1)
_IDENTITY = {"slot", "account_id", "operation_id", "reference_id", "user_id"}
#: The ledger by hand sends no notice of a low balance, and remembers none.
_NOTICES = {"alerts", "notices"}
#: Nor does it say which catalog its prices came from.
_CATALOG = {"catalog_id"}


def test_handwritten_ledger_equals_the_one_of_the_worker(postgres_engine: Engine, catalog: Catalog) -> None:
    for user in ("hand", "worker"):
        open_with_three_lots(postgres_engine, catalog, user)
    for number, tokens in enumerate(AMOUNTS):
        about = {"feature": "ocr", "occurred_at": NOW} if number % 2 else {}
        by_hand = deduct(tokens, f"hand-{number}", "hand", **about)
        by_worker = deduct(tokens, f"worker-{number}", "worker", **about)
        answers = applied(postgres_engine, catalog, by_worker, now=NOW)
        replied = json.loads(apply(postgres_engine, by_hand, NOW))
        expected = json.loads(reply_for(by_worker, answers[0]).to_json())
        own = {"referenceId", "userId", "transactionId"}
        assert list(replied) == list(expected)
        assert without(replied, own) == without(expected, own)
    assert kept_about(postgres_engine, "hand") == kept_about(postgres_engine, "worker")
    assert audit(postgres_engine).is_clean


def test_handwritten_ledger_repeats_the_reply_to_a_redelivered_message(
    postgres_engine: Engine, catalog: Catalog
) -> None:
    open_with_three_lots(postgres_engine, catalog, "hand")
    taken, refused = deduct(60, "taken", "hand"), deduct(11_000, "refused", "hand")
    for command in (taken, refused, deduct(1, "lost", "nobody")):
        first = json.loads(apply(postgres_engine, command, NOW))
        before = kept_about(postgres_engine, "hand")
        again = json.loads(apply(postgres_engine, command, NOW + timedelta(hours=1)))
        assert (first["duplicate"], again["duplicate"]) == (False, True)
        assert without(again, {"duplicate"}) == without(first, {"duplicate"})
        assert kept_about(postgres_engine, "hand") == before
    other = json.loads(apply(postgres_engine, deduct(61, "taken", "hand"), NOW))
    assert other["code"] == "reference_conflict"
    assert audit(postgres_engine).is_clean


def test_handwritten_ledger_applies_concurrent_copies_once(postgres_engine: Engine, catalog: Catalog) -> None:
    open_with_three_lots(postgres_engine, catalog, "hand")
    with ThreadPoolExecutor(4) as threads:
        for number in range(10):
            command = deduct(3, f"r-{number}", "hand")
            replies = threads.map(lambda command: apply(postgres_engine, command, NOW), [command] * 4)
            assert sorted(json.loads(reply)["duplicate"] for reply in replies) == [False, True, True, True]
    assert audit(postgres_engine).is_clean


def test_handwritten_ledger_leaves_accounts_with_due_entries_to_the_worker(
    postgres_engine: Engine, catalog: Catalog
) -> None:
    open_with_three_lots(postgres_engine, catalog, "hand")
    before = kept_about(postgres_engine, "hand")
    with pytest.raises(NotImplementedError, match="due on the account of hand"):
        apply(postgres_engine, deduct(1, "r", "hand"), NOW + timedelta(days=40))
    assert kept_about(postgres_engine, "hand") == before


def test_contender_without_extra_packages_replies_to_each_message(sandbox: Sandbox) -> None:
    for already, contender in ((0, replace(BY_HAND, processes=1)), (30, ECHO)):
        filled = contender.prefill(sandbox, deductions(30, in_turns(7)), lambda *_: None)
        sandbox.drain(contender.name, contender.commands(sandbox), already + filled, progress=lambda *_: None)
    sandbox.check(used=30)
    references = [command.reference_id for command in deductions(30, in_turns(7))]
    assert sorted(answered(sandbox)) == sorted(references * 2)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_contender_starts_with_its_printed_settings(contender: Contender) -> None:
    sandbox = cast(Sandbox, SimpleNamespace(broker_url="amqp://broker", database_url="postgresql://database"))
    commands = contender.commands(sandbox)
    arguments, environment = commands[0]
    assert len(commands) == (1 if contender.is_forking else contender.processes)
    assert environment["BENCH_PREFETCH"] == str(contender.prefetch)
    assert environment["BENCH_THREADS"] == str(contender.threads)
    assert "{" not in " ".join([*arguments, *environment.values()])
    assert f"prefetch {contender.prefetch}" in contender.settings()


def test_contenders_are_listed_without_the_extra() -> None:
    missing = ("celery", "dramatiq", "faststream", "aio_pika")
    script = f"import sys; sys.modules.update(dict.fromkeys({missing})); import tests.benchmarks.contenders"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


@pytest.fixture
def sandbox(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> Iterator[Sandbox]:
    with new_sandbox(Servers(postgres, rabbitmq)) as sandbox:
        sandbox.open_accounts(7)
        yield sandbox


def open_with_three_lots(engine: Engine, catalog: Catalog, user_id: str) -> None:
    """10,000 tokens of a free tier, 50 that expire before them, and 70 that never do."""
    commands: list[Command] = [opening(f"open-{user_id}", user_id)]
    for number, (tokens, expires_at) in enumerate(((50, NOW + timedelta(days=20)), (70, None))):
        commands.append(bonus(tokens, f"bonus-{number}-{user_id}", user_id, expires_at=expires_at))
    applied(engine, catalog, *commands, now=NOW)


def kept_about(engine: Engine, user_id: str) -> list[list[dict[str, Any]]]:
    """Rows of the ledger about a user, without notices and identities."""
    with engine.connect() as connection:
        of_account = select(accounts.c.account_id).where(accounts.c.user_id == user_id).scalar_subquery()
        statements = [
            select(accounts).where(accounts.c.user_id == user_id),
            select(operations).where(operations.c.user_id == user_id).order_by(operations.c.operation_id),
            select(lots).where(lots.c.account_id == of_account).order_by(lots.c.number),
            select(entries).where(entries.c.account_id == of_account).order_by(entries.c.sequence),
        ]
        return [
            [without(row._asdict(), _IDENTITY | _NOTICES | _CATALOG) for row in connection.execute(statement)]
            for statement in statements
        ]


def answered(sandbox: Sandbox) -> Iterator[str]:
    """The references of what was replied to: each reply's correlation id."""
    with pika.BlockingConnection(pika.URLParameters(sandbox.broker_url)) as connection:
        channel = connection.channel()
        while (reply := channel.basic_get(BILLING.replies.name, auto_ack=True))[0] is not None:
            yield reply[1].correlation_id


def without(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
