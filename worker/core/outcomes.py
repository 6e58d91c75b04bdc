"""Outcomes of commands, as they are stored, and conflicts of references."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas import Code, Status

Detail = Mapping[str, int | str]


#: The unit of a meter whose quantities people read as sizes; stored as ``meter_unit`` beside them.
BYTE = "byte"


def moves_nothing(code: Code, amount: int | None, detail: Detail) -> bool:
    """Return whether this result of an applied command is usage without tokens, quota and hold."""
    return amount == 0 and code in MAY_MOVE_NOTHING and not detail.get("free_quantity")


#: Codes of usage that may move nothing. All other usage opens or ends a hold.
MAY_MOVE_NOTHING = frozenset({Code.TOKENS_DEDUCTED, Code.FREE_UPLOAD_COUNTED, Code.USAGE_RECORDED})


@dataclass(slots=True, eq=True)
class Outcome:
    """Result of one reference at one attempt, as it is stored for ever.

    ``content`` is the canonical JSON of what moved the ledger. Amounts are tokens, or bytes for a free
    upload; balances are tokens and absent where no account is known. ``balance_before`` is before the command
    itself: what fell due with it is posted first. ``first_entry`` to ``last_entry`` are the sequences of the
    entries it wrote, absent where there are none; ``notices`` go out with its reply. ``transaction_id`` is
    given by the ledger when the outcome is written: until then it is None. ``sender_id`` is the number of the
    sender, absent where the message doesn't say. ``catalog_id`` is that of the catalog it was judged with,
    absent for what an earlier version wrote.
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
    sender_id: int | None = None
    catalog_id: int | None = None

    @property
    def is_applied(self) -> bool:
        """True for a command that was carried out."""
        return self.status is Status.APPLIED

    @property
    def is_of_no_account(self) -> bool:
        """True for what waits for its payment: its balances are unknown, and stored as 0.

        One that an earlier version stored has the balance of the user it named.
        """
        waits = self.code is Code.PAYMENT_AWAITED or (
            self.code is Code.PAYMENT_NAMED and "payment_reference_id" not in self.detail
        )
        return waits and not self.balance_before

    @property
    def moved_nothing(self) -> bool:
        """True for a rejection, and for usage without tokens, quota, hold and entries."""
        if not self.is_applied:
            return True
        return self.first_entry is None and moves_nothing(self.code, self.amount, self.detail)


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcome of the command itself, or the stored one of its reference (``duplicate``)."""

    outcome: Outcome
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """Reference that already names another operation; ``field`` is the first field that differs.

    Where ``field`` is ``attempt``, the attempt is too far above the stored one: ``stored`` says the most.
    """

    field: str
    stored: str
    received: str


Answer = Decided | Conflict
