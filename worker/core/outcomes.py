"""What can come of a command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas import Code, Status

Detail = Mapping[str, int | str]


@dataclass(slots=True, eq=True)
class Outcome:
    """What came of one reference at one attempt, as it is stored for ever.

    ``content`` is the canonical JSON of what moved the ledger. Amounts are tokens, or bytes for a free
    upload; balances are tokens and absent where no account is known. ``balance_before`` is before the command
    itself: what fell due with it is booked first. ``first_entry`` to ``last_entry`` are the sequences of the
    entries it wrote, absent where there are none; ``notices`` go out with its reply. ``transaction_id`` is
    given by the ledger when the outcome is written: until then it is None.
    """

    reference_id: str
    type: str
    user_id: str
    attempt: int
    content: str
    status: Status
    code: Code
    recorded_at: datetime
    amount: int | None = None
    balance_before: int | None = None
    balance_after: int | None = None
    detail: Detail = field(default_factory=dict)
    occurred_at: datetime | None = None
    metadata: Mapping[str, int | str | bool | None] | None = None
    description: str | None = None
    first_entry: int | None = None
    last_entry: int | None = None
    notices: tuple[Detail, ...] = ()
    transaction_id: int | None = None

    @property
    def is_applied(self) -> bool:
        """Whether the ledger moved."""
        return self.status is Status.APPLIED


@dataclass(frozen=True, slots=True)
class Decided:
    """The command's own outcome, or the stored one of its reference (``duplicate``)."""

    outcome: Outcome
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """The reference names another operation already; ``field`` is the first that differs."""

    field: str
    stored: str
    received: str


Answer = Decided | Conflict
