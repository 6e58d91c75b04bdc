"""Answers that list or sum: history, usage, statistics and the catalog."""

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache

from sqlalchemy import Connection

from schemas import CatalogAnswer, HistoryAnswer, QueryHistory, QueryUsage, StatsAnswer, UsageAnswer
from schemas.answers import (
    CatalogMeter,
    CatalogPackage,
    CatalogRate,
    CatalogTier,
    CurrencyRevenue,
    DayUsage,
    GroupUsage,
    Totals,
    Transaction,
    TypeUsage,
    UsagePeriod,
)
from schemas.replies import Status
from worker.catalog import Catalog, Package
from worker.ledger.queries import totals
from worker.ledger.queries.days import Calendar, zone_of
from worker.ledger.queries.history import PostedEntry, history
from worker.ledger.queries.snapshots import AccountKey, account_row
from worker.ledger.queries.transactions import RefusedOperation, TransactionFilter, transactions
from worker.ledger.queries.usage_groups import used_by_day, used_by_group

_DAYS, _MONTH_DAYS = 30, 30
#: Most groups that an answer names; the tokens of all others are one number.
GROUPS_MAX = 1_000


# -- history ----------------------------------------------------------------------------------------------


def history_answer(connection: Connection, query: QueryHistory, as_of: datetime) -> HistoryAnswer:
    """Return a page of transactions. Raises NotFoundError, and QueryError for a cursor of somebody else's."""
    if not query.is_filtered:
        page = history(connection, query.user_id, query.limit, query.offset or 0, query.cursor)
        return HistoryAnswer(
            as_of=as_of,
            user_id=query.user_id,
            sequence=page.total,
            transactions=tuple(map(_posted, page.transactions)),
            limit=query.limit,
            offset=page.offset,
            total=page.total,
            has_more=page.has_more,
            next_cursor=page.next_cursor,
        )
    wanted = TransactionFilter(query.status, query.transaction_type, query.feature, query.from_, query.to)
    found = transactions(connection, query.user_id, query.limit, query.cursor, wanted)
    return HistoryAnswer(
        as_of=as_of,
        user_id=query.user_id,
        sequence=found.sequence,
        transactions=tuple(
            _posted(one) if isinstance(one, PostedEntry) else _refused(one) for one in found.transactions
        ),
        limit=query.limit,
        has_more=found.next_cursor is not None,
        next_cursor=found.next_cursor,
    )


def _posted(entry: PostedEntry) -> Transaction:
    return Transaction(
        transaction_id=entry.transaction_id,
        reference_id=entry.reference_id,
        type=entry.type,
        status=Status.APPLIED,
        code=entry.code,
        counter=entry.counter,
        amount=entry.amount,
        balance_before=entry.balance_before,
        balance_after=entry.balance_after,
        sequence=entry.sequence,
        lot=entry.lot,
        source=entry.source,
        feature=entry.feature,
        description=entry.description,
        metadata=entry.metadata,
        due_at=entry.due_at,
        occurred_at=entry.occurred_at,
        recorded_at=entry.recorded_at,
    )


def _refused(operation: RefusedOperation) -> Transaction:
    return Transaction(
        transaction_id=operation.transaction_id,
        reference_id=operation.reference_id,
        type=operation.type,
        status=Status.REJECTED,
        code=operation.code,
        amount=0,
        balance_before=operation.balance,
        balance_after=operation.balance,
        description=operation.description,
        metadata=operation.metadata,
        occurred_at=operation.occurred_at,
        recorded_at=operation.recorded_at,
    )


# -- usage ------------------------------------------------------------------------------------------------


def usage_answer(connection: Connection, query: QueryUsage, now: datetime, as_of: datetime) -> UsageAnswer:
    """Return the used tokens of the days. Raises NotFoundError, and QueryError for an unknown time zone."""
    calendar = _calendar(query, now)
    account = account_row(connection, query.user_id)
    key = AccountKey(account.slot, account.account_id)
    (used,) = used_by_day(connection, key, account.sequence, calendar, "type")
    total, days = used.total, len(used.days)
    groups, others = _groups(connection, query, key, account.sequence, calendar, total)
    return UsageAnswer(
        as_of=as_of,
        user_id=query.user_id,
        sequence=account.sequence,
        period=UsagePeriod(days=days, start_date=calendar.days[0], end_date=calendar.days[-1]),
        timezone=query.timezone,
        total=total,
        average_daily=used.average_per_day,
        projected_monthly=total * _MONTH_DAYS // days,
        daily_usage=tuple(DayUsage(date=day.day, tokens=day.total) for day in used.days),
        usage_by_type=tuple(
            TypeUsage(type=type_, tokens=tokens, percentage=_percentage(tokens, total))
            for type_, tokens in used.by_group.items()
        ),
        group_by=query.group_by,
        groups=groups,
        other_groups=others,
    )


def _calendar(query: QueryUsage, now: datetime) -> Calendar:
    zone = zone_of(query.timezone)
    if query.from_ is not None and query.to is not None:
        return Calendar(query.to, (query.to - query.from_) // timedelta(days=1) + 1, zone)
    return Calendar(now.astimezone(zone).date(), query.days or _DAYS, zone)


def _groups(
    connection: Connection,
    query: QueryUsage,
    key: AccountKey,
    sequence: int,
    calendar: Calendar,
    total: int,
) -> tuple[tuple[GroupUsage, ...] | None, int | None]:
    """Return the groups that are asked for, most used first, and the tokens of those past the most."""
    if query.group_by is None or query.group_by == "day":  # the days are in every answer
        return None, None
    found, others = used_by_group(connection, key, sequence, calendar, query.group_by, GROUPS_MAX)
    named = (
        GroupUsage(key=name, tokens=tokens, percentage=_percentage(tokens, total)) for name, tokens in found
    )
    return tuple(named), others


def _percentage(part: int, whole: int) -> float:
    """Return the share in percent with two decimals; 0 of nothing."""
    return round(100 * part / whole, 2) if whole else 0.0


# -- the whole ledger, and what is for sale ---------------------------------------------------------------


def stats_answer(connection: Connection, as_of: datetime) -> StatsAnswer:
    """Return totals of all accounts; reads each of three tables once."""
    found = totals.stats(connection)
    return StatsAnswer(
        as_of=as_of,
        users=found.users,
        balance=found.total_balance,
        held=found.total_held,
        debt=found.total_debt,
        totals=Totals(**{name: getattr(found, f"total_{name}") for name in Totals.model_fields}),
        payments=found.payments,
        accounts_by_tier=found.accounts_by_tier,
        revenue=tuple(
            CurrencyRevenue(currency=one.currency, payments=one.payments, amount_minor=one.amount_minor)
            for one in found.revenue
        ),
    )


def catalog_answer(catalog: Catalog, as_of: datetime) -> CatalogAnswer:
    """Return packages with their prices at ``as_of``, tiers and meters."""
    packages = tuple(_package(package, index, as_of) for index, package in enumerate(catalog.packages))
    prices = "".join(package.model_dump_json() for package in packages)
    return CatalogAnswer(
        as_of=as_of,
        hash=_hash(catalog.model_dump_json() + prices),
        packages=packages,
        tiers=tuple(CatalogTier(id=name, **tier.model_dump()) for name, tier in catalog.tiers.items()),
        meters=tuple(
            CatalogMeter(
                id=name,
                unit=rule.unit,
                per=rule.per,
                tokens=rule.tokens,
                rounding=rule.rounding,
                minimum_tokens=rule.minimum_tokens,
                quota=rule.quota or name,
            )
            for name, rule in catalog.pricing.items()
        ),
    )


def _package(package: Package, index: int, as_of: datetime) -> CatalogPackage:
    prices = package.prices_at(as_of)
    currency, price = next(iter(prices.items())) if len(prices) == 1 else (None, None)
    return CatalogPackage(
        id=package.id,
        index=index,
        tokens=package.tokens,
        bonus_tokens=package.bonus_tokens,
        price_minor=price,
        currency=currency,
        prices=prices,
        rates={name: CatalogRate(**rate.model_dump()) for name, rate in package.rates.items()},
        valid_days=package.valid_days,
        bonus_valid_days=package.bonus_valid_days,
    )


@lru_cache(maxsize=4)
def _hash(text: str) -> str:
    """Return a digest of what an answer says of a catalog."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
