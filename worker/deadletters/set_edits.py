"""Edits of many dead letters of one cause: previewed, judged for all of them, applied as one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Engine

from worker.catalog import Catalog
from worker.deadletters.body_check import Receive, problem_with
from worker.deadletters.body_fields import BodyChanges, NotApplicableError
from worker.deadletters.fingerprints import field_path
from worker.deadletters.models import (
    DeadLetterForecast,
    DeadLetterStatus,
    DryRun,
    EditSample,
    SetEdit,
    SetEditPreview,
    StoredDeadLetter,
)
from worker.deadletters.replay.dry_run import DryRunRules, dry_run
from worker.deadletters.store import queries
from worker.deadletters.store.filters import DeadLetterSelection, described
from worker.deadletters.store.set_edits import EditTally, SetEditRequest, edit_set, numbers_of
from worker.errors import RefusedBodyError
from worker.ledger.queries import snapshot
from worker.runtime.stop import StopRequest

#: Samples with a diff: one of each expected result, and others up to the smaller number.
SAMPLES_MAX, _SAMPLES_OF_ONE = 5, 3

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class BodyJudge:
    """Judgement of a new body by the worker's own rules; without them every body is taken."""

    receive: Receive | None
    now: datetime
    sent_as: str | None

    def problem(self, dead_letter: StoredDeadLetter, body: bytes) -> RefusedBodyError | None:
        """Return the error with which a worker would refuse the body."""
        return problem_with(dead_letter, body, self.receive, self.now, self.sent_as)


def preview(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    changes: BodyChanges,
    rules: DryRunRules,
    on_progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> SetEditPreview:
    """Judge every changed body on today's ledger, and show samples; nothing is written.

    Raises NotFoundError.
    """
    tally = EditTally()
    numbers = numbers_of(engine, dead_letters)

    def changed(dead_letter: StoredDeadLetter) -> StoredDeadLetter | None:
        if dead_letter.status != DeadLetterStatus.PARKED:
            tally.skipped += 1
            return None
        body = _changed(dead_letter, changes, tally)
        return None if body is None else replace(dead_letter, edited_body=body)

    judged = dry_run(engine, now, numbers, rules, on_progress, stop, changed)
    samples = _samples(engine, judged, changes)
    return SetEditPreview(len(numbers), tally.unchanged, tally.skipped, tally.unedited, judged, samples)


def _changed(dead_letter: StoredDeadLetter, changes: BodyChanges, tally: EditTally) -> bytes | None:
    """Return the changed body; None, and counted, where the dead letter stays as it is."""
    try:
        body = changes.made_in(dead_letter.current_body)
    except NotApplicableError as error:
        tally.count_unedited(str(error), dead_letter.number)
        return None
    if body is None:
        tally.unchanged += 1
    return body


def _samples(engine: Engine, judged: DryRun, changes: BodyChanges) -> tuple[EditSample, ...]:
    forecasts = {forecast.number: forecast for forecast in judged.dead_letters}
    chosen = [forecast.sample for forecast in judged.forecasts if forecast.sample in forecasts][:SAMPLES_MAX]
    others = [number for number in forecasts if number not in chosen]
    chosen += others[: max(_SAMPLES_OF_ONE - len(chosen), 0)]
    samples = []
    for number in chosen:
        with snapshot(engine) as connection:
            body = queries.dead_letter(connection, number).current_body
        samples.append(_sample(forecasts[number], body, changes))
    return tuple(sample for sample in samples if sample is not None)


def _sample(forecast: DeadLetterForecast, body: bytes, changes: BodyChanges) -> EditSample | None:
    """Return the sample; None where somebody has edited the dead letter meanwhile, to no purpose."""
    try:
        after = changes.made_in(body)
    except NotApplicableError:
        return None
    return None if after is None else EditSample(forecast, body, after)


def apply(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    changes: BodyChanges,
    reason: str,
    actor: str,
    judge: BodyJudge,
    catalog: Catalog | None,
    *,
    unchecked: bool,
    on_progress: Progress | None = None,
) -> SetEdit:
    """Edit the parked dead letters whose changed body a worker would take, or all if ``unchecked``.

    Raises NotFoundError before any is edited; NotPossibleError without an actor or a reason.
    """

    def edited(dead_letter: StoredDeadLetter, tally: EditTally) -> bytes | None:
        body = _changed(dead_letter, changes, tally)
        if body is None or unchecked:
            return body
        problem = judge.problem(dead_letter, body)
        if problem is None:
            return body
        tally.count_unedited(_refusal(problem), dead_letter.number)
        return None

    request = SetEditRequest(described(dead_letters), changes.to_dict(), reason, actor)
    return edit_set(engine, now, dead_letters, request, edited, catalog, on_progress)


def _refusal(problem: RefusedBodyError) -> str:
    place = field_path(problem.code, problem.field)
    return f"a worker would still refuse it: {problem.code}" + (f" at {place}" if place else "")
