"""Microseconds of a message by step, and the most that the machine would allow."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import process_time

from sqlalchemy import create_engine, text

from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import deductions, in_turns, outgoing
from tests.benchmarks.phases import STEPS, Spent, watched
from tests.benchmarks.results import (
    UNKNOWN_COST,
    Benchmark,
    BenchmarkContext,
    Figure,
    Result,
    costs,
    figures_known,
    rates,
    said,
)
from tests.benchmarks.sandbox import Measured, Sandbox, Servers, collected_as_in_a_worker, new_sandbox
from tests.benchmarks.statements import name_of
from tests.support.postgres_server import Postgres
from worker.runtime.stop import SignalStop

_LIBRARY = "pg_stat_statements"
_OTHER = "everything else"
_SMALL_US = 0.5


@dataclass(frozen=True, slots=True)
class Inside:
    """One run of a worker in this process: microseconds a message.

    ``steps`` of the worker, processor and clock; ``statements`` inside PostgreSQL, the waits included.
    """

    steps: Mapping[str, Spent]
    statements: Mapping[str, float]


def run(context: BenchmarkContext) -> Result:
    """A worker as it is, and one in this process that is looked into, by turns."""
    messages, users = context.sized(30_000, 600), context.accounts()
    plain: list[Measured] = []
    inside: list[Inside] = []
    with ExitStack() as stack:
        servers = stack.enter_context(_counting(context.servers)) if not context.is_short else context.servers
        for number in range(1, context.runs + 1):
            plain.append(processed_deductions(context, messages, users))
            context.reporter.ran(f"run {number} of {context.runs}, {said(plain[-1])}")
            inside.append(looked_into(replace(context, servers=servers), messages, users))
            context.reporter.ran(f"run {number} of {context.runs}, looked into: {_said(inside[-1])}")
    return Result(
        figures=tuple(_figures(plain, inside)),
        sizes={"messages": messages, "users": users},
        notes=(
            "processor time by part is from a worker as it is, by step from one that carries a stop-watch",
            "a worker waits for the database, the broker, the other core, or its own other thread",
            "at the end it waits half a second for messages that don't come, which counts for receive",
            "of PostgreSQL's statements it is the time that passed there, without the flush of the commit",
            "the most that the machine allows is all its cores busy with nothing else, and nobody waiting",
            *(() if all(run.total_cpu_us for run in plain) else (UNKNOWN_COST,)),
        ),
        runs=tuple(plain),
    )


def looked_into(context: BenchmarkContext, messages: int, users: int) -> Inside:
    """One run of a worker in this process, on a sandbox of its own."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        sandbox.prefill(outgoing(deductions(messages, in_turns(users))), context.progress, total=messages)
        context.progress("settling in this process", 0, 0)
        _forget_statements(sandbox)
        with collected_as_in_a_worker(), watched() as watch:
            before = process_time()
            sandbox.application.consumer(SignalStop()).run(drain=True)
            processor = process_time() - before
        sandbox.check(used=messages)
        steps = {name: _us(watch.spent[name], messages) for name in STEPS}
        steps[_OTHER] = Spent(processor / messages * 1e6 - sum(spent.processor for spent in steps.values()))
        return Inside(steps, dict(_statements(sandbox, messages)))


@contextmanager
def _counting(servers: Servers) -> Iterator[Servers]:
    """The servers, with a PostgreSQL that counts the time of its statements where one can be had."""
    if "postgresql" not in servers.process_ids() or not _has_library(servers):
        yield servers
        return
    with Postgres.start() as postgres:
        with (postgres.folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"shared_preload_libraries = '{_LIBRARY}'\n")
        postgres.restart()
        yield Servers(postgres, servers.rabbitmq)


def _has_library(servers: Servers) -> bool:
    engine = create_engine(servers.postgres.address.url("postgres"))
    try:
        with engine.connect() as connection:
            query = text("SELECT count(*) FROM pg_available_extensions WHERE name = :name")
            return bool(connection.execute(query, {"name": _LIBRARY}).scalar_one())
    finally:
        engine.dispose()


def _is_counting(sandbox: Sandbox) -> bool:
    with sandbox.application.engine.connect() as connection:
        return _LIBRARY in str(connection.execute(text("SHOW shared_preload_libraries")).scalar_one())


def _forget_statements(sandbox: Sandbox) -> None:
    if _is_counting(sandbox):
        with sandbox.application.engine.begin() as connection:
            connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS {_LIBRARY}"))
            connection.execute(text(f"SELECT {_LIBRARY}_reset()"))


def _statements(sandbox: Sandbox, messages: int) -> Iterator[tuple[str, float]]:
    """Time of each kind of statement, in microseconds a message, without the small ones."""
    if not _is_counting(sandbox):
        return
    query = text(
        f"SELECT query, total_exec_time FROM {_LIBRARY} WHERE calls > 1 AND dbid = "  # noqa: S608 - our own name
        "(SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY total_exec_time DESC"
    )
    with sandbox.application.engine.connect() as connection:
        rows = connection.execute(query).all()
    for statement, milliseconds in rows:
        if (us := milliseconds / messages * 1e3) >= _SMALL_US:
            yield name_of(statement), us


def _figures(plain: Sequence[Measured], inside: Sequence[Inside]) -> Iterator[Figure]:
    totals = tuple(run.total_cpu_us for run in plain)
    cores = os.cpu_count() or 1
    unit = "µs/message"
    yield rates("usage.deduct, one worker", plain)
    most = [None if total is None else cores * 1e6 / total for total in totals]
    yield from figures_known(f"most that {cores} cores allow", most, "messages/s")
    yield from figures_known("processor, all parts", totals, unit)
    yield from costs("one worker", plain)
    for name in (*STEPS, _OTHER):
        yield Figure(f"worker: {name}", tuple(each.steps[name].processor for each in inside), unit)
    for name in STEPS:
        waits = tuple(each.steps[name].clock - each.steps[name].processor for each in inside)
        if median(waits) >= _SMALL_US:
            yield Figure(f"worker waits: {name}", waits, "µs/message of waiting")
    for name in inside[0].statements:
        samples = tuple(each.statements[name] for each in inside if name in each.statements)
        yield Figure(f"in PostgreSQL: {name}", samples, unit)


def _us(spent: Spent, messages: int) -> Spent:
    return Spent(spent.processor / messages * 1e6, spent.clock / messages * 1e6)


def _said(inside: Inside) -> str:
    return ", ".join(f"{name} {spent.processor:.0f}" for name, spent in inside.steps.items())


BUDGET = Benchmark(
    "budget",
    "Where do the microseconds of a message go, and what is left?",
    "none, it shows why",
    run,
)
