"""Scenario from a trace file, and the errors of bad files."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from worker.catalog import Catalog, load_catalog
from worker.demo.trace import trace_scenario
from worker.demo.trace_file import rows_in
from worker.errors import ConfigurationError

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05,0,0
2023-11-16 18:18:04.5,110,27
"""


@pytest.fixture(scope="module")
def packaged() -> Catalog:
    return load_catalog()


def test_trace_ends_now_and_keeps_its_intervals(tmp_path: Path, packaged: Catalog) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    scenario = trace_scenario(file, seed=1, users=3, now=NOW, catalog=packaged)

    deductions = [json.loads(message.body) for message in scenario.phases[2].messages]
    assert [fields["tokens"] for fields in deductions] == [4818, 3188, 137]
    times = [datetime.fromisoformat(fields["occurredAt"]) for fields in deductions]
    assert times[-1] == NOW
    assert times[1] - times[0] == timedelta(microseconds=52_000)
    assert any("shifted by 1101 days" in note for note in scenario.notes)
    assert any("4 rows, 1 of them without tokens" in note for note in scenario.notes)


def test_every_fifth_request_is_held_first_where_tokens_suffice(tmp_path: Path, packaged: Catalog) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:17:{second:02},{1_000 + second},{second + 1}" for second in range(20)]
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))

    scenario = trace_scenario(file, seed=1, users=40, now=NOW, catalog=packaged)

    *_, trace, ends = [[json.loads(message.body) for message in phase.messages] for phase in scenario.phases]
    holds = {fields["referenceId"]: fields for fields in trace if fields["type"] == "usage.reserve"}
    assert len(holds) == 4
    assert len(trace) == 20
    for capture in ends:
        hold = holds.pop(capture["originalReferenceId"])
        usage = capture["metadata"]
        assert hold["tokens"] == usage["contextTokens"] + 1_000
        assert capture["tokens"] == usage["contextTokens"] + usage["generatedTokens"]
        assert (hold["userId"], hold["occurredAt"]) == (capture["userId"], capture["occurredAt"])
    assert holds == {}
    assert scenario.facts["rowsHeld"] == 4


def test_references_depend_on_trace_and_seed(tmp_path: Path, packaged: Catalog) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)

    def references(now: datetime, seed: int) -> set[str | None]:
        scenario = trace_scenario(file, seed=seed, users=3, now=now, catalog=packaged)
        return {message.reference_id for message in scenario.messages}

    assert references(NOW, 1) == references(NOW + timedelta(days=1), 1)
    assert references(NOW, 1).isdisjoint(references(NOW, 2))


_HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
_GOOD = b"2023-11-16 18:17:03,1,2\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "trace.csv, line 1: the column TIMESTAMP is missing"),
        (b"TIMESTAMP,GeneratedTokens\n", "trace.csv, line 1: the column ContextTokens is missing"),
        (_HEADER, "trace.csv: has no row with tokens"),
        (_HEADER + b"2023-11-16 18:17:03,0,0\n", "trace.csv: has no row with tokens"),
        (_HEADER + _GOOD + b"yesterday,1,2\n", "trace.csv, line 3, column TIMESTAMP: 'yesterday' is no time"),
        (
            _HEADER + b"2023-11-16 18:17:03,-1,2\n",
            "trace.csv, line 2, column ContextTokens: '-1' is no whole",
        ),
        (_HEADER + b"2023-11-16 18:17:03,1,2.5\n", "line 2, column GeneratedTokens: '2.5' is no whole"),
        (_HEADER + b"2023-11-16 18:17:03,1," + b"9" * 5000 + b"\n", "line 2, column GeneratedTokens: '9"),
        (_HEADER + b"2023-11-16 18:17:03,1\n", "trace.csv, line 2, column GeneratedTokens: is missing"),
        (_HEADER + _GOOD + b'"2023-11-16,1,2\n', "trace.csv, line 3: is not CSV"),
        (_HEADER + _GOOD + b"\xff\xfe,1,2\n", "trace.csv, line 3: is not UTF-8"),
    ],
)
def test_bad_trace_raises_with_file_line_and_column(
    content: bytes, message: str, tmp_path: Path, packaged: Catalog
) -> None:
    file = tmp_path / "trace.csv"
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as refused:
        trace_scenario(file, seed=1, users=3, now=NOW, catalog=packaged)

    assert message in str(refused.value)


def test_trace_may_have_a_byte_order_mark_offsets_and_other_columns() -> None:
    content = b"\xef\xbb\xbfModel," + _HEADER + b"x,2023-11-16T20:17:03+02:00,1,2\n\n"

    (row,) = rows_in(content, "trace.csv")

    assert (row.at, row.tokens, row.line) == (datetime(2023, 11, 16, 18, 17, 3, tzinfo=UTC), 3, 2)
