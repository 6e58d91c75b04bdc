"""JSON Schema of the models, as producers and readers in any language need it.

What is sent to the worker is closed: an unknown field is refused, and ``null`` is as good as absent where a
field is optional. What the worker sends is open: a reader of today meets the fields and codes of tomorrow.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from schemas import MESSAGE_TYPES, QUERY_TYPES, Notice, QueryAnswer, Reply, Status, fields, queries
from worker.contract.patterns import portable
from worker.contract.rules import DESCRIBED, EXPRESSED, OF_VALUES

Schema = dict[str, Any]
Model = type[BaseModel]

#: Times and days as the worker reads them; ``format`` alone is a remark to most validators.
TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
DAY: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_PATTERNS: Final = {"date-time": TIME, "date": DAY}

#: Values with a schema of their own, by its name.
VALUES: Final[dict[str, Any]] = {
    "Identifier": fields.Identifier,
    "StoredIdentifier": fields.StoredIdentifier,
    "Label": fields.Label,
    "Text": fields.FreeText,
    "Currency": fields.Currency,
    "GroupBy": queries.GroupBy,
    "Metadata": fields.Metadata,
    "Time": fields.Timestamp,
}

#: Enums that are complete for a major version; every other one may be joined by new codes.
CLOSED_ENUMS: Final = frozenset({Status.__name__})
#: Beginning of a reference to a definition of the same document.
DEFINITIONS: Final = "#/$defs/"


def ref(name: str) -> Schema:
    """Return a reference to the definition ``name`` of the same document."""
    return {"$ref": DEFINITIONS + name}


def sent_to_worker(models: Iterable[Model]) -> dict[str, Schema]:
    """Return the definitions of commands or queries, of their parts, and of the values that they share."""
    models = list(models)
    found = {name: _input(schema) for name, schema in _definitions(models, "validation").items()}
    for part in {part for model in models for part in parts_of(model)}:
        found[part.__name__] = _with_rules(found[part.__name__], part)
    return {**values(), **found}


def sent_by_worker(models: Iterable[Model]) -> dict[str, Schema]:
    """Return the definitions of replies, answers or notices, and of all that they refer to."""
    raw = _definitions(models, "serialization")
    enums = {name for name, schema in raw.items() if "enum" in schema}
    opened = {DEFINITIONS + name for name in enums - CLOSED_ENUMS}
    found = {name: _walked(schema, lambda one: _output(one, opened)) for name, schema in raw.items()}
    if (reply := found.get(Reply.__name__)) is not None:
        reply["required"].remove("schemaVersion")  # the reply to a batch says it once for its items
    return found


def enum_of(codes: type[StrEnum]) -> Schema:
    """Return the definition of an enum that no model refers to."""
    return _walked(TypeAdapter(codes).json_schema(), _tidy)


@cache
def values() -> dict[str, Schema]:
    """Return the definitions of the values that messages share."""
    found: dict[str, Schema] = {}
    for name, value in VALUES.items():
        found[name] = _input(TypeAdapter(value).json_schema(), found)
    return found


def _definitions(models: Iterable[Model], mode: Literal["validation", "serialization"]) -> dict[str, Schema]:
    _, schema = models_json_schema([(model, mode) for model in models])
    definitions: dict[str, Schema] = schema["$defs"]
    return definitions


# -- to the worker ----------------------------------------------------------------------------------------


def _input(schema: Schema, known: Mapping[str, Schema] | None = None) -> Schema:
    shared = values() if known is None else known
    return _walked(_walked(schema, _taken), lambda one: _named(one, shared))


def _taken(schema: Schema) -> Schema:
    schema = _tidy(schema)
    if schema.get("default", ...) is None or "const" in schema:
        schema.pop("default", None)
    if "pattern" in schema:
        schema |= portable(schema["pattern"])
    if (pattern := _PATTERNS.get(schema.get("format", ""))) is not None:
        schema |= portable(pattern)
    if (by_key := schema.pop("patternProperties", None)) is not None:
        ((pattern, value),) = by_key.items()
        keys = {"type": "string", **schema.get("propertyNames", {}), "pattern": pattern}
        schema |= {"propertyNames": _taken(keys), "additionalProperties": value}
    return schema


def _named(schema: Schema, known: Mapping[str, Schema]) -> Schema:
    """Return a reference where the schema is one of ``known``."""
    return next((ref(name) for name, value in known.items() if value == schema), schema)


def _with_rules(schema: Schema, model: Model) -> Schema:
    """Return the schema of a message or a part of one, with the rules of its validators.

    A sender must give the ``type``, also where the model has it by default.
    """
    rules = [EXPRESSED[name] for name in validators_of(model) if name in EXPRESSED]
    sentences = [DESCRIBED[name] for name in validators_of(model) if name in DESCRIBED]
    properties = {name: _with_sentences(one, model, name) for name, one in schema["properties"].items()}
    required = {"type"} & properties.keys() | set(schema.get("required", ()))
    return {
        **schema,
        "description": " ".join([schema.get("description", ""), *sentences]),
        **_fields({"properties": properties}, required),
        **(rules[0] if len(rules) == 1 else {"allOf": rules} if rules else {}),
    }


def _with_sentences(schema: Schema, model: Model, wire_name: str) -> Schema:
    info = next(one for name, one in model.model_fields.items() if (one.alias or name) == wire_name)
    sentences = [text for name in value_validators_of(info) if (text := OF_VALUES.get(name)) is not None]
    return {"description": " ".join(sentences), **schema} if sentences else schema


def validators_of(model: Model) -> Iterator[str]:
    """Yield the names of a model's validators of several fields, each with the class that has it."""
    for name in model.__pydantic_decorators__.model_validators:
        yield next(f"{owner.__name__}.{name}" for owner in model.__mro__ if name in vars(owner))


def value_validators_of(info: FieldInfo) -> Iterator[str]:
    """Yield the names of the functions that validate a field's value."""
    for one in (*info.metadata, *_arguments(info.annotation)):
        if isinstance(one, AfterValidator | BeforeValidator):
            yield one.func.__name__


def parts_of(model: Model) -> set[Model]:
    """Return a model and the models of its fields, however deep."""
    found: set[Model] = set()
    waiting = {model}
    while waiting:
        found.add(part := waiting.pop())
        within = [one for info in part.model_fields.values() for one in _arguments(info.annotation)]
        models = {one for one in within if isinstance(one, type) and issubclass(one, BaseModel)}
        waiting |= models - found
    return found


def _arguments(annotation: Any) -> Iterator[Any]:
    """Yield everything that an annotation is made of, its metadata included."""
    yield annotation
    for one in get_args(annotation):
        yield from _arguments(one)


# -- by the worker ----------------------------------------------------------------------------------------


def _output(schema: Schema, opened: Collection[str | None]) -> Schema:
    schema = _tidy(schema)
    if "properties" not in schema:
        return schema
    # What is None is not sent; what has another default is.
    required = {name for name, one in schema["properties"].items() if one.get("default", ...) is not None}
    properties = {name: _sent(one, opened) for name, one in schema["properties"].items()}
    return {**schema, **_fields({"properties": properties}, required), "additionalProperties": True}


def _sent(schema: Schema, opened: Collection[str | None]) -> Schema:
    schema = without_null({name: value for name, value in schema.items() if name != "default"})
    named = _choice_in(schema)
    if named in opened:
        return {"anyOf": [{"$ref": named}, {"type": "string"}]}
    return schema if named is None else {"$ref": named}


def _choice_in(schema: Schema) -> str | None:
    """Return the enumeration of a value, whether its reader takes any other text as well or not."""
    match schema:
        case {"$ref": str(name)}:
            return name
        case {"anyOf": [{"$ref": str(name)}, {"type": "string"}]}:
            return name
    return None


def without_null(schema: Schema) -> Schema:
    """Return the schema of a value that is there."""
    if {"type": "null"} not in schema.get("anyOf", ()):
        return schema
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    choices = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return others | (choices[0] if len(choices) == 1 else {"anyOf": choices})


# -- both -------------------------------------------------------------------------------------------------


def _fields(schema: Schema, required: Iterable[str]) -> Schema:
    """Return the properties, ``type`` first, and those that are required, in the same order."""
    properties = schema["properties"]
    order = sorted(properties, key=lambda name: name != "type")
    required = set(required)
    return {
        "properties": {name: properties[name] for name in order},
        "required": [name for name in order if name in required],
    }


def _tidy(schema: Schema) -> Schema:
    """Return the schema without what pydantic adds for Python's readers."""
    kept = {name: value for name, value in schema.items() if name not in ("title", "discriminator")}
    if "description" in kept:
        kept["description"] = _described(kept["description"])
    return kept


def _described(text: str) -> str:
    """Return a docstring as text for readers of the wire: fields in camelCase, paragraphs on one line."""
    text = re.sub(r"``(.+?)``", lambda code: f"`{_WORD.sub(_on_the_wire, code[1])}`", text)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


_WORD: Final = re.compile(r"\b[a-z]+(?:_[a-z0-9]+)+\b")


def _on_the_wire(word: re.Match[str]) -> str:
    return to_camel(word[0]) if word[0] in _field_names() else word[0]


@cache
def _field_names() -> frozenset[str]:
    messages = (*MESSAGE_TYPES.values(), *QUERY_TYPES.values(), *get_args(QueryAnswer), Reply, Notice)
    return frozenset(name for message in messages for part in parts_of(message) for name in part.model_fields)


def _walked(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Return ``schema`` with every schema in it, from the inside out, replaced by its ``change``."""
    found: Schema = {}
    for name, value in schema.items():
        match name, value:
            case (("properties" | "patternProperties" | "$defs"), dict()):
                found[name] = {key: _walked(one, change) for key, one in value.items()}
            case (("anyOf" | "oneOf" | "allOf"), list()):
                found[name] = [_walked(one, change) for one in value]
            case (("items" | "additionalProperties" | "propertyNames"), dict()):
                found[name] = _walked(value, change)
            case _:
                found[name] = value
    changed = change(found)
    return {name: changed[name] for name in sorted(changed, key=_place)}


#: Order of the keywords in the files, as one reads them; others stand between these two groups.
_FIRST: Final = ("$ref", "description", "type", "const", "enum", "format", "pattern", "not")
_LAST: Final = ("properties", "required", "additionalProperties")


def _place(keyword: str) -> int:
    if keyword in _FIRST:
        return _FIRST.index(keyword)
    return len(_FIRST) + 1 + _LAST.index(keyword) if keyword in _LAST else len(_FIRST)
