"""Balance of an account, and the part that may be spent, with all that is due, posted or not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from schemas import DeductUsage
from schemas.fields import INT64_MAX
from worker.catalog import FREE_UPLOAD, Catalog
from worker.core import Account, Conflict, HoldState, Source, decide
from worker.core.calendars import present_period
from worker.core.periods import Period
from worker.core.rules.usage import free_limit
from worker.ledger.queries.lookback import posted_state_at
from worker.ledger.queries.posted import PostedState, posted_state, posted_states, quotas_used_at
from worker.ledger.queries.snapshots import key_of, no_account, within
from worker.ledger.queries.views import View


@dataclass(frozen=True)
class Subscription(View):
    """Tier and its present period, from ``period_start`` until before ``period_end``.

    Allocations are granted until ``granted_until``. From ``ends_at`` on it has ended: nothing more is
    granted, and nothing is free.
    """

    tier: str
    period_start: datetime
    period_end: datetime
    granted_until: datetime
    ends_at: datetime | None


@dataclass(frozen=True)
class Quota(View):
    """Free part of a meter in the present period, in ``unit``, and how much of it is used.

    ``limit`` is None where the catalog no longer has the account's tier: such usage is refused then.
    """

    name: str
    unit: str
    limit: int | None
    used: int
    remaining: int


@dataclass(frozen=True)
class DueTotals(View):
    """Totals of what is due and counted in a balance, although it is not posted yet.

    It is posted when the account is next touched, in so many ``entries``: together they are ``tokens``, and
    ``expired`` of them are tokens that ran out. ``holds`` have run out.
    """

    tokens: int
    expired: int
    entries: int
    holds: int


@dataclass(frozen=True)
class Balance(View):
    """State of an account at ``at``, in tokens. ``available`` is what a deduction may take then.

    ``balance = allocated + purchased + bonus + refunded + adjusted − used − expired − reversed``; it is also
    what remains in the ``lots`` (by their source) less ``debt``, and ``held`` of it is kept by holds.
    ``pending`` takes effect later and is in no balance yet. ``monthly_allocation`` is None where the catalog
    lacks the tier. At ``next_credit_at`` the next ``next_credit_tokens`` come by themselves: a period that
    costs nothing, or scheduled credit. Since ``frozen_at``, where there is one, the account takes no usage.
    ``sequence`` is that of the last posted entry, ``updated_at`` when that was posted.
    """

    user_id: str
    at: datetime
    balance: int
    held: int
    available: int
    debt: int
    pending: int
    lots: Mapping[str, int]
    allocated: int
    purchased: int
    bonus: int
    refunded: int
    adjusted: int
    used: int
    expired: int
    reversed: int
    subscription: Subscription
    monthly_allocation: int | None
    quotas: tuple[Quota, ...]
    next_credit_at: datetime | None
    next_credit_tokens: int | None
    unsettled: DueTotals
    sequence: int
    opened_at: datetime
    updated_at: datetime
    frozen_at: datetime | None = None


@dataclass(frozen=True)
class Affordability(View):
    """Result that a deduction of ``required`` tokens would have now, and the shortfall if it is refused.

    ``code`` is the reason code of its reply: an account that is frozen is short of nothing.
    """

    user_id: str
    can_afford: bool
    required: int
    available: int
    shortfall: int
    code: str


def balance(connection: Connection, user_id: str, now: datetime, catalog: Catalog) -> Balance:
    """Return the balance of ``user_id`` at ``now`` (UTC). Raises NotFoundError."""
    posted = posted_states(connection, [user_id], now).get(user_id)
    if posted is None:
        raise no_account(user_id)
    return balance_of(posted, now, catalog)


def balance_of(posted: PostedState, now: datetime, catalog: Catalog) -> Balance:
    """Return the balance at ``now`` (UTC) of an account that was read with its quotas."""
    period = present_period(posted.state, now)
    used = {key.meter: quota.used for key, quota in posted.quotas.items() if key.period_start == period.key}
    return _balance(posted, period, used, now, catalog)


def balance_at(connection: Connection, user_id: str, at: datetime, catalog: Catalog) -> Balance:
    """Return the past balance at ``at`` (UTC). Raises NotFoundError, also for a time before the account."""
    posted = posted_state_at(connection, user_id, at)
    period = present_period(posted.state, at)
    used = quotas_used_at(connection, key_of(posted.state), period.key, at)
    return _balance(posted, period, used, at, catalog)


def can_afford(
    connection: Connection, user_id: str, tokens: int, now: datetime, catalog: Catalog
) -> Affordability:
    """Return the result of a ``usage.deduct`` of ``tokens`` at ``now`` (UTC), as ``decide`` itself gives it.

    Raises NotFoundError, and QueryError unless ``tokens`` is from 1 to 2^63−1.
    """
    within("tokens", tokens, 1, INT64_MAX)
    known = posted_state(connection, user_id).known()
    question = DeductUsage(reference_id="can-afford", user_id=user_id, tokens=tokens)
    (answer,) = decide([question], known, now, catalog).answers
    assert not isinstance(answer, Conflict)  # noqa: S101 - nothing known can conflict with it
    outcome = answer.outcome
    available = (outcome.balance_before or 0) - int(outcome.detail.get("held", 0))
    return Affordability(
        user_id=user_id,
        can_afford=outcome.is_applied,
        required=tokens,
        available=available,
        shortfall=int(outcome.detail.get("shortfall", 0)),
        code=outcome.code.value,
    )


def _balance(
    posted: PostedState, period: Period, used: Mapping[str, int], now: datetime, catalog: Catalog
) -> Balance:
    account = posted.now(now, catalog)
    state = account.state
    next_at, next_tokens = _next_credit(account)
    return Balance(
        user_id=state.user_id,
        at=now,
        balance=state.balance,
        held=state.held,
        available=state.available,
        debt=state.debt,
        pending=sum(lot.pending for lot in account.lots.values()),
        lots=_by_source(account),
        allocated=state.allocated,
        purchased=state.purchased,
        bonus=state.bonus,
        refunded=state.refunded,
        adjusted=state.adjusted,
        used=state.used,
        expired=state.expired,
        reversed=state.reversed,
        subscription=Subscription(state.tier, period.start, period.end, state.granted_until, state.ends_at),
        monthly_allocation=None if account.tier is None else account.tier.monthly_tokens,
        quotas=tuple(_quotas(account, used, catalog)),
        next_credit_at=next_at,
        next_credit_tokens=next_tokens,
        unsettled=DueTotals(
            tokens=state.balance - posted.state.balance,
            expired=account.expired_now,
            entries=len(account.written.entries),
            holds=sum(hold.state is not HoldState.OPEN for hold in account.holds.values()),
        ),
        sequence=posted.state.sequence,
        opened_at=posted.opened_at,
        updated_at=posted.updated_at,
        frozen_at=state.frozen_at,
    )


def _next_credit(account: Account) -> tuple[datetime, int] | tuple[None, None]:
    """Return when credit comes next by itself, and how much; None where none is sure to come."""
    coming = [(lot.effective_at, lot.pending) for lot in account.lots.values() if lot.pending]
    tier, state = account.tier, account.state
    if state.next_tier is not None and state.next_tier_at is not None:
        tier = (
            account.catalog.tiers.get(state.next_tier) if state.granted_until >= state.next_tier_at else tier
        )
    if tier is not None and tier.auto_renew and tier.monthly_tokens and state.ends_at is None:
        coming.append((state.granted_until, tier.monthly_tokens))
    if not coming:
        return None, None
    first = min(at for at, _ in coming)
    return first, sum(tokens for at, tokens in coming if at == first)


def _by_source(account: Account) -> dict[str, int]:
    """Return the remaining tokens by their source; sources with nothing left are left out."""
    sums = dict.fromkeys(Source, 0)
    for lot in account.lots.values():
        sums[lot.source] += lot.remaining
    return {source.value: tokens for source, tokens in sums.items() if tokens}


def _quotas(account: Account, used: Mapping[str, int], catalog: Catalog) -> Iterator[Quota]:
    """Yield free uploads first, then every quota that the tier has or of which something was used."""
    units = {rule.quota or meter: rule.unit for meter, rule in catalog.pricing.items()}
    names = {*used, *(() if account.tier is None else account.tier.free_units)} - {FREE_UPLOAD}
    for name in (FREE_UPLOAD, *sorted(names)):
        limit = free_limit(account, name)
        unit = "byte" if name == FREE_UPLOAD else units.get(name, "unit")
        left = max((limit or 0) - used.get(name, 0), 0)
        yield Quota(name, unit, limit, used.get(name, 0), left)
