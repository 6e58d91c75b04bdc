"""Answers to queries. Amounts are whole tokens; absent fields don't apply."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from schemas.replies import OpenCode, Reply
from schemas.version import SCHEMA_VERSION


class AnswerPart(BaseModel):
    """Part of an answer: frozen, camelCase; fields of a later version are passed over."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class BaseAnswer(AnswerPart):
    """Base of all answers. ``as_of`` is the moment that the answer is true for."""

    schema_version: int = SCHEMA_VERSION
    as_of: datetime

    def to_json(self) -> bytes:
        """Return the message body."""
        return self.model_dump_json(exclude_none=True).encode()


class AccountAnswer(BaseAnswer):
    """Answer about one account. ``sequence`` is that of its last posted entry, 0 without one."""

    user_id: str
    sequence: int


# -- balance ----------------------------------------------------------------------------------------------


class Totals(AnswerPart):
    """Sums of an account's entries: ``balance`` is the first five less the last three."""

    allocated: int
    purchased: int
    bonus: int
    refunded: int
    adjusted: int
    used: int
    expired: int
    reversed: int


class SubscriptionStatus(AnswerPart):
    """Tier and its present period, from ``period_start`` until before ``period_end``.

    Allocations are granted until ``granted_until``; from ``ends_at`` on nothing more is granted.
    ``is_active`` is false from then on.
    """

    tier: str
    is_active: bool
    period_start: datetime
    period_end: datetime
    granted_until: datetime
    ends_at: datetime | None = None


class QuotaStatus(AnswerPart):
    """Free units of a period in ``unit``. ``limit`` is absent where the catalog lacks the account's tier."""

    name: str
    unit: str
    limit: int | None = None
    used: int
    remaining: int


class BalanceAnswer(AccountAnswer):
    """State of an account, with what is due and not posted yet.

    ``available`` is what a deduction may take. ``lots`` are what remains, by source. ``pending`` takes effect
    later. ``monthly_allocation`` is absent where the catalog lacks the tier. ``next_credit_at`` is when the
    next credit is certain to come (a free tier's period, or a scheduled credit), of ``next_credit_tokens``.
    An account with ``frozen_at`` takes no usage and no holds since then.
    """

    type: Literal["answer.balance"] = "answer.balance"
    balance: int
    held: int
    available: int
    debt: int
    pending: int
    balance_formatted: str
    held_formatted: str
    available_formatted: str
    lots: Mapping[str, int]
    totals: Totals
    subscription: SubscriptionStatus
    monthly_allocation: int | None = None
    monthly_allocation_formatted: str | None = None
    quotas: tuple[QuotaStatus, ...]
    frozen_at: datetime | None = None
    next_credit_at: datetime | None = None
    next_credit_tokens: int | None = None
    opened_at: datetime
    updated_at: datetime


class AffordAnswer(AccountAnswer):
    """Result that a usage would have now, and its price.

    ``code`` is that of the reply it would get. ``required`` tokens are its price, absent where it has none
    (an unknown meter); ``free_quantity`` units of ``quantity`` are free.
    """

    type: Literal["answer.afford"] = "answer.afford"
    affordable: bool
    code: OpenCode
    required: int | None = None
    available: int
    shortfall: int
    meter: str | None = None
    quantity: int | None = None
    free_quantity: int | None = None
    charged_quantity: int | None = None


# -- history and usage ------------------------------------------------------------------------------------


class Transaction(AnswerPart):
    """One posted entry, or a refused operation, which has no ``sequence`` and an ``amount`` of 0.

    ``amount`` is positive where it was credited. Entries of one operation share ``transaction_id`` and
    ``reference_id``: a purchase with a bonus is two. ``lot`` is the number of the lot that moved, of
    ``source``; absent where it was the account's debt. ``due_at`` is when it fell due, where time brought it
    about and the operation only posted it.
    """

    transaction_id: str
    reference_id: str
    type: str
    status: str
    code: str
    counter: str | None = None
    amount: int
    balance_before: int | None = None
    balance_after: int | None = None
    sequence: int | None = None
    lot: int | None = None
    source: str | None = None
    feature: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None
    due_at: datetime | None = None
    occurred_at: datetime
    recorded_at: datetime


class HistoryAnswer(AccountAnswer):
    """Page of transactions, newest first. ``total`` counts the posted ones; absent under a filter."""

    type: Literal["answer.history"] = "answer.history"
    transactions: tuple[Transaction, ...]
    limit: int
    offset: int | None = None
    total: int | None = None
    has_more: bool
    next_cursor: str | None = None


class UsagePeriod(AnswerPart):
    """Local days, both included."""

    days: int
    start_date: date
    end_date: date


class DayUsage(AnswerPart):
    """Used tokens of one local day."""

    date: date
    tokens: int


class TypeUsage(AnswerPart):
    """Used tokens of one type of command, and their share in percent with two decimals."""

    type: str
    tokens: int
    percentage: float


class GroupUsage(AnswerPart):
    """Used tokens of one group. ``key`` is absent for what has none: no feature, or not this metadata key."""

    key: str | None = None
    tokens: int
    percentage: float


class UsageAnswer(AccountAnswer):
    """Used tokens of a range of days; a refund doesn't lower them.

    ``average_daily`` is over all days, rounded down; ``projected_monthly`` is for 30 of them. The first
    thousand ``groups`` are named, most used first; ``other_groups`` are the tokens of all others.
    """

    type: Literal["answer.usage"] = "answer.usage"
    period: UsagePeriod
    timezone: str
    total: int
    average_daily: int
    projected_monthly: int
    daily_usage: tuple[DayUsage, ...]
    usage_by_type: tuple[TypeUsage, ...]
    group_by: str | None = None
    groups: tuple[GroupUsage, ...] | None = None
    other_groups: int | None = None


# -- the whole ledger -------------------------------------------------------------------------------------


class CurrencyRevenue(AnswerPart):
    """Payments taken in one currency, in its minor units; what went back is not taken off."""

    currency: str
    payments: int
    amount_minor: int


class StatsAnswer(BaseAnswer):
    """Totals of all accounts, as they are posted."""

    type: Literal["answer.stats"] = "answer.stats"
    users: int
    balance: int
    held: int
    debt: int
    totals: Totals
    payments: int
    accounts_by_tier: Mapping[str, int]
    revenue: tuple[CurrencyRevenue, ...]


class OperationAnswer(BaseAnswer):
    """Stored outcome of a reference as its reply (a ``duplicate``); absent where none is stored yet."""

    type: Literal["answer.operation"] = "answer.operation"
    reference_id: str
    is_known: bool
    reply: Reply | None = None


class CatalogRate(AnswerPart):
    """Tokens for an amount that the buyer chooses: ``tokens`` for each ``per_minor`` units, rounded down."""

    tokens: int
    per_minor: int


class CatalogPackage(AnswerPart):
    """Package for sale; ``index`` is its ``packageIndex``.

    ``prices`` are those valid at ``as_of``, in minor units by currency; ``price_minor`` and ``currency`` say
    the same where there is one. A package with ``rates`` has no prices: its tokens follow from the amount.
    """

    id: str
    index: int
    tokens: int
    bonus_tokens: int
    price_minor: int | None = None
    currency: str | None = None
    prices: Mapping[str, int]
    rates: Mapping[str, CatalogRate]
    valid_days: int | None = None
    bonus_valid_days: int | None = None


class CatalogTier(AnswerPart):
    """Tier of a subscription, with its free units a period by quota."""

    id: str
    monthly_tokens: int
    free_upload_bytes: int
    free_units: Mapping[str, int]
    rollover_tokens: int
    auto_renew: bool


class CatalogMeter(AnswerPart):
    """Meter with its price: ``tokens`` for each ``per`` units, at least ``minimum_tokens``."""

    id: str
    unit: str
    per: int
    tokens: int
    rounding: str
    minimum_tokens: int
    quota: str


class CatalogAnswer(BaseAnswer):
    """All that is for sale. ``hash`` is another one after any change, and when a price begins to be valid."""

    type: Literal["answer.catalog"] = "answer.catalog"
    hash: str
    packages: tuple[CatalogPackage, ...]
    tiers: tuple[CatalogTier, ...]
    meters: tuple[CatalogMeter, ...]


# -- no answer --------------------------------------------------------------------------------------------


class ProblemCode(StrEnum):
    """Stable reasons why a query has no answer."""

    ACCOUNT_NOT_FOUND = "account_not_found"  #: the user has no account, or had none at that time
    MALFORMED = "malformed"  #: no query: ``field`` says where; fix the caller
    NOT_ALLOWED = "not_allowed"  #: the sender may not ask this
    SEQUENCE_NOT_REACHED = "sequence_not_reached"  #: ``minSequence`` is not there yet; ask again
    UNAVAILABLE = "unavailable"  #: the database doesn't answer; ask again
    UNPROCESSABLE = "unprocessable"  #: a fault of the reader's; operators have it in the log


class QueryProblem(BaseAnswer):
    """Reason why a query has no answer. ``query`` is its type, where it can be read."""

    type: Literal["answer.problem"] = "answer.problem"
    code: Annotated[ProblemCode | str, Field(union_mode="left_to_right")]
    message: str
    query: str | None = None
    user_id: str | None = None
    field: str | None = None


QueryAnswer = (
    BalanceAnswer
    | AffordAnswer
    | HistoryAnswer
    | UsageAnswer
    | StatsAnswer
    | OperationAnswer
    | CatalogAnswer
    | QueryProblem
)

_ANSWERS: TypeAdapter[QueryAnswer] = TypeAdapter(Annotated[QueryAnswer, Field(discriminator="type")])


def answer_in(body: bytes) -> QueryAnswer:
    """Return the answer in a message's body. Raises ValueError where it holds none that is known here."""
    return _ANSWERS.validate_json(body)
