"""Decisions of the rules, and the context that a rule may read."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from schemas import Code
from worker.catalog import Catalog
from worker.core.known import Known
from worker.core.outcomes import Detail, Outcome


class Decision(NamedTuple):
    """Result of a command: ``amount`` is None where it is refused."""

    code: Code
    amount: int | None
    detail: Detail


def applied(code: Code, amount: int, **detail: int | str) -> Decision:
    """Return the decision on an applied command; ``amount`` is in tokens, or bytes."""
    return Decision(code, amount, detail)


def rejected(code: Code, **detail: int | str) -> Decision:
    """Return the decision on a refused command; the account is not changed."""
    return Decision(code, None, detail)


def short_of(required: int, available: int, code: Code = Code.INSUFFICIENT_BALANCE) -> Decision:
    """Return the decision on a command that is refused for a shortfall."""
    return Decision(
        code, None, {"required": required, "available": available, "shortfall": required - available}
    )


@dataclass(slots=True)
class Context:
    """Everything a rule may read beside the account: the time, the catalog, and what is known.

    ``fresh`` holds the outcomes of this batch so far, by reference.
    """

    known: Known
    fresh: dict[str, Outcome]
    now: datetime
    catalog: Catalog

    def outcome_of(self, reference_id: str) -> Outcome | None:
        """Return the latest outcome of a reference."""
        return self.fresh.get(reference_id) or self.known.outcomes.get(reference_id)
