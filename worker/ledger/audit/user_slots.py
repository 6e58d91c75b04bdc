"""Slot of a user as SQL, which finds a row in the slot of another user."""

from typing import Any

from sqlalchemy import ColumnElement, SmallInteger, case, cast, func, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


class slot_of_user(GenericFunction[int]):  # noqa: N801 - named as the function that it calls
    """Slot that ``schemas.slot_of`` gives a user id."""

    type = SmallInteger()
    inherit_cache = True
    name = "slot_of"  # on SQLite a function of every connection


@compiles(slot_of_user, "postgresql")
def _of_postgresql(element: slot_of_user, compiler: SQLCompiler, **options: Any) -> str:
    """Spell the rule out, as the tables' CHECKs do."""
    (user_id,) = element.clauses
    return compiler.process(_first_six_bits(user_id), **options)


def _first_six_bits(user_id: ColumnElement[str]) -> ColumnElement[int]:
    # An id of ASCII alone is in its normal form.
    normal = case(
        (func.octet_length(user_id) == func.char_length(user_id), user_id),
        else_=func.normalize(user_id, literal_column("NFC")),
    )
    digest = func.sha256(func.convert_to(normal, literal_column("'UTF8'")))
    return cast(func.get_byte(digest, literal_column("0")).op(">>")(literal_column("2")), SmallInteger())
