"""Transactions of one slot: their size against the rate, so that partitions of the broker can be planned."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest

from schemas import DeductUsage, slot_of
from tests.benchmarks.ledger_alone import clocked
from tests.benchmarks.loads import deductions, in_turns
from tests.benchmarks.results import Benchmark, BenchmarkContext, Result, alternately, costs, rates
from tests.benchmarks.sandbox import Measured, chunks, new_sandbox
from worker.ledger.form import LedgerForm, distribute
from worker.ledger.slots import slot_by_slot
from worker.ledger.store import Ledger

_SIZES = (500, 250, 100, 50, 25, 8, 1)
_SHORT_SIZES = (100, 8)
_WHOLE = "all slots, 500 a transaction"


def run(context: BenchmarkContext) -> Result:
    """Measure transactions of one slot of several sizes, with the unique key and with claims."""
    messages, users = context.sized(16_000, 600), context.accounts()
    sizes = _SHORT_SIZES if context.is_short else _SIZES
    contestants = {_WHOLE: partial(_written, context, LedgerForm.WHOLE, messages, users, _SIZES[0])}
    for form, name in ((LedgerForm.ONE_SLOT, "one slot"), (LedgerForm.DISTRIBUTED, "one slot and claims")):
        for size in sizes:
            contestants[f"{name}, {size} a transaction"] = partial(
                _written, context, form, messages, users, size
            )
    runs = alternately(context, contestants)
    return Result(
        figures=tuple(
            figure
            for name, measured in runs.items()
            for figure in (rates(name, measured), *costs(name, measured))
        ),
        sizes={"commands": messages, "users": users},
        notes=(
            "no broker; claims are in the same database",
            "transactions of one command are measured with a tenth of the commands",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


def _written(context: BenchmarkContext, form: LedgerForm, messages: int, users: int, size: int) -> Measured:
    """Run once in a sandbox of its own."""
    count = messages // 10 if size == 1 else messages
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        engine = sandbox.application.batch_engine
        if form is LedgerForm.DISTRIBUTED:
            with engine.begin() as connection:
                distribute(connection)
            engine = slot_by_slot(engine)
        commands = list(deductions(count, in_turns(users)))
        batches = list(chunks(commands, size) if form is LedgerForm.WHOLE else _by_slot(commands, size))
        measured = clocked(sandbox, Ledger(engine, form), batches, f"{form}, {size}")
        sandbox.check(used=count)
        return measured


def _by_slot(commands: list[DeductUsage], size: int) -> Iterator[list[DeductUsage]]:
    """Yield the commands in lists of one slot each; slots take turns."""
    slots: dict[int, list[DeductUsage]] = defaultdict(list)
    for command in commands:
        slots[slot_of(command.user_id)].append(command)
    for turn in zip_longest(*(chunks(own, size) for own in slots.values())):
        yield from (batch for batch in turn if batch)


SLOTS = Benchmark(
    "slots",
    "What does a transaction of one slot cost, by its size, with the unique key and with claims?",
    "none; partitions are planned with it",
    run,
)
