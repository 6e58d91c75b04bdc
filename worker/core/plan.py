"""Rows that a decided batch writes, in the order of the commands that caused them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from worker.core.known import AccountState, Hold, Lot, Payment, PaymentEvent, PaymentName, QuotaKey
from worker.core.outcomes import Answer, Decided, Outcome


class Counter(StrEnum):
    """Counter-accounts: where a user's tokens come from and go to.

    ``transfers`` are between two lots of one account, or a lot and its debt: they come in pairs.
    """

    ALLOCATION = "allocation"
    PURCHASES = "purchases"
    BONUS = "bonus"
    REFUNDS = "refunds"
    USAGE = "usage"
    EXPIRY = "expiry"
    ADJUSTMENTS = "adjustments"
    REVERSALS = "reversals"
    TRANSFERS = "transfers"


@dataclass(slots=True)
class Entry:
    """Movement of tokens between a lot of an account and a counter-account; positive is a credit to it.

    ``lot`` is the lot's number, or None for what makes or repays a debt. ``due_at`` is when it fell due, for
    what time brought about and the operation only posted.
    """

    account_id: int
    sequence: int
    outcome: Outcome
    counter: Counter
    amount: int
    balance_before: int
    balance_after: int
    lot: int | None
    feature: str | None
    due_at: datetime | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(slots=True)
class QuotaEntry:
    """Movement of a period's counter, in the meter's unit (bytes for free uploads)."""

    key: QuotaKey
    sequence: int
    outcome: Outcome
    amount: int
    used_before: int
    used_after: int
    recorded_at: datetime


@dataclass(slots=True)
class UsageRefund:
    """Tokens of the operation ``original`` given back, and free units of its."""

    account_id: int
    outcome: Outcome
    original: Outcome
    tokens: int
    free_quantity: int
    recorded_at: datetime


@dataclass(slots=True)
class AccountMove:
    """Account as the batch leaves it, and the sequence it had before.

    ``only_used``: nothing but usage moved it, so that only its balance, sequence and use changed.
    """

    state: AccountState
    sequence_before: int
    only_used: bool


@dataclass(frozen=True, slots=True)
class ImportedAccount:
    """Account that was imported, when it was opened elsewhere, and the outcomes of its payments."""

    user_id: str
    opened_at: datetime
    outcome: Outcome
    payments: list[Outcome]


@dataclass(slots=True)
class Plan:
    """Answers, one for each command in their order, and all rows that make them true.

    ``outcomes`` are new operations; ``rejudged`` pairs a rejection with what replaces it at a higher attempt;
    ``taken`` are outcomes that moved nothing and lose their reference to one of ``outcomes``.

    ``accounts`` are those that changed; ``opened`` the users whose account this batch opened, ``imported``
    those among them that came from another system. New lots and holds are kept apart from changed ones, and
    lots that only usage changed from the others. ``late_holds`` had run out before this batch, which captured
    them all the same. ``names`` are of payments, ``waiting`` events whose payment isn't there, ``taken_in``
    the references of those that wait no longer, ``stuck`` of those that can't count for their payment.
    ``erased`` are the places of answers to commands of erased users, of whom nothing is written.
    """

    answers: list[Answer] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    rejudged: list[tuple[Outcome, Outcome]] = field(default_factory=list)
    taken: list[Outcome] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    quota_entries: list[QuotaEntry] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    payment_events: list[PaymentEvent] = field(default_factory=list)
    usage_refunds: list[UsageRefund] = field(default_factory=list)
    new_lots: list[Lot] = field(default_factory=list)
    changed_lots: list[Lot] = field(default_factory=list)
    used_lots: list[Lot] = field(default_factory=list)
    new_holds: list[Hold] = field(default_factory=list)
    changed_holds: list[Hold] = field(default_factory=list)
    late_holds: list[Hold] = field(default_factory=list)
    accounts: list[AccountMove] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    imported: list[ImportedAccount] = field(default_factory=list)
    names: list[PaymentName] = field(default_factory=list)
    waiting: list[PaymentEvent] = field(default_factory=list)
    taken_in: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    erased: set[int] = field(default_factory=set)

    def name_senders(self, sender_ids: Iterable[int | None]) -> None:
        """Set the senders of new outcomes; ``sender_ids`` has one for each answer, in their order."""
        for answer, sender_id in zip(self.answers, sender_ids, strict=True):
            if isinstance(answer, Decided) and not answer.duplicate:
                answer.outcome.sender_id = sender_id
        for account in self.imported:
            for outcome in account.payments:
                outcome.sender_id = account.outcome.sender_id

    def name_catalog(self, catalog_id: int | None) -> None:
        """Set the catalog that new outcomes were judged with."""
        for answer in self.answers:
            if isinstance(answer, Decided) and not answer.duplicate:
                answer.outcome.catalog_id = catalog_id
        for account in self.imported:
            for outcome in account.payments:
                outcome.catalog_id = catalog_id

    @property
    def moves_nothing(self) -> bool:
        """True where only outcomes are to be written."""
        return not self.accounts and self.is_usage

    @property
    def is_usage(self) -> bool:
        """True where only usage moved accounts, and only lots that were there before."""
        others = (
            self.quota_entries,
            self.payments,
            self.payment_events,
            self.usage_refunds,
            self.new_lots,
            self.changed_lots,
            self.new_holds,
            self.changed_holds,
            self.late_holds,
        )
        return not any(others) and all(move.only_used for move in self.accounts)
