"""State of the ledger that the commands of a batch need, read under the locks of its accounts."""

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple

from worker.core.outcomes import Outcome
from worker.core.superseded import Superseded


class Source(StrEnum):
    """Origin of a lot's tokens: ``carried_over`` for what was in an account before there were lots."""

    ALLOCATION = "allocation"
    PURCHASE = "purchase"
    PURCHASE_BONUS = "purchase_bonus"
    BONUS = "bonus"
    REFUND = "refund"
    ADJUSTMENT = "adjustment"
    CARRIED_OVER = "carried_over"


#: Bits of ``AccountState.alerts``: notices that have gone out and not been called off by a recovery.
ALERT_LOW = 1
ALERT_DEPLETED = 2


@dataclass(slots=True)
class AccountState:
    """Account of one user: the balance in tokens, the sequence of its last entry, and the sums behind it.

    ``balance = allocated + purchased + bonus + refunded + adjusted − used − expired − reversed``, and
    ``balance = what remains in the lots − debt``; ``held`` of it is kept by holds. ``lot_count`` numbers the
    lots. Periods count from ``anchor``; ``granted_until`` is the end of the last period whose allocation was
    granted, ``period_granted`` the most that was granted for it; from ``ends_at`` the subscription has ended.
    ``granted_from`` is the start of that period, where a gateway named it; ``next_tier`` takes the tier's
    place at ``next_tier_at``. An account with ``frozen_at``, when it was last frozen, takes no usage;
    ``unfrozen_at`` is when it was last let go.
    While ``granted_until`` is the anchor itself, the first period's allocation is due. Nothing falls due
    before ``due_at``.
    """

    account_id: int
    user_id: str
    tier: str
    anchor: datetime
    granted_until: datetime
    balance: int = 0
    sequence: int = 0
    allocated: int = 0
    purchased: int = 0
    bonus: int = 0
    refunded: int = 0
    adjusted: int = 0
    used: int = 0
    expired: int = 0
    reversed: int = 0
    held: int = 0
    debt: int = 0
    lot_count: int = 0
    alerts: int = 0
    period_granted: int = 0
    ends_at: datetime | None = None
    due_at: datetime | None = None
    granted_from: datetime | None = None
    next_tier: str | None = None
    next_tier_at: datetime | None = None
    frozen_at: datetime | None = None
    unfrozen_at: datetime | None = None

    @property
    def available(self) -> int:
        """Tokens that may be spent: the balance without what is held."""
        return self.balance - self.held

    def clone(self) -> "AccountState":
        """Return a copy that can be changed by itself."""
        return AccountState(
            self.account_id,
            self.user_id,
            self.tier,
            self.anchor,
            self.granted_until,
            self.balance,
            self.sequence,
            self.allocated,
            self.purchased,
            self.bonus,
            self.refunded,
            self.adjusted,
            self.used,
            self.expired,
            self.reversed,
            self.held,
            self.debt,
            self.lot_count,
            self.alerts,
            self.period_granted,
            self.ends_at,
            self.due_at,
            self.granted_from,
            self.next_tier,
            self.next_tier_at,
            self.frozen_at,
            self.unfrozen_at,
        )


def opened_by_use(account_id: int, user_id: str, tier: str, now: datetime) -> AccountState:
    """Return the state of an account that is opened now without ``account.open``.

    Its first allocation is due at once.
    """
    return AccountState(account_id, user_id, tier, anchor=now, granted_until=now, due_at=now)


@dataclass(slots=True)
class Lot:
    """Credit and what is left of it.

    Of ``granted`` tokens ``remaining`` are left, ``held`` of them kept by holds. ``pending`` ones take effect
    at ``effective_at``. From ``expires_at`` on nothing is left but what is held. ``parent`` is the number of
    the lot it belongs to: a bonus to its purchase, what was rolled over to its allocation. ``operation_id``
    is None while ``outcome``, which granted it, is not written, and for what was carried over. At
    ``ended_at`` it ended before its time: what comes back to it from then on has ended too.
    """

    account_id: int
    number: int
    source: Source
    granted: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None = None
    parent: int | None = None
    remaining: int = 0
    held: int = 0
    pending: int = 0
    is_noticed: bool = False
    operation_id: int | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None

    @property
    def free(self) -> int:
        """Tokens that are left and not held."""
        return self.remaining - self.held

    @property
    def ends_at(self) -> datetime | None:
        """Return when its tokens expire, or expired: at ``expires_at``, or where it was ended before."""
        if self.ended_at is None or (self.expires_at is not None and self.expires_at <= self.ended_at):
            return self.expires_at
        return self.ended_at

    def clone(self) -> "Lot":
        """Return a copy that can be changed by itself."""
        return Lot(
            self.account_id,
            self.number,
            self.source,
            self.granted,
            self.priority,
            self.effective_at,
            self.expires_at,
            self.parent,
            self.remaining,
            self.held,
            self.pending,
            self.is_noticed,
            self.operation_id,
            self.ended_at,
            self.outcome,
        )


class HoldState(StrEnum):
    """State of a hold: open, or one of three ends."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(slots=True)
class Hold:
    """Tokens kept for work to come: ``amount``, in ``parts`` of (lot, tokens) in the order to be spent.

    ``outcome`` opened it and ``closed_by`` ended it, where that was in this batch. One that had run out is
    settled by a late capture: it still ended at ``closed_at``, and ``captured`` tokens were taken later.
    ``is_dispute``: it keeps the tokens of a disputed payment, and no usage can end it.
    """

    account_id: int
    reference_id: str
    amount: int
    parts: tuple[tuple[int, int], ...]
    opened_at: datetime
    expires_at: datetime
    state: HoldState = HoldState.OPEN
    captured: int = 0
    closed_at: datetime | None = None
    operation_id: int | None = None
    is_dispute: bool = False
    outcome: Outcome | None = None
    closed_by: Outcome | None = None

    def clone(self) -> "Hold":
        """Return a copy that can be changed by itself."""
        return Hold(
            self.account_id,
            self.reference_id,
            self.amount,
            self.parts,
            self.opened_at,
            self.expires_at,
            self.state,
            self.captured,
            self.closed_at,
            self.operation_id,
            self.is_dispute,
            self.outcome,
            self.closed_by,
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """Tokens that a usage took, as (lot, tokens) in order, and how many were refunded.

    ``quota`` is where its free units came from, None where it took none or their period is over; ``freed`` of
    them were given back.
    """

    parts: tuple[tuple[int, int], ...]
    refunded: int = 0
    quota: "QuotaKey | None" = None
    freed: int = 0


class Happened(StrEnum):
    """Kinds of events of a payment."""

    REFUNDED = "refunded"
    REFUNDED_TOTAL = "refunded_total"  #: a cumulative amount
    REFUND_FAILED = "refund_failed"
    INQUIRED = "inquired"
    DISPUTED = "disputed"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    DISPUTE_PREVENTED = "dispute_prevented"
    DISPUTE_WITHDRAWN = "dispute_withdrawn"
    FAILED = "failed"
    FROZEN = "frozen"
    UNFROZEN = "unfrozen"
    SUCCEEDED = "succeeded"  #: and found events that had come before it


@dataclass(slots=True)
class PaymentEvent:
    """Something that happened to a payment, and what it did to the tokens.

    ``reference_id`` is the event's own, ``name`` the one by which it named the payment. ``refund_reference``
    is the refund that failed. ``collected`` tokens were taken back (negative: given back), ``uncollected``
    were written off. ``account_id`` is None while it waits, ``outcome`` the operation that posts it.
    """

    reference_id: str
    name: str
    happened: Happened
    recorded_at: datetime
    dispute_id: str | None = None
    refund_reference: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    occurred_at: datetime | None = None
    collected: int = 0
    uncollected: int = 0
    user_id: str | None = None
    account_id: int | None = None
    outcome: Outcome | None = None


@dataclass(slots=True)
class Payment:
    """Payment as it was taken: minor units of money, and the tokens it bought, of a package or a tier.

    ``lapsed`` is what has expired since of each of its lots, by their numbers: it is gone already, and not
    spent. ``taken`` is what its events have taken back of each lot by now; None stands for the debt.
    """

    account_id: int
    reference_id: str
    user_id: str
    amount_minor: int
    currency: str
    base_tokens: int
    bonus_tokens: int
    provider: str | None
    recorded_at: datetime
    package_id: str | None = None
    tier: str | None = None
    occurred_at: datetime | None = None
    lapsed: dict[int, int] = field(default_factory=dict)
    taken: dict[int | None, int] = field(default_factory=dict)
    operation_id: int | None = None
    outcome: Outcome | None = None


@dataclass(slots=True)
class PaymentName:
    """Name of a payment: the payment's own reference and its user, both None while it isn't there.

    Until then ``same_as`` is the first of all names that are known to be this payment's, None where it has no
    other. ``version`` is that of its row, 0 for one that has none yet.
    """

    name: str
    payment_reference: str | None = None
    user_id: str | None = None
    version: int = 0
    same_as: str | None = None


class TakenUp(NamedTuple):
    """Time at which a subscription was taken up, or renewed; ``is_scheduled`` with the next period alone."""

    at: datetime
    is_scheduled: bool


class QuotaKey(NamedTuple):
    """Key of a quota's counter: account, meter, and the first day of the period (UTC)."""

    account_id: int
    meter: str
    period_start: date


@dataclass(slots=True)
class QuotaState:
    """Used part of a period's quota, and the sequence of its last entry."""

    used: int = 0
    sequence: int = 0

    def clone(self) -> "QuotaState":
        """Return a copy that can be changed by itself."""
        return QuotaState(self.used, self.sequence)


@dataclass(slots=True)
class Known:
    """Everything that ``decide`` may read.

    ``outcomes`` holds the latest outcome of each reference that has one, and of the usages and payments that
    commands name; ``superseded`` what other outcomes replaced, as far as commands ask for it. ``just_opened``
    names the users whose account row this transaction made: they are open only if the plan opens them. Of an
    account all lots that are not used up are known and all open holds, and of the others those that commands
    name. ``usages`` are by the reference of a usage that commands refund, ``payments`` and
    ``payment_events`` by the payment's, ``payment_names`` and the events that are ``waiting`` by the name.
    ``taken_up`` is when subscriptions that commands cancel were taken up, by the user.
    ``unopened_payments`` are payments of users who had no account, by the user: the opening judges them anew.
    ``erased`` are ids of users, references and names of payments that were erased.
    """

    accounts: dict[str, AccountState] = field(default_factory=dict)
    just_opened: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    superseded: Superseded = field(default_factory=Superseded)
    quotas: dict[QuotaKey, QuotaState] = field(default_factory=dict)
    lots: dict[int, list[Lot]] = field(default_factory=dict)
    holds: dict[int, list[Hold]] = field(default_factory=dict)
    usages: dict[str, Taken] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    payment_events: dict[str, list[PaymentEvent]] = field(default_factory=dict)
    payment_names: dict[str, PaymentName] = field(default_factory=dict)
    waiting: dict[str, list[PaymentEvent]] = field(default_factory=dict)
    taken_up: dict[str, list[TakenUp]] = field(default_factory=dict)
    unopened_payments: dict[str, list[Outcome]] = field(default_factory=dict)
    erased: frozenset[str] = frozenset()
