"""Short form of each benchmark: it runs at the smallest sizes, and the ledger is correct.

No claim about time. The tests count its causes instead: the statements of a batch, which must not grow with
it, and the memory of a worker, which must not grow with its backlog.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import Engine, update

from schemas import DeductUsage, OpenAccount
from tests.benchmarks import conditions, partitions, peers, report, sandbox
from tests.benchmarks.contenders import ECHO, Contender
from tests.benchmarks.loads import deductions, hot, outgoing
from tests.benchmarks.phases import STEPS
from tests.benchmarks.registry import BENCHMARKS
from tests.benchmarks.reporters import LineReporter
from tests.benchmarks.results import Benchmark, BenchmarkContext
from tests.benchmarks.sandbox import BenchmarkError, IncorrectLedgerError, Measured, Servers, new_sandbox
from tests.benchmarks.statements import counted
from tests.support.apply_commands import applied
from tests.support.forked_python import ForkedPython, Forking
from tests.support.provision import PostgresServer, RabbitMQServer
from worker.catalog import Catalog
from worker.ledger.form import LedgerForm
from worker.ledger.tables import accounts

#: The peers need packages that only `make bench` installs; ten million entries and three brokers take more
#: than a moment.
_ELSEWHERE = {"peers", "large", "brokers"}
_SHORT = [benchmark for benchmark in BENCHMARKS if benchmark.name not in _ELSEWHERE]
#: These compare with plain deductions, which really run once: for the budget.
_WITH_PLAIN_ONES = {"first-speed", "batch", "mixed", "echo", "skew"}
START = sandbox.start
_GROWTH_MAX, _MEMORY_MAX_MB = 1.5, 300


@pytest.fixture(autouse=True)
def _processes_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start our programs without their imports: no claim about time is made here."""
    monkeypatch.setattr(sandbox, "start", _forked)
    monkeypatch.setattr(subprocess, "Popen", Forking)  # for the programs of callers


def _forked(
    arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    if arguments[:2] != [sys.executable, "-m"]:
        return START(arguments, environment, output)
    return ForkedPython(
        *arguments[2:],
        start_new_session=True,
        cwd=sandbox.ROOT,
        env={**os.environ, "PYTHONPATH": str(sandbox.ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def servers(postgres: PostgresServer, rabbitmq: RabbitMQServer, postgres_template: str) -> Servers:
    return Servers(postgres, rabbitmq, postgres_template)


@pytest.fixture
def context(servers: Servers) -> BenchmarkContext:
    return BenchmarkContext(servers, LineReporter(), runs=1, is_short=True)


@pytest.mark.parametrize("benchmark", _SHORT, ids=lambda benchmark: benchmark.name)
def test_benchmark_measures_on_a_correct_ledger(
    benchmark: Benchmark, context: BenchmarkContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if benchmark.name in _WITH_PLAIN_ONES:
        monkeypatch.setattr(f"{benchmark.run.__module__}.processed_deductions", _processed_at_once)
    if benchmark.name == "partitions":  # the offered load has real workers on partitions
        monkeypatch.setattr(partitions, "drained", _processed_at_once)
    result = benchmark.run(context)
    assert all(sample >= 0 for figure in result.figures for sample in figure.samples)
    assert report.written(tmp_path, conditions.conditions(context.servers), benchmark, result).exists()
    match benchmark.name:
        case "backlog":
            figures = {figure.unit: figure.median for figure in result.figures if "memory" in figure.label}
            assert figures["MB"] < _MEMORY_MAX_MB
            assert figures["×"] < _GROWTH_MAX
        case "budget":
            assert {f"worker: {step}" for step in STEPS} <= {figure.label for figure in result.figures}
        case "mixed":
            (refused,) = result.details["refused"]
            assert refused >= result.details["kinds"]["rejected"]
        case "workers":
            assert [figure.median for figure in result.figures if figure.label == "deadlocks"] == [0]


@pytest.mark.slow
def test_partitions_are_drained_by_two_workers_on_a_correct_ledger(context: BenchmarkContext) -> None:
    for form in (LedgerForm.WHOLE, LedgerForm.ONE_SLOT):
        assert partitions.drained(context, 600, 50, 16, form).messages == 600


def _processed_at_once(
    _context: BenchmarkContext, messages: int, *_: Any, name: str = "worker", **__: Any
) -> Measured:
    return Measured(name, messages, 1.0, {"worker": 0.1})


def test_each_peer_gets_a_ratio_and_fewer_messages(
    context: BenchmarkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def processed_by(peer: Contender, _context: BenchmarkContext, messages: int, _users: int) -> Measured:
        return Measured(peer.name, messages, 1.0, {"worker": 0.1})

    monkeypatch.setattr(peers, "processed_deductions", _processed_at_once)
    monkeypatch.setattr(peers, "processed_by", processed_by)
    others = [replace(ECHO, name=name) for name in ("Celery", "Dramatiq")]
    result = peers.against(replace(context, messages=20_000), others)
    goals = {figure.label: (figure.median, figure.reached) for figure in result.figures if figure.goal}
    assert goals == {"worker : Celery": (10.0, False), "worker : Dramatiq": (10.0, True)}


def test_missing_peer_names_the_command_that_installs_it(context: BenchmarkContext) -> None:
    missing = replace(ECHO, name="Celery", packages=("no-such-package",))
    with pytest.raises(BenchmarkError, match="Celery needs the package no-such-package: `make bench`"):
        peers.against(context, [missing])


def test_process_that_ends_early_fails_the_run(servers: Servers) -> None:
    commands = [([sys.executable, "-c", "raise SystemExit('no such module')"], dict[str, str]())]
    with (
        new_sandbox(servers) as sandbox,
        pytest.raises(BenchmarkError, match=r"peer ended with 1\nno such module"),
    ):
        sandbox.drain("peer", commands, 1, progress=lambda *_: None)


def test_incorrect_ledger_fails_the_run(servers: Servers) -> None:
    with new_sandbox(servers) as sandbox:
        sandbox.open_accounts(2)
        sandbox.check(used=0)
        with pytest.raises(IncorrectLedgerError, match="0 tokens are used, not 5"):
            sandbox.check(used=5)
        with sandbox.application.engine.begin() as connection:
            connection.execute(update(accounts).values(sequence=accounts.c.sequence + 1))
        with pytest.raises(IncorrectLedgerError, match="the audit found"):
            sandbox.check()


def test_message_that_reaches_no_queue_fails_the_prefill(servers: Servers) -> None:
    (message,) = outgoing(deductions(1, hot()))
    with new_sandbox(servers) as sandbox:
        assert sandbox.prefill([message], lambda *_: None) == 1
        lost = type(message)(message.body, message.exchange, "nobody.listens")
        with pytest.raises(BenchmarkError, match="reached no queue"):
            sandbox.prefill([lost], lambda *_: None)


@pytest.mark.parametrize("count", [1, 33, 500])
def test_batch_of_plain_deductions_needs_four_statements_and_a_commit(
    count: int, postgres_engine: Engine, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(100)]
    applied(
        postgres_engine,
        catalog,
        *(OpenAccount(reference_id=f"o-{user}", user_id=user, tier="pro") for user in users),
    )
    batch = [
        DeductUsage(
            reference_id=f"d-{number}", user_id=users[number % 100], tokens=1, occurred_at=datetime.now(UTC)
        )
        for number in range(count)
    ]
    first = DeductUsage(reference_id="first", user_id="u0", tokens=1, occurred_at=datetime.now(UTC))
    applied(postgres_engine, catalog, first)  # the connection knows the catalog's key from then on
    with counted(postgres_engine) as statements:
        applied(postgres_engine, catalog, *batch)
    # The connection has ids left of the block that it took for the accounts.
    assert statements == ["LOCK accounts", "SELECT operations", "SELECT lots", "WRITE batch", "COMMIT"]
