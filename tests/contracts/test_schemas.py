"""JSON Schema of the contract: it takes and refuses what the worker does, in Python and in Node."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from schemas import MESSAGE_TYPES, QUERY_TYPES, Limits, Malformed, decode, decode_query, first_malformed
from schemas.base import BaseMessage
from schemas.fields import INT64_MAX
from tests.contracts.samples import files, steps_of
from tests.support.node import ask_script
from worker.contract.bundle import KINDS, bundle, message_schema
from worker.contract.files import FOLDER, contents
from worker.contract.rules import DESCRIBED, EXPRESSED, OF_VALUES
from worker.contract.schema import parts_of, validators_of, value_validators_of

Body = dict[str, Any]
Field = tuple[str, Any]

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
#: What the file can't know, because operators choose it, is as wide as it can be.
LIMITS = Limits(max_quantity=INT64_MAX, occurred_at_max_age=timedelta(days=700_000))
SENT = {**MESSAGE_TYPES, **QUERY_TYPES}
DEFINITIONS = {type_: kind.definitions[type_] for kind in KINDS for type_ in kind.definitions}

#: Payment of a subscription's period.
PAYMENT: Body = {"referenceId": "in-1", "amountMinor": 1, "currency": "USD"}
PERIOD: Body = {"periodStart": "2026-12-22T10:15:00Z", "periodEnd": "2027-01-22T10:15:00Z"}

#: Values that some field takes and others refuse. Left out is what JSON itself tells differently: 1.0 is an
#: integer of JSON Schema, and JavaScript rounds 2^63+1.
VALUES: tuple[Any, ...] = (
    *(
        "ada",
        "",
        "a b",
        " a",
        "a\n",
        "a\x00",
        "a\u200db",
        "k" * 64,
        "k" * 65,
        "k" * 200,
        "k" * 201,
        "k" * 501,
    ),
    *("2026-11-21T10:15:00Z", "2026-11-21t10:15:00.123456789+05:30", "2026-11-21 10:15:00z", "2026-11-21"),
    *("2026-11-21T10:15:00", "2026-11-21T10:15Z", "2026-11-21T10:15:00+24:00", "2026-11-21T10:15:00Z\n"),
    *(
        "٢٠٢٦-١١-٢١",
        "2026-11-21\n",
        "USD",
        "usd",
        "USD\n",
        "now",
        "period_end",
        "take",
        "refuse",
        "won",
        "inquiry",
    ),
    *("applied", "all", "UTC", "day", "metadata.plan", "metadata.", "free", "usage.deduct", "true", "1"),
    *(0, 1, -1, 2, 1000, 1001, 9_999, 10_000, 1_000_000, 1_000_001, 2_678_400, 2_678_401),
    *(INT64_MAX, 2**64, -INT64_MAX, -(2**64), 1.5, True, False),
    *([], ["a"], {}, {"plan": "pro"}, {"n": 1, "b": True, "z": None}, {"n": 1.5}, {"n": {}}, {"n": []}),
    *(PAYMENT, PAYMENT | {"alsoKnownAs": ["a"]}, PAYMENT | {"provider": None}, PAYMENT | {"currency": "usd"}),
    *(PAYMENT | {"alsoKnownAs": [""]}, PAYMENT | {"more": 1}, PAYMENT | {"amountMinor": -1}),
    *({"": 1}, {"a b": 1}, {" a": 1}, {"k" * 64: 1}, {"k" * 65: 1}, {"t": "k" * 501}, {"t": "a\tb"}),
    *({"n": -INT64_MAX - 1}, {"n": 2**64}, {f"k{n}": n for n in range(16)}, {f"k{n}": n for n in range(17)}),
)


def is_taken(type_: str, body: Body) -> bool:
    """Return whether the worker takes a body for a command or a query."""
    text = json.dumps(body).encode()
    if type_ in QUERY_TYPES:
        return not isinstance(decode_query(text, limits=LIMITS), Malformed)
    return first_malformed(decode(text, now=NOW, limits=LIMITS)) is None


def value_for(model: type[BaseMessage], name: str) -> Any:
    """Return a value that the field takes by itself."""
    info = model.model_fields[name]
    alone: Any = Annotated[info.annotation, "the field alone", *info.metadata]
    adapter: TypeAdapter[Any] = TypeAdapter(alone)
    for value in VALUES:
        try:
            adapter.validate_python(value)
        except ValidationError:
            continue
        return value
    raise AssertionError(f"{model.__name__}.{name} takes none of VALUES: add one that it takes")


def wire_names(model: type[BaseMessage]) -> dict[str, str]:
    return {info.alias or name: name for name, info in model.model_fields.items()}


@cache
def base_of(type_: str) -> str:
    """Return the text of a body of this type that the worker takes: a sample, or the required fields."""
    for path in files():
        for step in steps_of(path):
            body = step.get("message", {})
            if body.get("type") == type_ and step["reply"]["status"] == "applied":
                return json.dumps(body)
    model = SENT[type_]
    required = {
        wire: name for wire, name in wire_names(model).items() if model.model_fields[name].is_required()
    }
    body = {"type": type_} | {wire: value_for(model, name) for wire, name in required.items()}
    return json.dumps(body | FIRST_OF_A_CHOICE.get(type_, {}))


#: Queries that need one of several fields.
FIRST_OF_A_CHOICE: dict[str, Body] = {"query.afford": {"tokens": 1}}


def bodies_of(type_: str) -> Iterator[Body]:
    """Yield bodies that differ from a good one in one field, or in the choice of optional ones."""
    base: Body = json.loads(base_of(type_))
    names = wire_names(SENT[type_])
    yield base
    yield {**base, "unknown": 1}
    for name in names:
        yield {key: value for key, value in base.items() if key != name}
        yield {**base, name: None}
        yield from ({**base, name: value} for value in VALUES if name != "type" or value != "usage.deduct")


def choices_of(type_: str) -> Iterator[Body]:
    """Yield bodies with every choice of up to three optional fields, given, null or absent."""
    model = SENT[type_]
    base: Body = json.loads(base_of(type_))
    names = wire_names(model)
    optional = [name for name, field in names.items() if not model.model_fields[field].is_required()]
    optional = [name for name in optional if name not in ("type", "occurredAt", "metadata", "description")]
    required = {key: value for key, value in base.items() if key not in optional}
    given = {name: base.get(name, value_for(model, names[name])) for name in optional}
    for size in range(4):
        for chosen in combinations(optional, size):
            body = required | {name: given[name] for name in chosen}
            yield body
            yield from (body | {name: None} for name in optional if name not in chosen)


def breaks_a_sentence(type_: str, body: Body) -> bool:
    """Return True where the worker refuses a body by a rule between fields that is a sentence in the file."""
    model = SENT[type_]
    rules = {name for part in parts_of(model) for name in validators_of(part)}
    try:
        model.model_validate(body, by_alias=True, by_name=False)
    except ValidationError as error:
        # Such a rule is about a message or a part of one, not about a field.
        places = [fault["loc"] for fault in error.errors() if fault["type"] == "value_error"]
        return bool(rules & DESCRIBED.keys()) and any(not loc or isinstance(loc[-1], int) for loc in places)
    return False


@pytest.mark.parametrize("type_", sorted(SENT))
def test_schema_takes_what_the_worker_takes(type_: str) -> None:
    bodies = [*bodies_of(type_), *choices_of(type_)]
    here, there = validities(type_, bodies)
    for body, is_valid, is_valid_there in zip(bodies, here, there, strict=True):
        assert is_valid == is_valid_there, body
        if is_valid != is_taken(type_, body):
            assert is_valid, body
            assert breaks_a_sentence(type_, body), body


def validities(type_: str, bodies: Sequence[Body]) -> tuple[list[bool], list[bool]]:
    """Return whether each body is valid, in Python and in Node."""
    schema = bundle()
    ref = f"#/$defs/{DEFINITIONS[type_]}"
    here = Draft202012Validator({"$ref": ref, "$defs": schema["$defs"]})
    checks = [[ref, body] for body in bodies]
    there = ask_script("validate.mjs", {"schema": schema, "formats": False, "checks": checks})
    return [here.is_valid(body) for body in bodies], [error is None for error in there]


#: Choices that a message must not make, beside a good one's fields.
EXCLUDED: dict[str, list[Body]] = {
    "payment.succeeded": [{"packageId": "starter", "packageIndex": 0}, {"packageId": None}],
    "payment.refunded": [
        {"amountMinor": None},
        {"amountMinor": 1, "refundedTotalMinor": 1, "occurredAt": "2026-11-21T00:00:00Z"},
        {"amountMinor": None, "refundedTotalMinor": 1, "occurredAt": None},
    ],
    "account.freeze": [
        {"userId": "ada", "paymentReferenceId": "pi_1"},
        {"userId": None, "paymentReferenceId": None},
    ],
    "account.unfreeze": [
        {"userId": "ada", "paymentReferenceId": "pi_1"},
        {"userId": None, "paymentReferenceId": None},
    ],
    "subscription.change": [
        {"periodStart": PERIOD["periodStart"], "periodEnd": None},
        {"periodStart": None, "periodEnd": PERIOD["periodEnd"]},
        {"effectiveAt": "period_end", "payment": None, **PERIOD},
        {"effectiveAt": "period_end", "payment": PAYMENT, "periodStart": None, "periodEnd": None},
    ],
    "subscription.renew": [{"periodStart": None, "periodEnd": PERIOD["periodEnd"]}],
    "credit.adjust": [{"tokens": -1, "expiresAt": "2027-01-01T00:00:00Z"}],
    "usage.batch": [{"userId": None, "items": [{"type": "usage.deduct", "referenceId": "r", "tokens": 1}]}],
    "query.balance": [{"at": "2026-11-21T00:00:00Z", "minSequence": 1}],
    "query.afford": [
        {"tokens": 1, "meter": "ocr", "quantity": 1},
        {"tokens": 1, "quantity": 1},
        {"tokens": 1, "meter": "ocr"},
        {"tokens": None},
        {"tokens": None, "meter": "ocr"},
        {"tokens": None, "quantity": 1},
    ],
    "query.history": [
        {"offset": 0, "cursor": "x"},
        {"offset": 0, "status": "all"},
        {"offset": 0, "feature": "ocr"},
        {"offset": 0, "from": "2026-11-21T00:00:00Z"},
    ],
    "query.usage": [
        {"days": 1, "from": "2026-11-21", "to": "2026-11-21"},
        {"from": "2026-11-21"},
        {"to": "2026-11-21"},
    ],
}


@pytest.mark.parametrize("type_", EXCLUDED)
def test_excluded_choice_is_refused_everywhere(type_: str) -> None:
    base: Body = json.loads(base_of(type_))
    bodies = [base | choice for choice in EXCLUDED[type_]]
    assert validities(type_, [base]) == ([True], [True])
    assert validities(type_, bodies) == ([False] * len(bodies), [False] * len(bodies))
    assert not any(is_taken(type_, body) for body in bodies)


def test_files_are_those_of_the_models() -> None:
    for path, text in contents():
        assert (FOLDER / path).read_text(encoding="utf-8") == text, f"{path} is old: run `make contract`"


def test_folder_holds_no_other_files() -> None:
    written = {path for path, _ in contents()}
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert {path for path in found if not path.startswith(("released/", "examples/"))} == written


@pytest.mark.parametrize(
    ("kind", "type_"), [(kind, type_) for kind in KINDS for type_ in kind.definitions], ids=str
)
def test_file_of_a_message_is_complete(kind: Any, type_: str) -> None:
    schema = message_schema(kind, type_)
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is (kind.name in ("Reply", "Answer", "Notice"))
    if kind.name != "Reply":
        assert schema["properties"]["type"]["const"] == type_
        assert "type" in schema["required"]
    used = set(json.dumps(schema).split('"#/$defs/')[1:])
    assert {one.split('"')[0] for one in used} == set(schema.get("$defs", {}))


def test_every_rule_of_a_validator_is_in_the_files() -> None:
    models = {part for model in SENT.values() for part in parts_of(model)}
    found = {name for model in models for name in validators_of(model)}
    assert found == EXPRESSED.keys() | DESCRIBED.keys(), "write them in worker/contract/rules.py"
    fields = [info for model in models for info in model.model_fields.values()]
    of_values = {name for info in fields for name in value_validators_of(info)}
    assert of_values <= OF_VALUES.keys(), "write them in worker/contract/rules.py"


def test_rule_that_is_a_sentence_ends_the_description() -> None:
    definitions = bundle()["$defs"]
    assert definitions["BonusCredit"]["description"].endswith("`expiresAt` must be after `effectiveAt`.")
    assert definitions["QueryBalance"]["properties"]["at"]["description"] == "In the years 1970 to 2199."
