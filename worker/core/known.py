"""What the ledger knows about the commands of a batch, read under the locks of its accounts."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from worker.core.outcomes import Outcome

FREE_UPLOAD_METER = "free_upload"


@dataclass(slots=True)
class AccountState:
    """One user's account: the balance in tokens, the sequence of its last entry, and the sums behind it.

    ``balance = allocated + purchased + bonus + refunded − used`` holds at all times, here and in the table.
    """

    account_id: int
    user_id: str
    tier: str
    balance: int = 0
    sequence: int = 0
    allocated: int = 0
    purchased: int = 0
    bonus: int = 0
    refunded: int = 0
    used: int = 0


class QuotaKey(NamedTuple):
    """Names a counter: account, meter, and the first day of the period (UTC)."""

    account_id: int
    meter: str
    period_start: date


@dataclass(slots=True)
class QuotaState:
    """How much of a period's quota is used, and the sequence of its last entry."""

    used: int = 0
    sequence: int = 0


def period_start(now: datetime) -> date:
    """The first day of the calendar month of ``now``, which is aware and in UTC."""
    return now.date().replace(day=1)


@dataclass(slots=True)
class Known:
    """All that ``decide`` may look at.

    ``outcomes`` holds the latest outcome of each reference that has one, ``superseded`` the rejections
    that a higher attempt replaced. ``just_opened`` names the users whose account row this transaction made:
    they are open only if the plan opens them.
    """

    accounts: dict[str, AccountState] = field(default_factory=dict)
    just_opened: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    superseded: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    quotas: dict[QuotaKey, QuotaState] = field(default_factory=dict)
