"""Checks of schemas/README.md: its types, fields, values and codes are exactly those of the models."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas import (
    MESSAGE_TYPES,
    QUERY_TYPES,
    Code,
    DeadLetter,
    DeadLetterReason,
    Limits,
    Notice,
    NoticeType,
    ProblemCode,
    QueryBalance,
    Reply,
    Status,
    UsageBatch,
    decode,
    decode_query,
)
from schemas.base import BaseCommand
from schemas.dead_letter import HEADER_PREFIX
from schemas.decoding import BODY_MAX_BYTES
from tests.contracts.samples import files, steps_of
from tests.support.pages import code_spans, page, section, tables

PAGE = page("schemas/README.md")
TYPES = sorted(MESSAGE_TYPES)
NOW = datetime(2026, 11, 26, tzinfo=UTC)

Schema = dict[str, Any]


def wire_name(name: str, field: FieldInfo) -> str:
    return field.alias or name


def fields_of(model: type[BaseModel], *, without: type[BaseModel] | None = None) -> dict[str, bool]:
    """Return the fields of ``model`` by their names on the wire; true for the required ones."""
    left_out = set() if without is None else {*without.model_fields, "type"}
    return {
        wire_name(name, field): field.is_required() or name == "type"
        for name, field in model.model_fields.items()
        if name not in left_out
    }


def own_fields(type_: str) -> dict[str, bool]:
    """Return the fields that the section of a type lists: all but those that every command has."""
    model = MESSAGE_TYPES[type_]
    return fields_of(model, without=None if model is UsageBatch else BaseCommand)


def listed(rows: Sequence[Sequence[str]]) -> dict[str, bool]:
    """Return the fields of a table with the column "required"."""
    return {code_spans(name)[0]: {"yes": True, "no": False}[required] for name, required, *_ in rows}


def codes_of(type_: str) -> dict[str, set[str]]:
    """Return the codes of a type's section by the status before them."""
    text = re.sub(r"\s+", " ", section(PAGE, type_))
    return {
        status.lower(): set(code_spans(found))
        for status, found in re.findall(r"\b(Applied|Rejected): ((?:`\w+`(?:, )?)+)", text)
    }


# -- commands ---------------------------------------------------------------------------------------------


def test_every_type_has_a_section() -> None:
    assert sorted(re.findall(r"^#### `(.+)`$", PAGE, re.MULTILINE)) == TYPES


@pytest.mark.parametrize("type_", TYPES)
def test_section_lists_the_fields_of_the_type(type_: str) -> None:
    (rows,) = tables(section(PAGE, type_))
    assert listed(rows) == own_fields(type_)


@pytest.mark.parametrize("type_", TYPES)
def test_section_says_which_values_a_field_takes(type_: str) -> None:
    (rows,) = tables(section(PAGE, type_))
    model = MESSAGE_TYPES[type_]
    schemas = model.model_json_schema(by_alias=True)["properties"]
    for name, _, value in rows:
        schema = schemas[code_spans(name)[0]]
        assert value.startswith(value_of(schema)), (name, value)
        if schema.get("default") is not None and "const" not in schema:
            assert f"default `{json.dumps(schema['default']).strip(chr(34))}`" in value, name


def test_common_fields_are_those_of_every_command() -> None:
    rows = tables(section(PAGE, "Commands"))[0]
    assert listed(rows) == fields_of(BaseCommand) | {"type": True}


@pytest.mark.parametrize("type_", TYPES)
def test_example_of_the_section_decodes_to_the_type(type_: str) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", section(PAGE, type_), re.DOTALL)
    decoded = decode(example.encode(), now=NOW, limits=Limits())
    assert type(decoded) is MESSAGE_TYPES[type_], decoded
    assert not (isinstance(decoded, UsageBatch) and decoded.malformed)


@pytest.mark.parametrize("type_", TYPES)
def test_section_names_every_code_that_a_sample_has(type_: str) -> None:
    codes = codes_of(type_)
    common = {Code.ACCOUNT_NOT_FOUND, Code.REFERENCE_CONFLICT}
    for reply in replies():
        if reply.get("type") == type_ and reply["status"] != Status.FAILED:
            assert reply["code"] in codes.get(reply["status"], set()) | common


@pytest.mark.parametrize("type_", TYPES)
def test_codes_of_the_section_have_its_status(type_: str) -> None:
    statuses = status_of_codes()
    for status, codes in codes_of(type_).items():
        assert {statuses[code] for code in codes} == {status}


def test_limits_of_a_message_are_on_the_page() -> None:
    limits, text = Limits(), " ".join(PAGE.split())
    assert f"({BODY_MAX_BYTES:,} bytes)" in text
    assert f"at most {limits.occurred_at_max_age.days:,} days ago" in text
    assert "24 hours ahead" in text
    assert limits.occurred_at_max_ahead.total_seconds() == 24 * 3600


# -- replies, notices, dead letters -----------------------------------------------------------------------


def test_reply_table_lists_every_field() -> None:
    rows = tables(section(PAGE, "Replies"))[0]
    assert {name for row in rows for name in code_spans(row[0])} == set(fields_of(Reply))


def test_code_table_lists_every_code_once() -> None:
    rows = tables(section(PAGE, "Reply codes"))[0]
    assert [code_spans(row[0])[0] for row in rows] == [str(code) for code in Code]


def test_samples_have_the_status_of_the_code_table() -> None:
    statuses = status_of_codes()
    for reply in replies():
        assert statuses[reply["code"]] == reply["status"]


def test_notice_tables_list_every_type_and_field() -> None:
    types, fields = tables(section(PAGE, "Notices"))
    assert {code_spans(row[0])[0] for row in types} == set(get_args(NoticeType))
    assert listed(fields) == fields_of(Notice)


def test_dead_letter_table_lists_every_header() -> None:
    rows = tables(section(PAGE, "Dead letters"))[0]
    headers = {
        HEADER_PREFIX + name.replace("_", "-"): field.is_required()
        for name, field in DeadLetter.model_fields.items()
    }
    assert listed(rows) == headers


def test_reason_table_lists_every_reason_code_once() -> None:
    rows = tables(section(PAGE, "Reason codes"))[0]
    codes = [code_spans(row[0])[0] for row in rows]
    assert sorted(codes) == sorted(map(str, DeadLetterReason))


# -- parts ------------------------------------------------------------------------------------------------


# -- queries ----------------------------------------------------------------------------------------------


def test_queries_are_listed_with_their_fields() -> None:
    rows = tables(section(PAGE, "Queries"))[0]
    listed_fields = {code_spans(query)[0]: set(code_spans(fields)) for query, fields, _ in rows}
    assert listed_fields == {
        type_: fields_of(model).keys() - {"type"} for type_, model in QUERY_TYPES.items()
    }


def test_codes_of_problems_are_listed() -> None:
    rows = tables(section(PAGE, "Queries"))[1]
    assert [code_spans(row[0])[0] for row in rows] == list(map(str, ProblemCode))


def test_example_of_a_query_is_one() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", section(PAGE, "Queries"), re.DOTALL)
    assert isinstance(decode_query(example.encode(), limits=Limits()), QueryBalance)


def status_of_codes() -> dict[str, str]:
    rows = tables(section(PAGE, "Reply codes"))[0]
    return {code_spans(code)[0]: status for code, status, _ in rows}


def replies() -> Iterator[Schema]:
    """Yield every reply of the samples, the items of batches included."""
    for path in files():
        for step in steps_of(path):
            if "reply" in step:
                yield step["reply"]
                yield from step["reply"].get("items", ())


_NUMBERS = {2**63 - 1: "2^63−1", -(2**63) + 1: "-2^63+1"}
_LENGTHS = {200: "identifier", 64: "label", 500: "text"}


def value_of(schema: Schema) -> str:
    """Return the words of the page for the values that a field takes."""
    match schema:
        case {"anyOf": [first, {"type": "null"}]}:
            return value_of(first)
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "string", "format": "date-time"}:
            return "time"
        case {"type": "string", "pattern": "^[A-Z]{3}$"}:
            return "currency"
        case {"type": "string", "maxLength": longest}:
            return _LENGTHS[longest]
        case {"type": "integer"}:
            least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
            return f"{_NUMBERS.get(least, least)} to {_NUMBERS.get(schema['maximum'], schema['maximum'])}"
        case {"type": "array"}:
            kind = "identifiers" if schema["items"].get("type") == "string" else "objects"
            return f"{schema.get('minItems', 0)} to {schema['maxItems']} {kind}"
        case {"$ref": _}:
            return "object"
    raise AssertionError(f"a kind of value that the page has no word for: {schema}")
