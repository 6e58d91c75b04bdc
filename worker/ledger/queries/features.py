"""Features of usage, which are kept once: in the content of the operation that named them."""

from typing import Any

from sqlalchemy import JSON, Text, and_, case, cast, func, literal
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
def _of_postgresql(element: content_text, compiler: SQLCompiler, **options: Any) -> str:
    """Cut the text out where its name is the first and nothing is escaped, else read the JSON.

    Contents have their names in order, and those that are asked for come first: to cut takes a fifth of the
    time.
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
def _of_sqlite(element: content_text, compiler: SQLCompiler, **options: Any) -> str:
    content, name = element.clauses
    return compiler.process(func.json_extract(content, literal("$.", Text()) + name), **options)


def named_feature() -> ColumnElement[Any]:
    """Return the feature that an operation names; null where it names none."""
    return content_text(operations.c.content, literal("feature", Text()))


def used_feature() -> ColumnElement[Any]:
    """Return the feature of usage, or its meter; empty where its operation names neither.

    An import took what was used elsewhere: its content, which may be large, isn't read.
    """
    meter = content_text(operations.c.content, literal("meter", Text()))
    names_one = operations.c.type.in_(_NAMING)
    return case((names_one, func.coalesce(named_feature(), meter, "")), else_="")


def feature_of_entry() -> ColumnElement[Any]:
    """Return the feature of an entry, which is joined with its operation; empty where it has none."""
    return case((entries.c.counter == Counter.USAGE.value, used_feature()), else_="")


def is_of_feature(feature: str) -> ColumnElement[bool]:
    """Return the condition that an entry is usage of ``feature``."""
    return and_(entries.c.counter == Counter.USAGE.value, used_feature() == feature)
