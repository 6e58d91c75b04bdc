"""Operators' control of the lanes: pause, quiesce and resume, each with its entry in the activity log.

What they ask for is kept in the database. Workers read it about once a second, and before they take anything.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from schemas import MESSAGE_TYPES
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.deadletters.store import activity_log
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    LedgerUnavailableError,
    QueryError,
    TransientError,
)
from worker.ledger.engine import translated_errors
from worker.ledger.operator_pauses import OperatorPause, PauseKind, begin_pause, end_pauses
from worker.ledger.pauses import Pause
from worker.status import lane_name

#: Lanes of work by the names that operators type.
LANES = {lane_name(queue.name): queue.name for queue in BILLING.work}


@dataclass(frozen=True, slots=True)
class Resumed:
    """Pauses that an operator has ended: those of operators, and those that workers began by themselves."""

    by_operators: Sequence[OperatorPause]
    by_workers: Sequence[Pause]

    @property
    def is_empty(self) -> bool:
        """True where nothing was paused."""
        return not self.by_operators and not self.by_workers


def queue_of_lane(name: str) -> str:
    """Return the queue of a lane that is named by itself or by its queue. Raises QueryError."""
    queue = LANES.get(lane_name(name))
    if queue is None:
        raise QueryError(f"there is no lane {name[:60]!r}: one of {', '.join(LANES)}")
    return queue


def pause_lanes(
    application: Application,
    lane: str | None,
    type_: str | None,
    kind: PauseKind,
    *,
    reason: str | None,
    actor: str,
) -> Sequence[OperatorPause]:
    """Pause a lane, all lanes or a type, for a reason; return the pauses that are new.

    Raises QueryError, NotPossibleError without a reason, and LedgerUnavailableError: nothing is paused then.
    ConfigurationError where the broker has no queue to hold messages of a type.
    """
    queues = _queues(lane, type_)
    why = activity_log.reason_given(reason)
    if type_ is not None:
        _require_held_queue(application)
    now = application.clock()
    try:
        with translated_errors(), application.engine.begin() as connection:
            begun = [
                begin_pause(connection, queue, type_, kind, reason=why, actor=actor, now=now)
                for queue in queues
            ]
            for pause in (found := [pause for pause in begun if pause is not None]):
                detail = {"type": type_} if type_ else None
                activity_log.write(connection, now, actor, f"lane.{kind}", pause.queue, why, detail)
    except LedgerUnavailableError as error:
        raise _nothing_changed(error, "paused") from error
    return found


def resume_lanes(
    application: Application, lane: str | None, type_: str | None, *, actor: str, reason: str | None = None
) -> Resumed:
    """End the pauses of a lane (None: all), or of one type.

    Without a type those that workers began end as well, and what they suspected is taken as right. Raises
    QueryError, and LedgerUnavailableError: nothing is resumed then.
    """
    queue = None if lane is None else queue_of_lane(lane)
    _queues(lane, type_)
    now = application.clock()
    try:
        with translated_errors(), application.engine.begin() as connection:
            ended = end_pauses(connection, queue, type_, actor=actor, now=now)
            for pause in ended:
                detail = {"type": pause.type} if pause.type else None
                activity_log.write(connection, now, actor, "lane.resume", pause.queue, reason, detail)
        by_workers = application.pauses.resume(queue, actor, now) if type_ is None else []
        for queue_name in sorted({pause.queue for pause in by_workers}):
            causes = sorted({pause.code for pause in by_workers if pause.queue == queue_name})
            detail = {"cause": ", ".join(causes)}
            application.service().record(actor, "lane.resume", queue_name, reason, detail)
    except LedgerUnavailableError as error:
        raise _nothing_changed(error, "resumed") from error
    return Resumed(ended, by_workers)


def _queues(lane: str | None, type_: str | None) -> Sequence[str]:
    """Return the queues of a lane, or of all that take a type. Raises QueryError."""
    queues = list(LANES.values()) if lane is None else [queue_of_lane(lane)]
    if type_ is None:
        return queues
    if type_ not in MESSAGE_TYPES:
        raise QueryError(f"there is no type {type_[:60]!r}: types are such as usage.deduct, see the contract")
    taking = [queue.name for queue in BILLING.work if queue.takes(type_) and queue.name in queues]
    if not taking:
        raise QueryError(f"{lane} takes no {type_}: leave the lane out")
    return taking


def _require_held_queue(application: Application) -> None:
    """Raise ConfigurationError where there is no queue to hold messages in; an outage hides it."""
    try:
        with closing(application.link()) as link:
            link.depth(BILLING.held.name)
    except BrokerUnavailableError as error:
        if "NOT_FOUND" in str(error):
            raise ConfigurationError(
                f"the broker has no queue {BILLING.held.name} for messages of a paused type: run "
                "`billing-worker topology declare`, or pause the whole lane"
            ) from error


def _nothing_changed(error: TransientError, done: str) -> LedgerUnavailableError:
    return LedgerUnavailableError(
        f"{error}; nothing is {done}: pauses are kept in the database, and workers take nothing new while it "
        "is away"
    )
