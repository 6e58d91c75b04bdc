"""What a decided batch writes: rows, in the order of the commands that caused them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from worker.core.known import AccountState, QuotaKey
from worker.core.outcomes import Answer, Outcome


class Counter(StrEnum):
    """The counter-accounts: where a user's tokens come from and go to."""

    ALLOCATION = "allocation"
    PURCHASES = "purchases"
    BONUS = "bonus"
    REFUNDS = "refunds"
    USAGE = "usage"


@dataclass(slots=True)
class Entry:
    """One movement of tokens between an account and a counter-account; positive is a credit to it."""

    account_id: int
    sequence: int
    outcome: Outcome
    counter: Counter
    amount: int
    balance_before: int
    balance_after: int
    feature: str | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(slots=True)
class QuotaEntry:
    """One movement of a period's counter, in the meter's unit (bytes for free uploads)."""

    key: QuotaKey
    sequence: int
    outcome: Outcome
    amount: int
    used_before: int
    used_after: int
    recorded_at: datetime


@dataclass(slots=True)
class Payment:
    """A payment as it was taken: minor units of money, and the tokens it bought."""

    outcome: Outcome
    account_id: int
    package_id: str
    amount_minor: int
    currency: str
    base_tokens: int
    bonus_tokens: int
    provider: str | None
    recorded_at: datetime


@dataclass(slots=True)
class Plan:
    """The answers, one a command in their order, and all that has to be written for them to be true.

    ``outcomes`` are new references; ``rejudged`` pairs a stored rejection with what replaces it.
    ``accounts`` are those that were looked at, moved or not, with the sequence they had before; ``opened``
    the users whose account this batch opened.
    """

    answers: list[Answer] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    rejudged: list[tuple[Outcome, Outcome]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    quota_entries: list[QuotaEntry] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    accounts: dict[str, tuple[AccountState, int]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
