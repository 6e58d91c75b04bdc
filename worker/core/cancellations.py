"""Cancellations that come late: of one and of what takes the subscription up, the later one counts.

Each says when it occurred; one that doesn't has no place in that order, and is taken as it comes.
"""

import json
from collections.abc import Iterable

from schemas import CancelSubscription, ChangeSubscription, RenewSubscription, type_of
from worker.core.known import TakenUp
from worker.core.outcomes import Outcome

#: Types of the commands that take a subscription up.
TAKING_UP = (type_of(ChangeSubscription), type_of(RenewSubscription))


def taken_up_by(outcome: Outcome) -> TakenUp | None:
    """Return when an operation took the subscription up; None where it did not, or doesn't say when."""
    if outcome.type not in TAKING_UP or not outcome.is_applied or outcome.occurred_at is None:
        return None
    is_scheduled = json.loads(outcome.content).get("effectiveAt") == "period_end"
    return TakenUp(outcome.occurred_at, is_scheduled)


def is_late(command: CancelSubscription, taken_up: Iterable[TakenUp]) -> bool:
    """Return True for a cancellation before what took the subscription up; of two at one time it goes on.

    Another tier for the next period takes back an end with this one, and no end at once.
    """
    at = command.occurred_at
    if at is None:
        return False
    return any(one.at >= at and (command.at == "period_end" or not one.is_scheduled) for one in taken_up)
