"""The read side: balances, what can be afforded, history, usage and totals. Nothing here changes the ledger.

Every answer is a frozen ``View`` read from one consistent snapshot. ``now`` and the time zone come in as
arguments. Tokens and bytes are whole numbers, money is in minor units, times are aware and in UTC. An unknown
user is a NotFoundError, never a zero; a question that makes no sense is a QueryError.
"""

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_right
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise
from math import gcd
from typing import Any
from zoneinfo import ZoneInfo

from pydantic.alias_generators import to_camel
from sqlalchemy import BigInteger, Connection, Engine, Row, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from schemas import DeductUsage
from schemas.fields import INT64_MAX
from worker.catalog import Catalog
from worker.core import AccountState, Conflict, Known, decide
from worker.core.known import FREE_UPLOAD_METER, period_start
from worker.core.plan import Counter
from worker.errors import BillingError, NotFoundError
from worker.ledger.engine import translated_errors
from worker.ledger.tables import accounts, entries, operations, payments, quotas

HISTORY_LIMIT_MAX = 1_000
USAGE_DAYS_MAX = 366
UNLABELLED = "unlabelled"


class QueryError(BillingError):
    """The question can't be answered as it was asked; the text says what it may be."""


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that reads one state of the ledger, however many statements it takes, and can't write.

    REPEATABLE READ READ ONLY on PostgreSQL. On SQLite any transaction is a snapshot; ``read_only`` asks the
    engine to begin it without the write lock. Raises LedgerUnavailableError and ContentionError.
    """
    options: dict[str, Any] = {"read_only": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with translated_errors(), engine.connect() as connection:
        yield connection.execution_options(**options)


# -- views ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What the read side answers. ``to_dict`` is its form for JSON, the same for every view."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, in their order, named in camelCase; times are RFC 3339 and days ISO 8601."""
        return {to_camel(field.name): _json_value(getattr(self, field.name)) for field in fields(self)}


def _json_value(value: Any) -> Any:
    match value:
        case View():
            return value.to_dict()
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Mapping():  # its keys are data (a feature, a currency), so they stay as they are
            return {key: _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
    return value


@dataclass(frozen=True)
class FreeUploadQuota(View):
    """Bytes uploaded free in the calendar month (UTC) from ``period_start`` until before ``period_end``.

    ``limit_bytes`` is None where the catalog no longer has the account's tier: uploads are refused then.
    """

    limit_bytes: int | None
    used_bytes: int
    remaining_bytes: int
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True)
class Balance(View):
    """An account as it stands, in tokens. ``available`` is what a deduction may take now.

    ``balance = allocated + purchased + bonus + refunded − used``; ``sequence`` is that of the last entry.
    """

    user_id: str
    tier: str
    balance: int
    available: int
    allocated: int
    purchased: int
    bonus: int
    refunded: int
    used: int
    sequence: int
    opened_at: datetime
    updated_at: datetime
    free_upload: FreeUploadQuota


@dataclass(frozen=True)
class Affordability(View):
    """Whether a deduction of ``required`` tokens would be applied now, and what is missing where not."""

    user_id: str
    can_afford: bool
    required: int
    available: int
    shortfall: int


@dataclass(frozen=True)
class Transaction(View):
    """One entry: ``amount`` tokens, to the account's credit where positive.

    Entries of one operation share ``transaction_id`` and ``reference_id``: a purchase with a bonus is two.
    """

    transaction_id: str
    reference_id: str
    type: str
    counter: str
    amount: int
    balance_before: int
    balance_after: int
    sequence: int
    feature: str | None
    description: str | None
    occurred_at: datetime
    recorded_at: datetime
    metadata: Mapping[str, int | str | bool | None] | None


@dataclass(frozen=True)
class History(View):
    """One page, newest first. ``offset`` is how many newer entries there are, ``total`` all of the account.

    ``next_cursor`` continues behind the last entry of this page, whatever is written meanwhile; None at the
    end.
    """

    user_id: str
    transactions: tuple[Transaction, ...]
    total: int
    limit: int
    offset: int
    has_more: bool
    next_cursor: str | None


@dataclass(frozen=True)
class UsageDay(View):
    """Tokens used on one local calendar day, in how many entries, and by which feature (most first)."""

    day: date
    used: int
    entries: int
    by_feature: Mapping[str, int]


@dataclass(frozen=True)
class Projection(View):
    """How long the balance lasts if usage goes on as it was: whole days, rounded down; None without usage.

    ``days_observed`` are the days of the range on which the account was open, at least one.
    """

    days_to_empty: int | None
    days_observed: int
    method: str = "balance / (totalUsed / daysObserved), rounded down"


@dataclass(frozen=True)
class Usage(View):
    """Tokens used from ``first_day`` to ``last_day`` (today), both included, in ``timezone``.

    By the time of the event, not of its booking. Refunds give tokens back and don't lower the usage. The days
    add up to ``total_used``, and so do the features. ``average_per_day`` is over all days, rounded down.
    """

    user_id: str
    timezone: str
    days: int
    first_day: date
    last_day: date
    total_used: int
    average_per_day: int
    entries: int
    by_day: tuple[UsageDay, ...]
    by_feature: Mapping[str, int]
    balance: int
    projection: Projection


@dataclass(frozen=True)
class OperationCount(View):
    """How many references have this outcome."""

    type: str
    status: str
    code: str
    count: int


@dataclass(frozen=True)
class Revenue(View):
    """Payments taken in one currency, in its minor units."""

    currency: str
    payments: int
    amount_minor: int


@dataclass(frozen=True)
class Stats(View):
    """The whole ledger in tokens. ``average_balance`` is rounded down, 0 without users."""

    users: int
    total_balance: int
    total_allocated: int
    total_purchased: int
    total_bonus: int
    total_refunded: int
    total_used: int
    average_balance: int
    payments: int
    accounts_by_tier: Mapping[str, int]
    operations: tuple[OperationCount, ...]
    revenue: tuple[Revenue, ...]


# -- questions --------------------------------------------------------------------------------------------


class Reader:
    """Answers from one database. Cheap to make; connects when asked.

    Every method raises LedgerUnavailableError where the database doesn't answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def balance(self, user_id: str, now: datetime, catalog: Catalog) -> Balance:
        """The account of ``user_id`` at ``now``. Raises NotFoundError."""
        period = period_start(now.astimezone(UTC))
        with snapshot(self._engine) as connection:
            row = _account(connection, user_id)
            used_bytes = _free_upload_used(connection, row.account_id, period)
        tier = catalog.tiers.get(row.tier)
        return Balance(
            user_id=row.user_id,
            tier=row.tier,
            balance=row.balance,
            available=row.balance,
            allocated=row.allocated,
            purchased=row.purchased,
            bonus=row.bonus,
            refunded=row.refunded,
            used=row.used,
            sequence=row.sequence,
            opened_at=row.opened_at,
            updated_at=row.updated_at,
            free_upload=_free_upload(None if tier is None else tier.free_upload_bytes, used_bytes, period),
        )

    def can_afford(self, user_id: str, tokens: int, now: datetime, catalog: Catalog) -> Affordability:
        """What a ``usage.deduct`` of ``tokens`` would come to at ``now``: asked of ``decide`` itself.

        Raises NotFoundError, and QueryError unless ``tokens`` is from 1 to 2^63−1.
        """
        _within("tokens", tokens, 1, INT64_MAX)
        with snapshot(self._engine) as connection:
            row = _account(connection, user_id)
        known = Known(accounts={user_id: AccountState(row.account_id, row.user_id, row.tier, row.balance)})
        question = DeductUsage(reference_id="can-afford", user_id=user_id, tokens=tokens)
        (answer,) = decide([question], known, now, catalog).answers
        assert not isinstance(answer, Conflict)  # noqa: S101 - nothing known can stand against it
        outcome = answer.outcome
        return Affordability(
            user_id=user_id,
            can_afford=outcome.is_applied,
            required=tokens,
            available=int(outcome.detail.get("available", row.balance)),
            shortfall=int(outcome.detail.get("shortfall", 0)),
        )

    def history(self, user_id: str, limit: int = 50, offset: int = 0, cursor: str | None = None) -> History:
        """A page of the entries of ``user_id``, newest first, from ``offset`` or behind ``cursor``.

        The sequence has no gaps, so that both are a range of the primary key and no page costs more than
        another. Raises NotFoundError, and QueryError for a limit outside 1 to 1000, a negative offset, a
        cursor that isn't one of this account, or both of them.
        """
        _within("limit", limit, 1, HISTORY_LIMIT_MAX)
        _within("offset", offset, 0, INT64_MAX)
        if cursor is not None and offset != 0:
            raise QueryError("give an offset or a cursor, not both")
        with snapshot(self._engine) as connection:
            account = _account(connection, user_id)
            top = account.sequence - offset
            if cursor is not None:
                top = min(_sequence_in(cursor, account.account_id) - 1, account.sequence)
            transactions = _transactions(connection, account.account_id, top, limit)
        has_more = bool(transactions) and transactions[-1].sequence > 1
        return History(
            user_id=user_id,
            transactions=transactions,
            total=account.sequence,
            limit=limit,
            offset=account.sequence - top,
            has_more=has_more,
            next_cursor=_cursor(account.account_id, transactions[-1].sequence) if has_more else None,
        )

    def usage(self, user_id: str, now: datetime, days: int = 30, timezone: str = "UTC") -> Usage:
        """The usage of the last ``days`` local calendar days in ``timezone``, today included.

        Raises NotFoundError, and QueryError for days outside 1 to 366 or a time zone that isn't known.
        """
        _within("days", days, 1, USAGE_DAYS_MAX)
        zone = _zone(timezone)
        calendar = _Calendar(now.astimezone(zone).date(), days, zone)
        with snapshot(self._engine) as connection:
            account = _account(connection, user_id)
            by_day = _used_by_day(connection, account.account_id, calendar)
        by_feature = sum((Tally(day.by_feature) for day in by_day), Tally[str]())
        total = by_feature.total()
        opened = account.opened_at.astimezone(zone).date()
        return Usage(
            user_id=user_id,
            timezone=timezone,
            days=days,
            first_day=calendar.days[0],
            last_day=calendar.days[-1],
            total_used=total,
            average_per_day=total // days,
            entries=sum(day.entries for day in by_day),
            by_day=by_day,
            by_feature=_most_first(by_feature),
            balance=account.balance,
            projection=_projection(account.balance, total, sum(day >= opened for day in calendar.days)),
        )

    def stats(self) -> Stats:
        """Totals over all accounts, operations and payments; reads each of these tables once.

        On SQLite a total past 2^63−1 is a LedgerUnavailableError: it has no larger integers.
        """
        with snapshot(self._engine) as connection:
            totals = connection.execute(_totals()).one()
            tiers = connection.execute(_accounts_by_tier()).all()
            outcomes = connection.execute(_operations_by_outcome()).all()
            revenue = connection.execute(_revenue_by_currency()).all()
        return Stats(
            users=totals.users,
            total_balance=int(totals.balance),
            total_allocated=int(totals.allocated),
            total_purchased=int(totals.purchased),
            total_bonus=int(totals.bonus),
            total_refunded=int(totals.refunded),
            total_used=int(totals.used),
            average_balance=int(totals.balance) // max(totals.users, 1),
            payments=sum(row.payments for row in revenue),
            accounts_by_tier={row.tier: row.accounts for row in sorted(tiers)},
            operations=tuple(OperationCount(*row) for row in sorted(outcomes)),
            revenue=tuple(
                Revenue(row.currency, row.payments, int(row.amount_minor)) for row in sorted(revenue)
            ),
        )


# -- accounts ---------------------------------------------------------------------------------------------


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise QueryError(f"{name} must be from {least} to {most}, not {value}")


def _account(connection: Connection, user_id: str) -> Row[Any]:
    row = connection.execute(select(accounts).where(accounts.c.user_id == user_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no token account for user {user_id!r}")
    return row


def _free_upload_used(connection: Connection, account_id: int, period: date) -> int:
    statement = select(quotas.c.used).where(
        quotas.c.account_id == account_id,
        quotas.c.meter == FREE_UPLOAD_METER,
        quotas.c.period_start == period,
    )
    return connection.execute(statement).scalar_one_or_none() or 0


def _free_upload(limit: int | None, used: int, period: date) -> FreeUploadQuota:
    next_period = (period + timedelta(days=31)).replace(day=1)
    return FreeUploadQuota(
        limit_bytes=limit,
        used_bytes=used,
        remaining_bytes=max((limit or 0) - used, 0),
        period_start=datetime.combine(period, time(), UTC),
        period_end=datetime.combine(next_period, time(), UTC),
    )


# -- history ----------------------------------------------------------------------------------------------


def _transactions(connection: Connection, account_id: int, top: int, limit: int) -> tuple[Transaction, ...]:
    statement = (
        select(entries, operations.c.reference_id, operations.c.type)
        .add_columns(operations.c.description, operations.c.metadata.label("extra"))
        .join(operations, operations.c.operation_id == entries.c.operation_id)
        .where(entries.c.account_id == account_id, entries.c.sequence <= top)
        .order_by(entries.c.sequence.desc())
        .limit(limit)
    )
    return tuple(_transaction(row) for row in connection.execute(statement))


def _transaction(row: Row[Any]) -> Transaction:
    return Transaction(
        transaction_id=str(row.operation_id),
        reference_id=row.reference_id,
        type=row.type,
        counter=row.counter,
        amount=row.amount,
        balance_before=row.balance_before,
        balance_after=row.balance_after,
        sequence=row.sequence,
        feature=row.feature,
        description=row.description,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        metadata=row.extra,
    )


def _cursor(account_id: int, sequence: int) -> str:
    return urlsafe_b64encode(b"%d.%d" % (account_id, sequence)).decode().rstrip("=")


def _sequence_in(cursor: str, account_id: int) -> int:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError) as error:
        raise QueryError(_BAD_CURSOR) from error
    match = re.fullmatch(rb"\d{1,19}\.(\d{1,19})", text)
    if match is None or _cursor(account_id, int(match[1])) != cursor:
        raise QueryError(_BAD_CURSOR)
    return int(match[1])


_BAD_CURSOR = "the cursor is none of this account's; take nextCursor from a page of its history"


# -- usage ------------------------------------------------------------------------------------------------


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise QueryError(
            f"the time zone {name!r} is not known; give an IANA name such as Europe/Berlin"
        ) from error


class _Calendar:
    """Consecutive local days and the instants, in seconds since 1970, at which each of them begins.

    ``step`` divides every day, so that a slice of that length belongs to one day: 86,400 s where no clock
    changes, an hour or less where one does.
    """

    def __init__(self, last: date, days: int, zone: tzinfo) -> None:
        self.days = [last - timedelta(days=back) for back in range(days - 1, -1, -1)]
        # A midnight that doesn't exist becomes the instant the clock jumped, one that comes twice the first.
        starts = [
            int(datetime.combine(day, time(), zone).timestamp())
            for day in (*self.days, last + timedelta(days=1))
        ]
        self.starts, self.end = starts[:-1], starts[-1]
        self.step = gcd(*(after - before for before, after in pairwise(starts)))

    @property
    def start(self) -> int:
        """The first instant of the first day."""
        return self.starts[0]

    def index(self, piece: int) -> int:
        """Which day the slice number ``piece`` belongs to."""
        return bisect_right(self.starts, self.start + piece * self.step) - 1


def _used_by_day(connection: Connection, account_id: int, calendar: _Calendar) -> tuple[UsageDay, ...]:
    used: list[Tally[str]] = [Tally() for _ in calendar.days]
    count = [0] * len(calendar.days)
    for row in _used_by_slice(connection, account_id, calendar):
        index = calendar.index(row.piece)
        used[index][UNLABELLED if row.feature is None else row.feature] += int(row.used)
        count[index] += row.entries
    return tuple(
        UsageDay(day, tokens.total(), number, _most_first(tokens))
        for day, tokens, number in zip(calendar.days, used, count, strict=True)
    )


def _used_by_slice(connection: Connection, account_id: int, calendar: _Calendar) -> Sequence[Row[Any]]:
    piece = (_seconds(connection, entries.c.occurred_at) - calendar.start) // calendar.step
    statement = (
        select(
            piece.label("piece"),
            entries.c.feature,
            func.sum(-entries.c.amount).label("used"),
            func.count().label("entries"),
        )
        .where(entries.c.account_id == account_id, entries.c.counter == Counter.USAGE.value)
        .where(entries.c.occurred_at >= datetime.fromtimestamp(calendar.start, UTC))
        .where(entries.c.occurred_at < datetime.fromtimestamp(calendar.end, UTC))
        .group_by("piece", entries.c.feature)
    )
    return connection.execute(statement).all()


def _seconds(connection: Connection, column: ColumnElement[datetime]) -> ColumnElement[int]:
    """Whole seconds since 1970, cut and never rounded: 23:59:59.9999 belongs to its day."""
    if connection.dialect.name == "postgresql":
        return cast(func.floor(extract("epoch", column)), BigInteger)
    return cast(func.strftime("%s", func.substr(column, 1, 19)), BigInteger)


def _most_first(tokens: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(tokens.items(), key=lambda item: (-item[1], item[0])))


def _projection(balance: int, total: int, days_open: int) -> Projection:
    observed = max(days_open, 1)
    return Projection(None if total == 0 else balance * observed // total, observed)


# -- totals -----------------------------------------------------------------------------------------------


def _totals() -> Any:
    names = ("balance", "allocated", "purchased", "bonus", "refunded", "used")
    return select(
        func.count().label("users"),
        *(func.coalesce(func.sum(accounts.c[name]), 0).label(name) for name in names),
    )


def _accounts_by_tier() -> Any:
    return select(accounts.c.tier, func.count().label("accounts")).group_by(accounts.c.tier)


def _operations_by_outcome() -> Any:
    columns = (operations.c.type, operations.c.status, operations.c.code)
    return select(*columns, func.count()).group_by(*columns)


def _revenue_by_currency() -> Any:
    return select(
        payments.c.currency,
        func.count().label("payments"),
        func.sum(payments.c.amount_minor).label("amount_minor"),
    ).group_by(payments.c.currency)
