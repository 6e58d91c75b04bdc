"""Totals of the operations that a filter finds, and who spends most among them.

Up to ``COUNTED_MAX`` operations are counted; of more, one of 31 or of 961 is read by the indexes of these
samples, and the result is an estimate that says so.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    case,
    func,
    select,
    text,
    union_all,
)

from schemas import Status
from worker.errors import QueryError
from worker.ledger.queries.bounded import bounded_reading
from worker.ledger.queries.features import used_feature
from worker.ledger.queries.operation_filter import OperationFilter, conditions, in_time, tokens_moved
from worker.ledger.queries.operation_walk import (
    USAGE,
    Condition,
    indexes_without_entries,
    posted_operations,
    posted_range,
    user_known,
    way_to,
)
from worker.ledger.queries.senders import senders_by_key
from worker.ledger.queries.snapshots import AccountKey, within
from worker.ledger.queries.views import View
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import SAMPLES, entries, operations, sampled

#: Most operations that are counted one by one.
COUNTED_MAX = 1_000_000
#: Rows of a sample that suffice.
SAMPLED_MAX = 50_000
TOP_MAX = 1_000

SpentBy = Literal["user", "feature", "sender"]


@dataclass(frozen=True)
class OperationTotals(View):
    """Numbers of operations; ``codes`` counts them by code, most first.

    ``tokens_taken`` and ``tokens_given`` are what the applied ones moved. Where not ``is_counted`` all are
    estimates from a sample.
    """

    count: int
    applied: int
    rejected: int
    tokens_taken: int
    tokens_given: int
    codes: Mapping[str, int]
    is_counted: bool


@dataclass(frozen=True)
class Spender(View):
    """Tokens that usage of one name took, and the number of these operations; None is what has no name."""

    name: str | None
    tokens: int
    operations: int


@dataclass(frozen=True)
class Spenders(View):
    """Names by the tokens that usage took, most first.

    Where not ``is_counted`` the numbers are estimates from a sample.
    """

    by: SpentBy
    spenders: tuple[Spender, ...]
    is_counted: bool


def operation_totals(connection: Connection, wanted: OperationFilter) -> OperationTotals:
    """Return the totals of what is ``wanted``.

    Raises NotFoundError and QueryError as ``operation_page`` does, and QueryError for a user with too many
    entries in the time.
    """
    codes: Tally[str] = Tally()
    rejected = taken = given = 0
    with bounded_reading(connection):
        read = _reading(connection, wanted, operations.c.code, operations.c.status)
        for code, status, count, out, into in read.sums(connection):
            codes[code] += count
            rejected += count if status == Status.REJECTED.value else 0
            taken, given = taken + out, given + into
    return OperationTotals(
        count=codes.total() * read.rate,
        applied=(codes.total() - rejected) * read.rate,
        rejected=rejected * read.rate,
        tokens_taken=taken * read.rate,
        tokens_given=given * read.rate,
        codes={code: count * read.rate for code, count in codes.most_common()},
        is_counted=read.rate == 1,
    )


def top_spenders(connection: Connection, wanted: OperationFilter, by: SpentBy, limit: int = 20) -> Spenders:
    """Return up to ``limit`` (1 to 1000) users, features or senders whose usage took most tokens.

    Raises what ``operation_totals`` does.
    """
    within("limit", limit, 1, TOP_MAX)
    types = wanted.types & USAGE if wanted.types else USAGE
    if not types or wanted.status == Status.REJECTED.value:
        return Spenders(by, (), is_counted=True)
    spending = replace(wanted, types=types, status=Status.APPLIED.value)
    tokens: Tally[Any] = Tally()
    counts: Tally[Any] = Tally()
    with bounded_reading(connection):
        read = _reading(connection, spending, _KEYS[by])
        # A user is in one slot: the most of each part are enough. Features and senders are few.
        for key, count, taken, _ in read.sums(connection, most=limit if by == "user" else None):
            tokens[key] += taken
            counts[key] += count
        first = sorted((key for key in tokens if tokens[key]), key=lambda key: (-tokens[key], str(key)))
        names = _names(connection, by, first[:limit])
    rate = read.rate
    spenders = (Spender(name, tokens[key] * rate, counts[key] * rate) for key, name in names.items())
    return Spenders(by, tuple(spenders), is_counted=rate == 1)


_KEYS: Mapping[SpentBy, ColumnElement[Any]] = {
    "user": operations.c.user_id,
    "feature": used_feature(),
    "sender": operations.c.sender_id,
}


def _names(connection: Connection, by: SpentBy, keys: Sequence[Any]) -> Mapping[Any, str | None]:
    """Return the names of groups by their keys, in order."""
    if by != "sender":
        return {key: key or None for key in keys}
    known = senders_by_key(connection, [key for key in keys if key is not None])
    return {key: str(known[key]) if key in known else None for key in keys}


# -- how they are read ------------------------------------------------------------------------------------


class _Reading(NamedTuple):
    """Statements that select keys and moved tokens, which have all that is wanted, or one of ``rate``."""

    statements: Sequence[Select[Any] | CompoundSelect[Any]]
    rate: int

    def sums(self, connection: Connection, most: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield keys, number, and the tokens taken and given, or only those that took ``most``."""
        for statement in self.statements:
            each = statement.subquery()
            *keys, moved = each.c
            taken = func.sum(case((moved < 0, -moved), else_=0))
            given = func.sum(case((moved > 0, moved), else_=0))
            grouped = select(*keys, func.count(), taken, given).group_by(*keys)
            if most is not None:
                grouped = grouped.order_by(taken.desc(), *keys).limit(most)
            for *found, out, into in connection.execute(grouped):
                yield (*found, int(out), int(into))


def _reading(connection: Connection, wanted: OperationFilter, *keys: ColumnElement[Any]) -> _Reading:
    columns = [key.label(f"key_{place}") for place, key in enumerate(keys)]
    columns.append(case((operations.c.status == Status.APPLIED.value, tokens_moved())).label("moved"))
    if wanted.user_id is not None:
        return _of_user(connection, wanted, wanted.user_id, columns)
    way, rate = _way_and_rate(connection, wanted)
    own = (*way, *conditions(connection, wanted))
    return _Reading(
        [select(*columns).where(in_slots(operations.c.slot, slots), *own) for slots in parts_of(connection)],
        rate,
    )


def _of_user(
    connection: Connection, wanted: OperationFilter, user_id: str, columns: Sequence[ColumnElement[Any]]
) -> _Reading:
    own = conditions(connection, wanted)
    slot, account = user_known(connection, user_id)
    without = [
        select(*columns).where(operations.c.slot == slot, index, *own)
        for index in indexes_without_entries(wanted)
    ]
    if account is None:
        return _Reading(without, 1)
    key = AccountKey(slot, account.account_id)
    top, least = posted_range(connection, key, account.sequence, wanted)
    if top - least > COUNTED_MAX:
        raise QueryError(
            f"{user_id!r} has {top - least:,} entries in this time, and {COUNTED_MAX:,} can be counted: "
            "narrow it",
            "since",
        )
    posted = posted_operations(key, *columns).where(
        entries.c.sequence > least, entries.c.sequence <= top, *own
    )
    return _Reading([union_all(posted, *without)], 1)


def _way_and_rate(connection: Connection, wanted: OperationFilter) -> tuple[Sequence[Condition], int]:
    """Return the conditions of the smallest sample that is large enough, and its rate."""
    way = way_to(connection, wanted)
    if way.marks is None or (way.rate == 1 and _has_at_most(connection, wanted, way.conditions, COUNTED_MAX)):
        return way.conditions, 1
    few, many = min(SAMPLES), max(SAMPLES)
    in_many: Sequence[Condition] = (text(sampled(many)),)
    if way.rate > 1 and _has_at_most(connection, wanted, in_many, COUNTED_MAX // many):
        return way.conditions, 1
    if _has_at_most(connection, wanted, in_many, SAMPLED_MAX * few // many):
        return (*way.conditions, text(sampled(few))), few
    return (*way.conditions, *in_many), many


def _has_at_most(
    connection: Connection, wanted: OperationFilter, of_index: Sequence[Condition], most: int
) -> bool:
    """Return True where an index has at most so many operations of the time that is wanted."""
    found = 0
    for slots in parts_of(connection):
        some = select(operations.c.slot).where(in_slots(operations.c.slot, slots), *of_index)
        some = some.where(*in_time(wanted)).limit(most + 1 - found)
        found += connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()
        if found > most:
            return False
    return True
