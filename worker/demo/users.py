"""Users of a demo day: who runs out of tokens, who has a case of its own, who pays."""

import random
from collections.abc import Sequence
from itertools import accumulate

from worker.catalog import Catalog
from worker.demo.scenario import zipf_weights

_CASE_USERS = 3  # users a round that one case alone may touch
_FIRST = ("ada", "ben", "chidi", "dana", "emre", "fatima", "goran", "hana", "ines", "jonas", "kofi", "lena")
_LAST = ("adeyemi", "berg", "costa", "demir", "eriksen", "fischer", "garcia", "haddad", "ito", "jansen")


class DemoUsers:
    """Users by role: ``short_of_tokens``, ``case_users`` and ``payers``; ``tiers`` has each user's tier."""

    def __init__(self, rng: random.Random, catalog: Catalog, count: int, rounds: int, suffix: str) -> None:
        self._rng = rng
        self.tier_names = sorted(catalog.tiers, key=lambda name: catalog.tiers[name].monthly_tokens)
        users = [name + suffix for name in _names(count)]
        short, cases = max(3, count // 10), _CASE_USERS * rounds
        self.short_of_tokens, rest = users[:short], users[short:]
        self.case_users, self.payers = rest[:cases], rest[cases:]
        self._weights = list(accumulate(zipf_weights(count - cases, 0.6)))
        self.tiers = dict(zip(users, self._tiers(rounds), strict=True))

    def anyone(self) -> str:
        """Return a random user without a case of its own; few users come often."""
        (place,) = self._rng.choices(range(len(self._weights)), cum_weights=self._weights)
        short = len(self.short_of_tokens)
        return self.short_of_tokens[place] if place < short else self.payers[place - short]

    def payer(self) -> str:
        """Return a random user who keeps enough tokens and has no case of its own."""
        return self._rng.choice(self.payers)

    def _tiers(self, rounds: int) -> Sequence[str]:
        """Return a tier for each user; every tier occurs, and small ones occur more often."""
        names = self.tier_names
        weights = [2.0**-rank for rank in range(len(names))]
        others = self._rng.choices(names, weights, k=len(self.payers) - len(names))
        return [
            *[names[0]] * len(self.short_of_tokens),
            *[names[0], names[1], names[1]] * rounds,
            *names,
            *others,
        ]


def _names(count: int) -> Sequence[str]:
    names = [f"{first}.{last}" for last in _LAST for first in _FIRST]
    return [*names, *(f"user.{number:04}" for number in range(count - len(names)))][:count]
