"""Amounts of a payment in minor units: gross, and its parts as far as they add up."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Amounts:
    """Gross amount and its parts: ``gross = list − discount + tax + other``; None is unknown."""

    gross: int
    list_: int | None = None
    tax: int | None = None
    discount: int | None = None
    other: int | None = None

    @classmethod
    def of(cls, gross: int, *, list_: int | None, discount: int, tax: int, other: int) -> Self:
        """Return the parts where they come to ``gross``; tax that the list price holds is no part beside it.

        Parts that do not add up are left out: a wrong part is worse than none.
        """
        if list_ is None:
            return cls(gross)
        if list_ - discount + tax + other == gross:
            return cls(gross, list_, tax or None, discount or None, other or None)
        if list_ - discount + other == gross:
            return cls(gross, list_, None, discount or None, other or None)
        return cls(gross)
