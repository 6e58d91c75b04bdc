"""Consequences of a change of the contract for those who send messages and those who read them."""

from dataclasses import dataclass
from enum import StrEnum


class Consequence(StrEnum):
    """Consequence of a change, from the mildest."""

    COMPATIBLE = "compatible"  #: in any order
    WORKER_FIRST = "worker first"  #: the worker and its topology before those who send the new messages
    ANNOUNCED = "announced"  #: senders of some odd values fail, on purpose; the changelog says of which
    BREAKING = "breaking"  #: senders or readers of today would fail


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the contract."""

    consequence: Consequence
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.consequence}: {self.place}: {self.text}"
