"""Outcomes that lost their reference: to a higher attempt, or to a command of another kind."""

from dataclasses import dataclass, field
from typing import Protocol

from schemas import COMMAND_TYPES, NO_USER, CommandAboutPayment, FreezingCommand
from worker.core.outcomes import Outcome

#: Most that a command's attempt may be above the stored one; above 0 where nothing is stored.
ATTEMPTS_AHEAD_MAX = 1_000

#: Beginnings of types: usage, and what takes a reference from usage that moved nothing.
USAGE = "usage."
TAKES_FROM_USAGE = ("payment.", "credit.", "subscription.", "account.")


def is_usage(type_: str) -> bool:
    """Return whether commands of this type are usage."""
    return type_.startswith(USAGE)


def takes_from_usage(type_: str) -> bool:
    """Return whether commands of this type may take a reference from usage."""
    return type_.startswith(TAKES_FROM_USAGE)


def may_supersede(type_: str, stored: Outcome) -> bool:
    """Return whether a command of ``type_``, of any user, takes the reference from the outcome ``stored``.

    Usage can be sent by many; a usage that moved nothing must not keep a payment out of its own reference.
    """
    return is_usage(stored.type) and takes_from_usage(type_) and stored.moved_nothing


class Attempted(Protocol):
    """Attempt at a reference: a command or an outcome."""

    @property
    def reference_id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def user_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...


#: Reference, type and user: whose an operation is.
Owner = tuple[str, str, str]

#: Types about a payment: it knows whose it is, so that the user is no part of what they are.
ABOUT_PAYMENTS = frozenset(
    type_
    for type_, model in COMMAND_TYPES.items()
    if issubclass(model, CommandAboutPayment | FreezingCommand)
)


def owner_of(one: Attempted) -> Owner:
    """Return the reference, the type and the user of ``one``; no user where a payment knows it."""
    return one.reference_id, one.type, NO_USER if one.type in ABOUT_PAYMENTS else one.user_id


@dataclass(slots=True)
class Superseded:
    """Outcomes that another outcome of their reference replaced.

    ``attempts`` has the rejections that a higher attempt replaced, by owner and attempt. ``lost`` has the
    latest outcome of each owner whose reference a command of another type or user took.
    """

    attempts: dict[tuple[Owner, int], Outcome] = field(default_factory=dict)
    lost: dict[Owner, Outcome] = field(default_factory=dict)

    def add_attempt(self, replaced: Outcome) -> None:
        """Add an outcome that a higher attempt replaced."""
        self.attempts[owner_of(replaced), replaced.attempt] = replaced

    def add_lost(self, taken: Outcome) -> None:
        """Add an outcome whose reference was taken."""
        self.lost[owner_of(taken)] = taken

    def attempt_of(self, one: Attempted) -> Outcome | None:
        """Return the outcome of this very attempt."""
        return self.attempts.get((owner_of(one), one.attempt))

    def lost_under(self, reference_id: str) -> Outcome | None:
        """Return the outcome that lost this reference; there is one at most."""
        return next((one for one in self.lost.values() if one.reference_id == reference_id), None)

    def lost_by(self, one: Attempted) -> Outcome | None:
        """Return the outcome that ``one`` had before its reference was taken; None where none was taken.

        An attempt that never came has the outcome of the latest one, as it had before.
        """
        last = self.lost.get(owner_of(one))
        if last is None or one.attempt > last.attempt:
            return None
        return self.attempt_of(one) or last
