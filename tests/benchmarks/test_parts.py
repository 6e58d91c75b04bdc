"""Parts that measure: percentiles, tenths of a run, process trees, steps."""

import os
import subprocess
import sys

import pytest

from tests.benchmarks import phases, trees
from tests.benchmarks.backlog import Log
from tests.benchmarks.latency import percentile
from tests.benchmarks.phases import Spent, StopWatch
from tests.benchmarks.probe import Task
from tests.benchmarks.statements import name_of


@pytest.mark.parametrize(("rank", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (0.5, 1)])
def test_percentile_is_a_sample(rank: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], rank) == value


def test_percentile_of_one_sample_is_that_sample() -> None:
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_task_reaches_the_probe_unchanged() -> None:
    task = Task("amqp://u:p@h:1/v", users=3, per_second=200.0, counted=10, warm_up=5, straight=5)
    assert Task.read(task.to_json()) == task
    assert task.messages == 16


def test_steady_rate_is_the_same_in_each_tenth() -> None:
    log = Log(replies=[(0.1 * step, 37 * step) for step in range(101)])
    assert log.rates() == pytest.approx([370.0] * 10)


def test_slow_part_shows_in_its_tenths() -> None:
    log = Log(replies=[(0.0, 0), (1.0, 500), (11.0, 1_000)])  # the second half takes ten times as long
    assert log.rates(4) == pytest.approx([500.0, 500.0, 50.0, 50.0])


def test_memory_of_a_part_is_its_maximum() -> None:
    log = Log(memory=[(float(second), 50.0 + second) for second in range(10)])
    assert log.memory_of_parts(2) == [54.0, 59.0]


def test_process_tree_has_the_children_and_their_time() -> None:
    child = "import os, time; begin = time.process_time()\nwhile time.process_time() - begin < 0.2: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"print(1, flush=True); {code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.pid in trees.members([os.getpid()])
        assert trees.resident_bytes([process.pid]) > 2**20
        process.communicate(b"\n")  # the child has ended, and counts in its parent
    assert trees.members([process.pid]) == []
    assert trees.processor_seconds([os.getpid()]) >= 0.2


def test_step_excludes_the_steps_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        return now[0]

    def work(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(phases, "thread_time", clock)
    monkeypatch.setattr(phases, "monotonic", clock)
    watch = StopWatch()
    inner = watch.wrapped("inner", work)
    with watch.clocking("outer"):
        work(1)
        inner(2)
        inner(3)
        work(4)
    assert watch.spent == {"outer": Spent(5, 5), "inner": Spent(5, 5)}


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT a, b\nFROM accounts WHERE x FOR UPDATE", "LOCK accounts"),
        ("PREPARE insert_lots_3(text) AS INSERT INTO lots (a) SELECT a", "INSERT lots"),
        ("EXECUTE update_payment_events_12('[]')", "UPDATE payment_events"),
        ("INSERT INTO operations (a) SELECT a FROM json_to_recordset($1)", "INSERT operations"),
        ("UPDATE lots AS t SET a = r.a", "UPDATE lots"),
        ("commit", "commit"),
    ],
)
def test_statement_is_named_by_verb_and_table(statement: str, name: str) -> None:
    assert name_of(statement) == name
