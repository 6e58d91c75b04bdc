"""Dead letters: unknown times are NULL, and groups follow the kind of a failure, never our code or data.

A fingerprint is of the reason code, the type, and the field with the broken rule, or the class of the
exception. All dead letters get theirs anew, and the groups are counted from them.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_CHUNK = 500
_TIMES = ("first_failed_at", "last_failed_at")
_WAITING = "status IN ('parked', 'replaying')"


def upgrade() -> None:
    """Make the times nullable, set the fingerprints, and count the groups."""
    op.execute("DELETE FROM dead_letter_groups")
    op.drop_index("ix_dead_letters_last_failed_at_number")
    op.drop_index("ix_dead_letter_groups_last_failed_at_fingerprint")
    for table in ("dead_letters", "dead_letter_groups"):
        for column in _TIMES:
            if _on_postgresql():
                _allow_null_on_postgresql(table, column)
            else:
                _allow_null_on_sqlite(table, column)
    op.create_index(
        op.f("ix_dead_letters_last_failed_at_number"), "dead_letters", ["last_failed_at", "number"]
    )
    # Read backwards it ends with unknown times, which SQLite sorts so by itself.
    latest = sa.text("last_failed_at NULLS FIRST") if _on_postgresql() else "last_failed_at"
    op.create_index(
        op.f("ix_dead_letter_groups_last_failed_at_fingerprint"),
        "dead_letter_groups",
        [latest, "fingerprint"],
    )
    _set_fingerprints()
    _count_groups()


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


# -- times ------------------------------------------------------------------------------------------------


def _allow_null_on_postgresql(table: str, column: str) -> None:
    op.alter_column(table, column, nullable=True)
    op.execute(f"UPDATE {table} SET {column} = NULL WHERE {column} = '1970-01-01 00:00:00+00'")  # noqa: S608 - names above


def _allow_null_on_sqlite(table: str, column: str) -> None:
    """Move the times to another column: SQLite changes none."""
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column}_ DATETIME")
    op.execute(f"UPDATE {table} SET {column}_ = nullif({column}, '1970-01-01 00:00:00.000000')")  # noqa: S608 - names above
    op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.execute(f"ALTER TABLE {table} RENAME COLUMN {column}_ TO {column}")


# -- fingerprints -----------------------------------------------------------------------------------------

_NAMES = ("number", "reason", "type", "field", "message", "traceback")
_DEAD_LETTERS = sa.table(
    "dead_letters",
    sa.column("number", sa.BigInteger()),
    *(sa.column(name, sa.Text()) for name in (*_NAMES[1:], "fingerprint")),
)


def _set_fingerprints() -> None:
    for page in _pages():
        rows = [
            {
                "dead_letter": row.number,
                "kind": _fingerprint(row.reason, row.type, row.field, row.message, row.traceback),
            }
            for row in page
        ]
        if _on_postgresql():  # in one statement: there may be a million
            op.get_bind().execute(
                sa.text(
                    "UPDATE dead_letters SET fingerprint = fresh.fingerprint"
                    " FROM unnest(CAST(:numbers AS bigint[]), CAST(:kinds AS text[]))"
                    " AS fresh (number, fingerprint) WHERE dead_letters.number = fresh.number"
                ),
                {"numbers": [row["dead_letter"] for row in rows], "kinds": [row["kind"] for row in rows]},
            )
        else:
            op.get_bind().execute(
                sa.text("UPDATE dead_letters SET fingerprint = :kind WHERE number = :dead_letter"), rows
            )


def _pages() -> Iterator[list[Any]]:
    columns, number, last = [_DEAD_LETTERS.c[name] for name in _NAMES], _DEAD_LETTERS.c.number, 0
    while True:
        statement = sa.select(*columns).where(number > last).order_by(number).limit(_CHUNK)
        page = list(op.get_bind().execute(statement))
        if not page:
            return
        yield page
        last = page[-1].number


# As worker.deadletters.fingerprints has it: later dead letters join these groups.

_INVALID_FIELD, _DUPLICATE_FIELD = "invalid_field", "duplicate_field"
_FIELD_MAX = 200
_DIGITS = re.compile(r"\d+")

#: Rules that a value may break, by the words of the texts that refuse it; the first that matches counts.
_RULES = tuple(
    (rule, re.compile(words))
    for rule, words in (
        ("too many", r"at most \d+ keys|holds too many|holds more than"),
        ("too long", r"at most \d+ characters"),
        ("empty", r"must not be empty"),
        ("too large", r"too large|at most \d+ is taken|less than"),
        ("too small", r"or more|greater than|must not be 0"),
        ("whole number", r"whole number"),
        ("too old", r"days ago"),
        ("in the future", r"in the future"),
        ("order", r"must be after"),
        ("time", r"RFC 3339|outside the years|must be in|out of range|isoformat"),
        ("characters", r"characters that are not taken|surrogate|capital letters"),
        ("itself", r"names this command itself"),
        ("package", r"name the package"),
        ("expiry", r"is for tokens that are given"),
        ("no type", r"has no type"),
        ("choice", r"one of|should be '"),
        ("type", r"must be|should be a"),
    )
)
#: Text that replies add behind that of the first item that was refused.
_OTHER_ITEMS = re.compile(r" It is one of \d+ such items\.| \d+ more are in conflict with")

_CLASS = re.compile(r"(?:[\w<>]+\.)*([^\W\d]\w*)(?::|$)")
#: Names below these are a producer's own: those in metadata, and those that an object gives twice.
_IN_METADATA = re.compile(r"((?:items\.\d+\.)?metadata\.).*", re.DOTALL)
_GIVEN_TWICE = re.compile(r"((?:items\.\d+\.)?(?:metadata\.)?).*", re.DOTALL)


def _fingerprint(code: str, type_: str | None, field: str | None, message: str, traceback: str | None) -> str:
    """Return 32 hexadecimal digits, the same for failures of the same kind."""
    kind = (
        [_fault_class(message)] if traceback else [_field_path(code, field), _rule_in(code, field, message)]
    )
    digest = hashlib.sha256("\0".join([code, type_ or "", *kind]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _field_path(code: str, field: str | None) -> str:
    """Return the field without indexes of items, numbers in names, and names of a producer's own."""
    path = field or ""
    if code == _DUPLICATE_FIELD:
        path = _GIVEN_TWICE.sub(r"\1*", path, count=1)
    elif code == _INVALID_FIELD:
        path = _IN_METADATA.sub(r"\1*", path, count=1)
    return _DIGITS.sub("#", path[:_FIELD_MAX])


def _rule_in(code: str, field: str | None, message: str) -> str:
    """Return the rule that an invalid value breaks; empty for another code, or a text of no known rule."""
    if code != _INVALID_FIELD:
        return ""
    text = _OTHER_ITEMS.split(message.removeprefix(f"{field}: "), maxsplit=1)[0]
    return next((rule for rule, words in _RULES if words.search(text)), "")


def _fault_class(message: str) -> str:
    """Return the class of a fault: its message begins with it. Empty where it does not."""
    found = _CLASS.match(message)
    return found[1] if found else ""


# -- groups -----------------------------------------------------------------------------------------------


def _count_groups() -> None:
    """Count the groups; each shows its newest dead letter that waits, or the newest of all."""
    op.execute(
        "INSERT INTO dead_letter_groups (fingerprint,"  # noqa: S608 - constants
        " reason, type, field, message, sample, parked, replaying, resolved, discarded, waiting,"
        " tokens_at_stake, tokens_unknown, first_failed_at, last_failed_at)"
        " SELECT g.fingerprint, l.reason, l.type, l.field, l.message, l.number, g.parked, g.replaying,"
        " g.resolved, g.discarded, g.parked + g.replaying, g.tokens, g.unknown, g.first_failed_at,"
        " g.last_failed_at"
        " FROM (SELECT fingerprint,"
        f" coalesce(max(CASE WHEN {_WAITING} THEN number END), max(number)) AS sample,"
        " sum(CASE WHEN status = 'parked' THEN 1 ELSE 0 END) AS parked,"
        " sum(CASE WHEN status = 'replaying' THEN 1 ELSE 0 END) AS replaying,"
        " sum(CASE WHEN status = 'resolved' THEN 1 ELSE 0 END) AS resolved,"
        " sum(CASE WHEN status = 'discarded' THEN 1 ELSE 0 END) AS discarded,"
        f" coalesce({_sum_of_tokens()}, 0) AS tokens,"
        f" sum(CASE WHEN {_WAITING} AND tokens_at_stake IS NULL THEN 1 ELSE 0 END) AS unknown,"
        " min(first_failed_at) AS first_failed_at, max(last_failed_at) AS last_failed_at"
        " FROM dead_letters GROUP BY fingerprint) AS g JOIN dead_letters AS l ON l.number = g.sample"
    )


def _sum_of_tokens() -> str:
    """Return SQL for the tokens that wait; SQLite's numbers end at 2^63 − 1, and so does the sum there.

    There it is made of two halves of 32 bits, because SQLite refuses a sum beyond its numbers.
    """
    tokens = f"CASE WHEN {_WAITING} THEN tokens_at_stake END"
    if _on_postgresql():
        return f"sum({tokens})"
    low = f"sum(({tokens}) & 4294967295)"
    high = f"(sum(({tokens}) >> 32) + ({low} >> 32))"
    return (
        f"CASE WHEN {high} > 2147483647 THEN 9223372036854775807"
        f" ELSE ({high} << 32) + ({low} & 4294967295) END"
    )
