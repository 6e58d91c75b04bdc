"""Queries: questions about the ledger. A query moves nothing, has no reference and is never a dead letter."""

from datetime import date
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StringConstraints, model_validator

from schemas.base import BaseMessage
from schemas.fields import INT64_MAX, Label, StoredIdentifier, UsageQuantity, UtcTimestamp, parse_day

#: Most transactions of a page, and most days of a usage report.
HISTORY_LIMIT_MAX: Final = 1_000
USAGE_DAYS_MAX: Final = 366
#: Longest cursor and time-zone name, in characters.
_CURSOR_MAX, _ZONE_MAX = 200, 64

#: Years that a query may ask about: outside of them calendars and periods end.
_YEARS = range(1970, 2200)


def _in_years(value: date) -> date:
    if value.year not in _YEARS:
        raise ValueError(f"must be in the years {_YEARS[0]} to {_YEARS[-1]}")
    return value


Limit = Annotated[StrictInt, Field(ge=1, le=HISTORY_LIMIT_MAX)]
Day = Annotated[date, BeforeValidator(parse_day), AfterValidator(_in_years)]
Moment = Annotated[UtcTimestamp, AfterValidator(_in_years)]
#: The key that usage is grouped by; ``metadata.<key>`` is a key of the command's metadata.
GroupBy = Annotated[
    str, StringConstraints(strict=True, pattern=r"^(?:day|feature|type|metadata\.[^\p{C}\p{Z}]{1,64})$")
]


class BaseQuery(BaseMessage):
    """Base of all queries."""


class AccountQuery(BaseQuery):
    """Query about one account.

    ``min_sequence`` is the least sequence of the account that the answer must know, such as that of a reply
    (``sequence``): so a caller reads its own writes. Holds alone don't raise the sequence.
    """

    user_id: StoredIdentifier
    min_sequence: Annotated[StrictInt, Field(ge=0, le=INT64_MAX)] | None = None


class QueryBalance(AccountQuery):
    """Asks for the state of an account, now or ``at`` another time; what is due counts."""

    type: Literal["query.balance"] = "query.balance"
    at: Moment | None = None

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.at is not None and self.min_sequence is not None:
            raise ValueError("give at or minSequence, not both: a past state has its own sequence")
        return self


class QueryAfford(AccountQuery):
    """Asks whether a usage would be applied now: ``tokens`` at once, or ``quantity`` units of ``meter``."""

    type: Literal["query.afford"] = "query.afford"
    tokens: UsageQuantity | None = None
    meter: Label | None = None
    quantity: UsageQuantity | None = None

    @model_validator(mode="after")
    def _one_usage(self) -> Self:
        if (self.tokens is None) == (self.meter is None) or (self.meter is None) != (self.quantity is None):
            raise ValueError("give tokens, or meter and quantity")
        return self


class QueryHistory(AccountQuery):
    """Asks for a page of an account's transactions, newest first.

    ``cursor`` is the ``nextCursor`` of the page before; ``offset`` counts newer transactions instead, and
    goes without filters. ``from`` is included and ``to`` is not; they compare the time of recording.
    """

    type: Literal["query.history"] = "query.history"
    limit: Limit = 50
    offset: Annotated[StrictInt, Field(ge=0, le=INT64_MAX)] | None = None
    cursor: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=_CURSOR_MAX)] | None = None
    status: Literal["applied", "rejected", "all"] = "applied"
    transaction_type: Label | None = None
    feature: Label | None = None
    from_: Annotated[Moment | None, Field(alias="from")] = None
    to: Moment | None = None

    @property
    def is_filtered(self) -> bool:
        """True where some transactions of the account are left out, or refused ones asked for."""
        filters = (self.transaction_type, self.feature, self.from_, self.to)
        return self.status != "applied" or any(one is not None for one in filters)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.offset is not None and self.cursor is not None:
            raise ValueError("give an offset or a cursor, not both")
        if self.offset is not None and self.is_filtered:
            raise ValueError("an offset goes without filters; give a cursor")
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise ValueError("from must be before to")
        return self


class QueryUsage(AccountQuery):
    """Asks for used tokens by local day: the last ``days`` with today, or the days ``from`` to ``to``."""

    type: Literal["query.usage"] = "query.usage"
    days: Annotated[StrictInt, Field(ge=1, le=USAGE_DAYS_MAX)] | None = None
    from_: Annotated[Day | None, Field(alias="from")] = None
    to: Day | None = None
    timezone: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=_ZONE_MAX)] = "UTC"
    group_by: GroupBy | None = None

    @model_validator(mode="after")
    def _one_range(self) -> Self:
        if self.days is not None and (self.from_ is not None or self.to is not None):
            raise ValueError("give days, or from and to")
        if (self.from_ is None) != (self.to is None):
            raise ValueError("from and to go together")
        if self.from_ is not None and self.to is not None:
            count = (self.to - self.from_).days + 1
            if not 1 <= count <= USAGE_DAYS_MAX:
                raise ValueError(f"from and to are {count} days; from 1 to {USAGE_DAYS_MAX} are taken")
        return self


class QueryStats(BaseQuery):
    """Asks for totals of all accounts."""

    type: Literal["query.stats"] = "query.stats"


class QueryOperation(BaseQuery):
    """Asks for the stored outcome of a reference: what a caller needs after a time-out."""

    type: Literal["query.operation"] = "query.operation"
    reference_id: StoredIdentifier


class QueryCatalog(BaseQuery):
    """Asks for packages, tiers and meters with their prices."""

    type: Literal["query.catalog"] = "query.catalog"


Query = QueryBalance | QueryAfford | QueryHistory | QueryUsage | QueryStats | QueryOperation | QueryCatalog

#: Every query by its ``type``.
QUERY_TYPES: dict[str, type[Query]] = {model.model_fields["type"].default: model for model in get_args(Query)}
