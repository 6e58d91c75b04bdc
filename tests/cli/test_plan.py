"""``billing-worker plan``: the model as tables of loads and cores, the file of costs, and the command."""

import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.partitions import PARTITIONS
from tests.cli.console import Cli
from tests.support.pages import code_spans, page, section, tables
from worker.cli.capacity.costs import MEASURED, cost_fields, costs_file, load_costs
from worker.cli.capacity.model import FULL_BATCH, CapacityPlan, PlannedLoad, plan_for
from worker.errors import ConfigurationError
from worker.lanes.partitions import prefetch_of
from worker.settings import Settings

#: Round costs, so that the tables can be read.
ROUND = replace(
    MEASURED,
    worker_us=100,
    database_us=50,
    broker_us=40,
    replica_us=20,
    large_database_us=90,
    metered_worker_us=10,
    metered_database_us=6,
    one_slot_worker_us=10,
    one_slot_database_us=10,
    transaction_worker_us=300,
    transaction_database_us=200,
    claim_worker_us=5,
    claim_database_us=3,
    claims_worker_us=200,
    claims_database_us=50,
    one_node_factor=2.0,
    nodes_factor=3.0,
    coordinator_share=0.5,
    messages_a_process=5_000,
    messages_a_queue=20_000,
)


def planned(**load: Any) -> CapacityPlan:
    return plan_for(PlannedLoad(**{"messages_per_second": 10_000, "utilization": 0.5, **load}), ROUND)


def us(found: CapacityPlan) -> dict[str, float]:
    return {part.name: round(part.us_a_message, 3) for part in found.parts}


@pytest.mark.parametrize("partitions", [0, *PARTITIONS])
def test_worker_holds_as_much_of_a_queue_as_the_model_says(partitions: int) -> None:
    prefetch = Settings.model_fields["prefetch"].default
    assert PlannedLoad(1, partitions=partitions).held_a_queue == min(
        prefetch, prefetch_of(partitions, prefetch)
    )
    assert Settings.model_fields["batch_size"].default == FULL_BATCH


# -- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, {"workers": 100, "database": 50, "broker": 40}),
        ({"metered": 0.5}, {"workers": 105, "database": 53, "broker": 40}),
        ({"users": 1}, {"workers": 100, "database": 50, "broker": 40}),
        ({"users": 100_000}, {"workers": 100, "database": 70, "broker": 40}),
        ({"users": 1_000_000}, {"workers": 100, "database": 90, "broker": 40}),
        ({"users": 10**12}, {"workers": 100, "database": 90, "broker": 40}),
        ({"broker_nodes": 3}, {"workers": 100, "database": 50, "broker": 80}),
        ({"partitions": 16}, {"workers": 100, "database": 50, "broker": 40}),
        # one slot a partition: a transaction is what is held of its queue, 100
        (
            {"partitions": 64, "is_distributed": True, "database_nodes": 1},
            {"workers": 120, "database": 127.5, "broker": 40},
        ),
        (
            {"partitions": 64, "is_distributed": True},
            {"workers": 120, "coordinator": 96.5, "database nodes": 93, "broker": 40},
        ),
        # four slots a partition: of 375 messages 93 are of one
        (
            {"partitions": 16, "is_distributed": True},
            {"workers": 120.376, "coordinator": 96.763, "database nodes": 93.226, "broker": 40},
        ),
    ],
)
def test_time_of_a_message_follows_the_load(load: dict[str, Any], expected: dict[str, float]) -> None:
    assert us(planned(**load)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        # busy 1.0, 0.5 and 0.4 cores; half of the cores may be busy
        ({}, [(2, 1), (1, 1), (1, 1)]),
        ({"utilization": 1.0}, [(1, 1), (1, 1), (1, 1)]),
        ({"messages_per_second": 40_000}, [(8, 1), (4, 1), (4, 1)]),
        ({"messages_per_second": 80_000}, [(16, 2), (8, 1), (7, 1)]),
        ({"messages_per_second": 80_000, "machine_cores": 4}, [(16, 4), (8, 2), (7, 2)]),
        # all of it may wait: cores are busy to nine tenths
        ({"messages_per_second": 80_000, "bulk": 1.0}, [(9, 2), (5, 1), (4, 1)]),
        ({"messages_per_second": 80_000, "bulk": 0.25}, [(12, 2), (6, 1), (5, 1)]),
        ({"messages_per_second": 1, "broker_nodes": 3}, [(1, 1), (1, 1), (3, 3)]),
        (
            {"messages_per_second": 1, "is_distributed": True, "partitions": 64, "database_nodes": 4},
            [(1, 1), (1, 1), (4, 4), (1, 1)],
        ),
        (
            {"messages_per_second": 1, "is_distributed": True, "partitions": 64},
            [(1, 1), (1, 1), (2, 2), (1, 1)],
        ),
    ],
)
def test_cores_have_head_room(load: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert [(part.cores, part.machines) for part in planned(**load).parts] == expected


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"messages_per_second": 1}, 1),
        ({"messages_per_second": 2_500}, 1),
        ({"messages_per_second": 2_501}, 2),
        ({"messages_per_second": 25_000}, 10),
        ({"messages_per_second": 25_000, "bulk": 1.0}, 6),
        # a message of 120 µs, of which a process settles 4,167 a second
        ({"messages_per_second": 25_000, "partitions": 64, "is_distributed": True}, 12),
    ],
)
def test_a_process_settles_as_much_as_was_measured(load: dict[str, Any], expected: int) -> None:
    assert planned(**load).worker_processes == expected


def test_disk_and_memory_follow_messages_and_accounts() -> None:
    costs = replace(ROUND, operation_bytes=400, metered_bytes=100, reference_bytes=60, account_bytes=1_000)
    found = plan_for(PlannedLoad(100, messages_per_day=1_000, metered=0.5, users=20), costs)
    assert (found.disk_bytes_a_day, found.reference_bytes_a_day) == (450_000, 60_000)
    assert found.account_bytes == 20_000
    assert found.worker_megabytes == costs.process_megabytes
    assert plan_for(PlannedLoad(1), costs).disk_bytes_a_day == 86_400 * 400


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, []),
        ({"messages_per_second": 20_001, "machine_cores": 64}, ["a queue gets 20,001 messages a second"]),
        ({"messages_per_second": 20_001, "machine_cores": 64, "partitions": 16}, []),
        (
            {"messages_per_second": 30_000, "machine_cores": 64, "partitions": 8},
            ["12 worker processes share 8"],
        ),
        ({"messages_per_second": 20_000, "machine_cores": 1}, ["the database takes 2", "the broker takes 2"]),
        (
            {"messages_per_second": 60_000, "machine_cores": 8, "partitions": 64, "is_distributed": True},
            ["the coordinator takes 12"],
        ),
        ({"is_distributed": True}, ["without partitions a batch falls into 64 transactions of some 7"]),
    ],
)
def test_limit_that_is_passed_names_its_way_out(load: dict[str, Any], expected: list[str]) -> None:
    found = planned(**load)
    assert [
        text for text, begin in zip(found.limits, expected, strict=True) if not text.startswith(begin)
    ] == []
    assert all(": take" in text or ": let" in text for text in found.limits)
    assert found.holds is not bool(expected)


def test_one_machine_is_enough_until_its_cores_are_needed() -> None:
    for rate, is_enough in ((10_000, True), (21_000, True), (22_000, False)):
        load = PlannedLoad(rate, machine_cores=8, utilization=0.5)
        assert plan_for(load, ROUND).fits_one_machine(load) is is_enough


def test_assumption_names_the_unmeasured() -> None:
    said = " ".join(planned(users=10**7, broker_nodes=5, is_distributed=True).assumptions)
    for text in (
        "broker's memory is unknown",
        "more than 1,000,000 accounts",
        "more than 3 broker nodes",
        "Citus",
    ):
        assert text in said


# -- the costs --------------------------------------------------------------------------------------------


def test_costs_have_a_unit_a_meaning_and_a_command() -> None:
    for cost in cost_fields():
        assert all(cost.metadata[key] for key in ("unit", "means", "command")), cost.name


def test_printed_costs_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    costs = replace(MEASURED, worker_us=99.123456789)
    path.write_text(costs_file(costs))
    assert load_costs(path) == costs


def test_file_replaces_the_costs_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text("worker_us = 120\nnodes_factor = 1.0\n")
    assert load_costs(path) == replace(MEASURED, worker_us=120.0, nodes_factor=1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worker = 1", "nobody knows worker; `billing-worker plan --show-costs`"),
        ("worker_us = 'many'", "worker_us: 'many' is not a number from 0"),
        ("worker_us = true", "worker_us: True is not a number"),
        ("worker_us = nan", "worker_us: nan is not a number"),
        ("worker_us = inf", "worker_us: inf is not a number"),
        ("worker_us = -1", "worker_us: -1 is not a number"),
        (f"worker_us = 1{'0' * 400}", "is not a number from 0"),
        ("worker_us = 0", "worker_us: must be above 0"),
        ("nodes_factor = 0.5", "nodes_factor: 0.5 is not a factor from 1 to 100"),
        ("coordinator_share = 2", "coordinator_share: 2 is not a share from 0 to 1"),
        ("[worker_us]", "worker_us: {} is not a number"),
        ("worker_us", "is no TOML"),
    ],
)
def test_wrong_cost_is_named(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load_costs(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml can't be read: No such file"):
        load_costs(tmp_path / "none.toml")
    path = tmp_path / "costs.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_costs(path)


# -- the page ---------------------------------------------------------------------------------------------


def test_table_of_plans_shows_what_the_command_does(bare_cli: Cli) -> None:
    (rows,) = tables(section(page("worker/GROWING.md"), "Plan the machines"))
    for load, workers, database, broker, processes, disk in rows:
        shown = bare_cli("plan", *shlex.split(code_spans(load)[0])).rows
        cores = {row[0]: row[3] for row in shown if len(row) == 5}
        of_database = [cores[name] for name in ("database", "coordinator", "database nodes") if name in cores]
        assert (cores["workers"], " + ".join(of_database), cores["broker"]) == (workers, database, broker), (
            load
        )
        assert [["worker processes", processes], ["disk a day", disk]] == [
            row for row in shown if row[:1] in (["worker processes"], ["disk a day"])
        ]


# -- the command ------------------------------------------------------------------------------------------


def test_plan_is_a_table_with_its_assumptions(bare_cli: Cli) -> None:
    shown = bare_cli("plan", "--messages-per-second", "2000")
    assert (shown.code, shown.err) == (0, "")
    assert shown.rows[0] == ["part", "µs a message", "busy cores", "cores", "machines"]
    assert ["workers", "86", "0.17", "1", "1"] in shown.rows
    assert ["disk a day", "81 GB"] in shown.rows
    assert "One machine of 8 cores is enough: together they take 1." in shown.out
    assert "assumption  costs drift by a third" in shown.out


def test_plan_as_json_is_one_object(bare_cli: Cli) -> None:
    found = bare_cli("plan", "--messages-per-second", "600000/min", "--partitions", "16", "--json").json
    assert (found["holds"], found["messagesPerSecond"], found["limits"]) == (True, 10_000, [])
    assert [part["name"] for part in found["parts"]] == ["workers", "database", "broker"]
    assert found["brokerMemoryBytes"] is None


def test_plan_that_passes_a_limit_exits_with_1(bare_cli: Cli) -> None:
    ended = bare_cli("plan", "--messages-per-second", "50000")
    assert ended.code == 1
    assert "The plan doesn't hold" in ended.out
    assert "limit       a queue gets 50,000 messages a second" in ended.out


def test_costs_are_printed_and_taken_from_a_file(bare_cli: Cli, tmp_path: Path) -> None:
    printed = bare_cli("plan", "--show-costs")
    assert printed.code == 0
    assert tomllib.loads(printed.out)["worker_us"] == MEASURED.worker_us
    path = tmp_path / "costs.toml"
    path.write_text("worker_us = 200")
    found = bare_cli("plan", "--messages-per-second", "100", "--costs", str(path), "--json").json
    assert found["parts"][0]["usPerMessage"] == 200


def test_shares_are_numbers_or_per_cent(bare_cli: Cli) -> None:
    arguments = ("plan", "--messages-per-second", "9000", "--json", "--metered")
    assert bare_cli(*arguments, "0.25").json == bare_cli(*arguments, "25%").json


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "say --messages-per-second, the rate at the peak"),
        (("--messages-per-second", "many"), "'many' must be like 50/s, 600/min or 0.5"),
        (("--messages-per-second", "0"), "'0' must be like"),
        (("--messages-per-second", "nan"), "'nan' must be like"),
        (("--messages-per-second", "9" * 400), "--messages-per-second: at most 1,000,000,000"),
        (("--messages-per-second", "9", "--partitions", "12"), "'12' is not one of '0', '8', '16'"),
        (("--messages-per-second", "9", "--users", "0"), "0 is not in the range"),
        (
            ("--messages-per-second", "9", "--metered", "2"),
            "'--metered': '2' must be from 0 to 1, as 0.3 or 30%",
        ),
        (("--messages-per-second", "9", "--metered", "nan"), "'nan' must be from 0 to 1"),
        (("--messages-per-second", "9", "--bulk", "some"), "'some' must be from 0 to 1"),
        (("--messages-per-second", "9", "--utilization", "0"), "'0' must be from 0.1 to 1"),
        (("--messages-per-second", "9", "--broker-nodes", "2"), "'2' is not one of '1', '3', '5'"),
        (("--messages-per-second", "9", "--database-nodes", "2"), "--database-nodes goes with --distributed"),
        (
            ("--messages-per-second", "1", "--messages-per-day", "86401"),
            "--messages-per-day: 86,401 are more than the peak all day long, 86,400",
        ),
        (("--messages-per-second", "9", "--costs", "none.toml"), "costs: none.toml can't be read"),
    ],
)
def test_wrong_load_is_named(bare_cli: Cli, arguments: tuple[str, ...], expected: str) -> None:
    ended = bare_cli("plan", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert expected in ended.err
