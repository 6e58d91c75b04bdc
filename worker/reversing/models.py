"""Views of runs that reverse charges: asked for, stored, and counted by results."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from worker.ledger.queries.views import View


class ReverseState(StrEnum):
    """State of a run: it goes on until each of its charges has a result."""

    OPEN = "open"
    FINISHED = "finished"


class ChargeState(StrEnum):
    """State of a charge in a run."""

    WAITING = "waiting"
    SENT = "sent"  #: its refund was published, or may have been
    REVERSED = "reversed"
    REST_REVERSED = "rest_reversed"  #: part of it had been given back before
    GIVEN_BACK_BEFORE = "given_back_before"  #: nothing was left, or another run was faster
    REFUSED = "refused"  #: the ledger has rejected the refund
    DEAD_LETTER = "dead_letter"  #: the refund has become a dead letter
    CANCELLED = "cancelled"  #: before it was sent

    @property
    def is_open(self) -> bool:
        """True while there is no result."""
        return self in (ChargeState.WAITING, ChargeState.SENT)


#: Results with which a charge was not reversed, and still is one.
NOT_REVERSED = (ChargeState.REFUSED, ChargeState.DEAD_LETTER, ChargeState.CANCELLED)


@dataclass(frozen=True)
class ReverseRequest(View):
    """A run as it is asked for. ``source`` says which charges were meant; ``rate`` is refunds a second."""

    reason: str
    actor: str
    source: str
    rate: float | None = None


@dataclass(frozen=True)
class ReverseRun(View):
    """A stored run; ``counts`` are its charges by state. Tokens are those that went back."""

    number: int
    at: datetime
    actor: str
    reason: str
    source: str
    rate: float | None
    state: ReverseState
    state_reason: str | None
    ended_at: datetime | None
    total: int
    counts: Mapping[str, int]
    tokens: int

    @property
    def open(self) -> int:
        """Number of charges without a result."""
        return sum(self.counts.get(state.value, 0) for state in ChargeState if state.is_open)

    @property
    def not_reversed(self) -> int:
        """Number of charges that ended without being reversed."""
        return sum(self.counts.get(state.value, 0) for state in NOT_REVERSED)

    @property
    def is_done(self) -> bool:
        """True where every charge is reversed, by this run or before."""
        return self.state is ReverseState.FINISHED and not self.not_reversed


@dataclass(frozen=True)
class ReverseItem(View):
    """One charge of a run. ``refund`` is the reference of its refund; None where none was sent.

    ``tokens`` and ``free_quantity`` went back, or are asked for while there is no result; None before.
    """

    reference_id: str
    user_id: str
    state: ChargeState
    detail: str | None
    refund: str | None
    tokens: int | None
    free_quantity: int | None
    sent_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class ReverseItemPage(View):
    """A page of a run's charges, and the cursor behind it; None at the end."""

    items: tuple[ReverseItem, ...]
    next: str | None


@dataclass(frozen=True)
class ReverseRunPage(View):
    """A page of runs, newest first, and the cursor behind it; None at the end."""

    runs: tuple[ReverseRun, ...]
    next: int | None
