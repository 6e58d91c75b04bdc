"""Filter of operations, and the conditions that it is in SQL. How they are read is in ``operations``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, func, literal, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import case
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from schemas import Status
from worker.errors import QueryError
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.queries.features import begins_with, names_feature_or_meter
from worker.ledger.queries.senders import SenderView
from worker.ledger.queries.snapshots import IN_FORCE, in_utc
from worker.ledger.tables import balance_before, operations, senders

#: Senders that an error names.
_NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class OperationFilter:
    """Operations that are wanted; what is empty or None filters nothing.

    ``sender`` is a broker user, an application, or both as they are shown: ``app (uploads)``. ``feature`` is
    that of usage, or its meter. ``metadata`` are pairs, compared as text: ``17`` and ``true`` as well.
    ``min_tokens`` and ``max_tokens`` bound the tokens moved, either way; what was refused moved none, and is
    left out. ``since`` and ``until`` (left out itself) bound the time of recording.

    Raises QueryError, which names the field, for a type, status or code that doesn't exist, for an empty
    text, for a time without an offset, and for bounds in the wrong order.
    """

    user_id: str | None = None
    types: frozenset[str] = frozenset()
    status: str | None = None
    codes: frozenset[str] = frozenset()
    sender: str | None = None
    feature: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    reference_prefix: str | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "sender", "feature", "reference_prefix"):
            if getattr(self, name) == "":  # a variable of a shell that isn't set: it would find everything
                raise QueryError(f"{name} must not be empty: leave it out, or give one", name)
        _require_known("types", "type", self.types, IDENTIFIERS["type"])
        _require_known("codes", "code", self.codes, IDENTIFIERS["code"])
        if self.status is not None:
            _require_known("status", "status", (self.status,), IDENTIFIERS["status"])
        for name in ("since", "until"):
            if (moment := getattr(self, name)) is not None:
                object.__setattr__(self, name, _utc(name, moment))
        for name in ("min_tokens", "max_tokens"):
            if (tokens := getattr(self, name)) is not None and tokens < 0:
                raise QueryError(f"{name} must not be negative: tokens moved count either way", name)
        _require_order("since", self.since, "after", "until", self.until)
        _require_order("min_tokens", self.min_tokens, "above", "max_tokens", self.max_tokens)


def _require_known(field: str, noun: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in sorted(given):
        if name not in known:
            raise QueryError(f"no such {noun}: {name[:60]!r}; there are {', '.join(known)}", field)


def _utc(name: str, moment: datetime) -> datetime:
    try:
        return in_utc(name, moment)
    except QueryError as error:
        raise QueryError(str(error), name) from error


def _require_order(least_name: str, least: Any, relation: str, most_name: str, most: Any) -> None:
    if least is not None and most is not None and least > most:
        raise QueryError(f"{least_name} is {relation} {most_name}: exchange them", least_name)


# -- conditions -------------------------------------------------------------------------------------------


def conditions(connection: Connection, wanted: OperationFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on ``operations`` that all must hold; those without their reference are left out.

    Raises QueryError for a sender that has sent nothing.
    """
    operation = operations.c
    found: list[ColumnElement[bool]] = [IN_FORCE]
    if wanted.user_id is not None:
        found.append(operation.user_id == wanted.user_id)
    if wanted.types:
        found.append(operation.type.in_(sorted(wanted.types)))
    if wanted.status is not None:
        found.append(operation.status == wanted.status)
    if wanted.codes:
        found.append(operation.code.in_(sorted(wanted.codes)))
    if wanted.sender is not None:
        found.append(operation.sender_id.in_(_sender_ids(connection, wanted.sender)))
    if wanted.feature is not None:
        found.append(names_feature_or_meter(wanted.feature))
    for name, value in wanted.metadata:
        found.append(metadata_text(operation.metadata, literal(name, Text())) == value)
    if wanted.reference_prefix is not None:
        found.append(begins_with(operation.reference_id, literal(wanted.reference_prefix, Text())))
    return found + _of_tokens(wanted) + in_time(wanted)


def _of_tokens(wanted: OperationFilter) -> list[ColumnElement[bool]]:
    if wanted.min_tokens is None and wanted.max_tokens is None:
        return []
    found = [operations.c.status == Status.APPLIED.value]
    if wanted.min_tokens is not None:
        found.append(func.abs(tokens_moved()) >= wanted.min_tokens)
    if wanted.max_tokens is not None:
        found.append(func.abs(tokens_moved()) <= wanted.max_tokens)
    return found


def in_time(wanted: OperationFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on the time of recording."""
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(operations.c.recorded_at >= wanted.since)
    if wanted.until is not None:
        found.append(operations.c.recorded_at < wanted.until)
    return found


def tokens_moved() -> ColumnElement[int]:
    """Return the tokens that an applied operation moved itself, to the account's credit where positive.

    What fell due with it was posted before, and isn't in it. A hold moves none until it is captured.
    """
    return operations.c.balance_after - balance_before()


_USER_AND_APPLICATION = re.compile(r"(.+) \((.+)\)")


def _sender_ids(connection: Connection, name: str) -> list[int]:
    """Return the keys of the senders that ``name`` means. Raises QueryError where there are none."""
    sender = senders.c
    means = or_(sender.broker_user == name, sender.application == name)
    if (both := _USER_AND_APPLICATION.fullmatch(name)) is not None:
        user = "" if both[1] == "anonymous" else both[1]
        means = or_(means, and_(sender.broker_user == user, sender.application == both[2]))
    found = list(connection.execute(select(sender.sender_id).where(means)).scalars())
    if not found:
        raise QueryError(f"nothing came from the sender {name[:60]!r}; {_some_senders(connection)}", "sender")
    return found


def _some_senders(connection: Connection) -> str:
    c = senders.c
    statement = select(c.broker_user, c.application).order_by(c.first_seen_at).limit(_NAMED_MAX)
    known = [str(SenderView(user or None, app or None)) for user, app in connection.execute(statement)]
    return f"there are {', '.join(known)}" if known else "no sender is known yet"


# -- metadata ---------------------------------------------------------------------------------------------


class metadata_text(GenericFunction[Any]):  # noqa: N801 - named as a function of SQL
    """Text of a value in metadata: of a number its digits, ``true`` or ``false``; null without a value."""

    type = Text()
    inherit_cache = True
    name = "metadata_text"


@compiles(metadata_text, "postgresql")
def _text_on_postgresql(element: metadata_text, compiler: SQLCompiler, **options: Any) -> str:
    column, name = element.clauses
    return compiler.process(column.op("->>", return_type=Text())(cast(name, Text())), **options)


@compiles(metadata_text, "sqlite")
def _text_on_sqlite(element: metadata_text, compiler: SQLCompiler, **options: Any) -> str:
    column, name = element.clauses
    plain = cast(column, Text())
    kept = plain.op("->", return_type=Text())(name)
    text = cast(plain.op("->>", return_type=Text())(name), Text())
    is_truth = kept.in_(("true", "false"))
    return compiler.process(case((is_truth, kept), else_=text), **options)
