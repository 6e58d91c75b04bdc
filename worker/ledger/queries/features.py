"""Features of usage, which are kept once: in the content of the operation that named them.

A content is canonical JSON with its names in order, and the feature, else the meter, is the first of usage.
"""

from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import JSON, Boolean, Text, and_, case, cast, func, literal, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from schemas import DeductUsage, RecordUsage, SettleUsage, type_of
from worker.core.plan import Counter
from worker.ledger.tables import entries, operations

_NAMING = (type_of(DeductUsage), type_of(RecordUsage), type_of(SettleUsage))
_FIRST_TEXT = 4  # of {"feature":"ocr", cut at each quote


class content_text(GenericFunction[Any]):  # noqa: N801 - named as a function of SQL
    """Text that a content has under a name; null without one."""

    type = Text()
    inherit_cache = True
    name = "content_text"


@compiles(content_text, "postgresql")
def _text_on_postgresql(element: content_text, compiler: SQLCompiler, **options: Any) -> str:
    """Cut the text out where its name is the first and nothing is escaped, else read the JSON.

    To cut takes a fifth of the time.
    """
    content, name = element.clauses
    first = func.split_part(content, '"', _FIRST_TEXT)
    quoted = literal('"', Text()) + name + '"'
    is_first = func.starts_with(content, literal("{", Text()) + quoted + ':"')
    plain = and_(is_first, func.strpos(first, "\\") == 0)
    is_absent = func.strpos(content, quoted) == 0
    read = cast(content, JSON()).op("->>")(name)
    return compiler.process(case((plain, first), (is_absent, None), else_=read), **options)


@compiles(content_text, "sqlite")
def _text_on_sqlite(element: content_text, compiler: SQLCompiler, **options: Any) -> str:
    content, name = element.clauses
    return compiler.process(func.json_extract(content, literal("$.", Text()) + name), **options)


class begins_with(GenericFunction[Any]):  # noqa: N801 - named as a function of SQL
    """Condition that a text begins with another. PostgreSQL knows from its statistics how many do."""

    type = Boolean()
    inherit_cache = True
    name = "begins_with"


@compiles(begins_with, "postgresql")
def _beginning_on_postgresql(element: begins_with, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(func.starts_with(*element.clauses), **options)


@compiles(begins_with, "sqlite")
def _beginning_on_sqlite(element: begins_with, compiler: SQLCompiler, **options: Any) -> str:
    whole, start = element.clauses
    return compiler.process(func.substr(whole, 1, func.length(start)) == start, **options)


def used_feature() -> ColumnElement[Any]:
    """Return the feature of usage, or its meter; empty where its operation names neither."""
    named = (content_text(operations.c.content, literal(name, Text())) for name in ("feature", "meter"))
    return case((_names_one(), func.coalesce(*named, "")), else_="")


def content_of_usage() -> ColumnElement[Any]:
    """Return the content that names the feature of an entry; null where it has none.

    An import took what was used elsewhere: its content, which may be large, isn't read.
    """
    return case((and_(_is_usage(), _names_one()), operations.c.content))


def feature_in(content: str | None) -> str | None:
    """Return the feature, or the meter, that the content of an entry's usage names."""
    if content is None:
        return None
    named: dict[str, str] = from_json(content)
    return named.get("feature") or named.get("meter")


def is_of_feature(feature: str) -> ColumnElement[bool]:
    """Return the condition that an entry is usage of ``feature``."""
    return and_(_is_usage(), names_feature_or_meter(feature))


def names_feature(feature: str) -> ColumnElement[bool]:
    """Return the condition that an operation names ``feature``."""
    return _begins("feature", feature)


def names_feature_or_meter(feature: str) -> ColumnElement[bool]:
    """Return the condition that an operation is usage of ``feature``, or of a meter of that name."""
    return and_(_names_one(), or_(names_feature(feature), _begins("meter", feature)))


def _begins(name: str, value: str) -> ColumnElement[bool]:
    start = to_json({name: value}).decode().removesuffix("}")
    return begins_with(operations.c.content, literal(start, Text()))


def _is_usage() -> ColumnElement[bool]:
    return entries.c.counter == Counter.USAGE.value


def _names_one() -> ColumnElement[bool]:
    return operations.c.type.in_(_NAMING)
