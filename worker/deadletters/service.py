"""The dead letters as consoles and commands see them: the only door to them.

A dead letter is acknowledged in its queue only after its row is committed, so that reading and acting need
the database alone. A replay goes through the queue, to the exchange and key of its type, so that
everything the ledger knows of its reference holds. Times are aware and in UTC; None is "unknown".
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from worker.broker import Consumes, Delivery
from worker.catalog import Catalog
from worker.deadletters import actions, applied, set_edits
from worker.deadletters.applied import AppliedLook
from worker.deadletters.body_check import Receive, problem_with
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.explain import ReferenceExplanation, explain
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.models import (
    ActivityPage,
    Counts,
    DeadLetterDetails,
    DeadLetterGroup,
    DeadLetterPage,
    DeadLetterStatus,
    Done,
    DryRun,
    GroupDrift,
    GroupOrder,
    GroupPage,
    GroupParts,
    Imported,
    Replay,
    ReplayItemPage,
    ReplayLook,
    ReplayPage,
    SetEdit,
    SetEditPreview,
    StoredDeadLetter,
)
from worker.deadletters.replay import abandoned, items
from worker.deadletters.replay import store as replays
from worker.deadletters.replay.dry_run import DryRunRules, dry_run
from worker.deadletters.replay.ledger_check import conflicts_in, ledger_lines, past_deadline_in
from worker.deadletters.store import activity_log, edits, export, group_parts, groups, history, queries
from worker.deadletters.store.edits import BodyChange
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.deadletters.store.ingest import drained_from, ingest
from worker.deadletters.store.set_edits import undo_set_edit
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.errors import NotPossibleError, RefusedBodyError
from worker.ledger.probing import require_writes_beside
from worker.ledger.queries import snapshot
from worker.runtime.stop import StopRequest

_REFERENCES_SHOWN, _CONFLICTS_SHOWN = 100, 10


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DeadLetters:
    """Dead letters in the ledger's database. Numbers are those that ``list`` shows.

    ``receive`` is the worker's own judgement of a delivery, ``catalog`` holds what is for sale: without them
    nothing is judged, and the tokens of payments are unknown. ``sent_as`` is the broker user that would send
    a dead letter again; drained ones are believed where one of ``worker_users`` published them. Cheap to
    make, and shared by threads: each call is a transaction of its own. Every method raises
    LedgerUnavailableError.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        catalog: Catalog | None = None,
        receive: Receive | None = None,
        clock: Callable[[], datetime] = _utc_now,
        sent_as: str | None = None,
        worker_users: Collection[str | None] = (),
    ) -> None:
        self._engine, self._catalog, self._receive = engine, catalog, receive
        self._clock, self._sent_as, self._worker_users = clock, sent_as, worker_users

    # -- draining -----------------------------------------------------------------------------------------

    def use(self, catalog: Catalog, receive: Receive) -> None:
        """Judge by another catalog, and by the rules that know its ids."""
        self._catalog, self._receive = catalog, receive

    def probe(self) -> None:
        """Raise LedgerUnavailableError unless the database takes writes; to be called before a drain."""
        require_writes_beside(self._engine)

    def drain(
        self,
        link: Consumes,
        *,
        expected: int = 0,
        wait_s: float = 0.2,
        on_outage: Callable[[Exception], None] | None = None,
    ) -> int:
        """Drain the dead-letter queue that ``link`` consumes, then ``tidy``; returns how many were drained.

        Waits ``wait_s`` for one more, and some seconds as long as fewer than ``expected`` have come. With
        ``on_outage``, which is called once, an outage of the database is waited out. Raises NotKeptError for
        dead letters that can't be stored, and BrokerUnavailableError.
        """
        drained = self.link_drainer(link).drain_all(expected=expected, wait_s=wait_s, on_outage=on_outage)
        self.tidy()
        return drained

    def link_drainer(self, link: Consumes) -> LinkDrainer:
        """Return a drainer of the queue that ``link`` consumes, for a loop."""
        return LinkDrainer(link, self._ingest)

    def tidy(self) -> int:
        """End the items of replays that nobody runs, where the ledger shows an outcome; returns how many."""
        return abandoned.end_shown(self._engine, self._clock())

    def mark_applied(self, after: int = 0) -> AppliedLook:
        """Look at some parked dead letters behind a number; resolve, with a mark, those applied meanwhile."""
        return applied.mark_some(self._engine, self._clock(), after)

    def _ingest(self, deliveries: Sequence[Delivery]) -> None:
        drained = [drained_from(delivery, self._catalog, self._worker_users) for delivery in deliveries]
        ingest(self._engine, self._clock(), drained)

    # -- reading ------------------------------------------------------------------------------------------

    def groups(
        self,
        *,
        waiting_only: bool = True,
        order: GroupOrder = "last",
        limit: int = 50,
        after: str | None = None,
    ) -> GroupPage:
        """Return up to ``limit`` (1 to 1,000) groups of dead letters that failed in the same way.

        ``after`` is the ``next`` of the page before. Raises QueryError.
        """
        with snapshot(self._engine) as connection:
            return groups.page(connection, waiting_only=waiting_only, order=order, limit=limit, after=after)

    def group(self, fingerprint: str) -> DeadLetterGroup:
        """Return one group, by the first four or more digits of its fingerprint.

        Raises NotFoundError; QueryError for fewer digits, or where several groups begin so.
        """
        with snapshot(self._engine) as connection:
            return groups.group(connection, fingerprint)

    def group_parts(self, fingerprint: str) -> GroupParts:
        """Return a group's dead letters by sender, worker version and message. Raises as ``group`` does."""
        with snapshot(self._engine) as connection:
            return group_parts.parts(connection, fingerprint)

    def drifts(self) -> list[GroupDrift]:
        """Return the groups that differ from their dead letters; there should never be any."""
        with snapshot(self._engine) as connection:
            return groups.drifts(connection)

    def counts(self) -> Counts:
        """Return the counts of all dead letters."""
        with snapshot(self._engine) as connection:
            return groups.counts(connection)

    def page(
        self, filter_: DeadLetterFilter | None = None, *, limit: int = 50, before: int | None = None
    ) -> DeadLetterPage:
        """Return up to ``limit`` (1 to 1,000) dead letters with numbers ``before`` one, newest first.

        Raises QueryError; NotFoundError for a group that doesn't exist.
        """
        with snapshot(self._engine) as connection:
            return queries.page(connection, filter_ or DeadLetterFilter(), limit, before)

    def every_dead_letter(self, filter_: DeadLetterFilter) -> Iterator[StoredDeadLetter]:
        """Yield all dead letters that match, whole, newest first, read while the caller iterates.

        Raises QueryError; NotFoundError for a group that doesn't exist.
        """
        with snapshot(self._engine) as connection:
            yield from queries.every_dead_letter(connection, filter_)

    def dead_letter(self, number: int) -> StoredDeadLetter:
        """Return one dead letter. Raises NotFoundError."""
        with snapshot(self._engine) as connection:
            return queries.dead_letter(connection, number)

    def details(self, number: int) -> DeadLetterDetails:
        """Return one dead letter with its history and the ledger's outcomes. Raises NotFoundError."""
        now = self._clock()
        with snapshot(self._engine) as connection:
            dead_letter = queries.dead_letter(connection, number)
            return DeadLetterDetails(
                dead_letter=dead_letter,
                events=history.events(connection, number),
                edits=history.edits(connection, number),
                ledger=ledger_lines(connection, dead_letter, now, _REFERENCES_SHOWN),
                problem=self._problem(dead_letter, dead_letter.current_body),
                past_deadline=past_deadline_in(dead_letter, now),
                is_applied=dead_letter.status == DeadLetterStatus.PARKED
                and applied.is_applied(connection, dead_letter, now),
                conflicts=conflicts_in(connection, dead_letter, now, _CONFLICTS_SHOWN),
            )

    def explain(self, reference_id: str, now: datetime | None = None) -> ReferenceExplanation:
        """Return all that the ledger and the dead letters know of a reference; ``now`` defaults to the clock.

        Raises NotFoundError where nothing is known; QueryError; NotPossibleError without a catalog.
        """
        return explain(self._engine, reference_id, now or self._clock(), self._known_catalog())

    def activity_log(
        self,
        *,
        limit: int = 50,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> ActivityPage:
        """Return up to ``limit`` (1 to 1,000) entries of the activity log, newest first.

        Raises QueryError.
        """
        equal = {"actor": actor, "action": action, "subject": subject}
        with snapshot(self._engine) as connection:
            return activity_log.page(connection, limit, before, equal)

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write another action of an operator into the activity log: a sign-in, say.

        Raises NotPossibleError for an actor that is empty or too long, as all actions do.
        """
        _record(self._engine, self._clock(), actor, action, subject, reason, detail)

    # -- acting -------------------------------------------------------------------------------------------

    def note(self, number: int, text: str, actor: str) -> None:
        """Write a note of 1 to 4,000 characters on a dead letter. Raises NotFoundError, NotPossibleError."""
        actions.note(self._engine, self._clock(), number, text, actor)

    def discard(self, dead_letters: DeadLetterSelection, reason: str, actor: str) -> Done:
        """Discard parked dead letters, for a reason; others are skipped.

        Raises NotFoundError before any is discarded; NotPossibleError without a reason.
        """
        return actions.discard(self._engine, self._clock(), dead_letters, reason, actor)

    def restore(self, dead_letters: DeadLetterSelection, reason: str | None, actor: str) -> Done:
        """Restore discarded dead letters, and those under way in a replay without a runner; skip others.

        One of the latter whose outcome the ledger shows is resolved, and skipped. Raises NotFoundError before
        any is restored.
        """
        return actions.restore(self._engine, self._clock(), dead_letters, reason, actor)

    def resolve_applied(
        self,
        dead_letters: DeadLetterSelection,
        reason: str,
        actor: str,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> Done:
        """Resolve those that the ledger has applied with the same content; skip others.

        Of a filter the parked ones are looked at, and those found before. Raises NotFoundError;
        NotPossibleError without a reason.
        """
        return applied.resolve(self._engine, self._clock(), dead_letters, reason, actor, on_progress)

    def undo_discard(self, entries: Sequence[int], actor: str) -> Done:
        """Restore the dead letters that these entries of the activity log discarded (``Done.entries``).

        Raises NotFoundError where an entry is no discard.
        """
        return actions.undo_discard(self._engine, self._clock(), entries, actor)

    def edit(
        self,
        number: int,
        body: bytes,
        reason: str,
        actor: str,
        *,
        instead_of: bytes,
        unchecked: bool = False,
    ) -> StoredDeadLetter:
        """Set the body that a replay sends; ``instead_of`` is the current one, as the operator saw it.

        Raises NotFoundError; RefusedBodyError, which names the field and the way out, unless ``unchecked``;
        NotPossibleError where the dead letter is not parked or was edited meanwhile.
        """
        if not unchecked and (problem := self.problem_with(number, body)) is not None:
            raise problem
        change = BodyChange(body, instead_of, reason, actor)
        edits.edit(self._engine, self._clock(), number, change, self._catalog)
        return self.dead_letter(number)

    def preview_set_edit(
        self,
        dead_letters: DeadLetterSelection,
        changes: BodyChanges,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
        stop: StopRequest | None = None,
    ) -> SetEditPreview:
        """Judge every changed body on today's ledger, with samples; nothing is sent or written.

        Of a filter the parked ones. Raises NotFoundError; NotPossibleError as ``dry_run`` does.
        """
        rules = self._dry_run_rules()
        return set_edits.preview(self._engine, self._clock(), dead_letters, changes, rules, on_progress, stop)

    def edit_set(
        self,
        dead_letters: DeadLetterSelection,
        changes: BodyChanges,
        reason: str,
        actor: str,
        *,
        unchecked: bool = False,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> SetEdit:
        """Edit parked dead letters alike; the originals stay. Returns the number that undoes it.

        A dead letter whose changed body a worker would refuse is left as it is, unless ``unchecked``. Raises
        NotFoundError before any is edited; NotPossibleError without a reason.
        """
        now = self._clock()
        return set_edits.apply(
            self._engine,
            now,
            dead_letters,
            changes,
            reason,
            actor,
            set_edits.BodyJudge(self._receive, now, self._sent_as),
            self._catalog,
            unchecked=unchecked,
            on_progress=on_progress,
        )

    def undo_set_edit(
        self,
        number: int,
        reason: str,
        actor: str,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> SetEdit:
        """Give the dead letters of an edit of a set their bodies back; those edited since are skipped.

        Raises NotFoundError.
        """
        return undo_set_edit(self._engine, self._clock(), number, reason, actor, self._catalog, on_progress)

    def problem_with(self, number: int, body: bytes) -> RefusedBodyError | None:
        """Return the error with which a worker would refuse this body; None where it would accept it.

        Raises NotFoundError.
        """
        return self._problem(self.dead_letter(number), body)

    def _problem(self, dead_letter: StoredDeadLetter, body: bytes) -> RefusedBodyError | None:
        return problem_with(dead_letter, body, self._receive, self._clock(), self._sent_as)

    def export(self, dead_letters: DeadLetterSelection, actor: str) -> Iterator[str]:
        """Yield the dead letters as lines of JSON, without line ends, newest first.

        Raises NotFoundError before the first line.
        """
        return export.export(self._engine, self._clock(), dead_letters, actor)

    def import_lines(self, lines: Iterable[str], actor: str) -> Imported:
        """Add the dead letters of exported lines that are not here yet.

        Raises BadLineError for the first line that is no dead letter; the lines before it are in.
        """
        return export.import_lines(self._engine, self._clock(), lines, actor, self._catalog)

    # -- replays ------------------------------------------------------------------------------------------

    def dry_run(
        self,
        dead_letters: DeadLetterSelection,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
        stop: StopRequest | None = None,
    ) -> DryRun:
        """Judge dead letters against today's ledger; nothing is sent or written.

        ``on_progress`` gets the number judged, and the total. Raises NotFoundError;
        NotPossibleError without a catalog or the worker's rules.
        """
        rules = self._dry_run_rules()
        return dry_run(self._engine, self._clock(), dead_letters, rules, on_progress, stop)

    def _dry_run_rules(self) -> DryRunRules:
        if self._receive is None:
            raise NotPossibleError("a dry run needs the worker's rules for deliveries")
        return DryRunRules(self._receive, self._known_catalog(), self._sent_as)

    def _known_catalog(self) -> Catalog:
        if self._catalog is None:
            raise NotPossibleError("this needs the catalog of what is for sale")
        return self._catalog

    def create_replay(
        self,
        dead_letters: DeadLetterSelection,
        reason: str,
        actor: str,
        *,
        rate: float | None = None,
        steps: Sequence[int] = (),
        stop_on: Sequence[str] = (),
    ) -> Replay:
        """Freeze the dead letters and store the replay, for a runner.

        ``rate`` is in dead letters a second (up to 100,000), ``steps`` are the sizes of the first steps (up
        to 20), and the rest is the last one. ``stop_on`` are limits, such as ``rejected=2%``.
        Raises NotFoundError, QueryError, NotPossibleError.
        """
        request = replays.ReplayRequest(reason, actor, rate, tuple(steps), tuple(stop_on))
        return self.replay(replays.create(self._engine, self._clock(), dead_letters, request))

    def replay(self, replay_id: int) -> Replay:
        """Return one replay in its present state. Raises NotFoundError.

        Items that were sent and that nobody watches any more count as sent until the next ``tidy``.
        """
        return replays.get(self._engine, replay_id)

    def replays(self, *, limit: int = 50, before: int | None = None) -> ReplayPage:
        """Return up to ``limit`` (1 to 1,000) replays, newest first. Raises QueryError."""
        return replays.page(self._engine, limit, before)

    def replay_items(
        self, replay_id: int, *, states: Sequence[str] = (), limit: int = 100, after: int = 0
    ) -> ReplayItemPage:
        """Return up to ``limit`` (1 to 1,000) of a replay's items behind the position ``after``, in order.

        Raises NotFoundError, QueryError.
        """
        with snapshot(self._engine) as connection:
            replays.read(connection, replay_id)
            return items.page(connection, replay_id, states, limit, after)

    def look_at_replay(
        self, replay_id: int, *, states: Sequence[str] = (), limit: int = 100, after: int = 0
    ) -> ReplayLook:
        """Return a replay, a page of its items and the tokens rejected, all as of one moment.

        Raises NotFoundError, QueryError.
        """
        with snapshot(self._engine) as connection:
            return ReplayLook(
                replay=replays.read(connection, replay_id),
                items=items.page(connection, replay_id, states, limit, after),
                rejected=items.rejected_tokens(connection, replay_id),
            )

    def pause_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """Pause a running replay, in whichever process. Raises NotFoundError, NotPossibleError."""
        replays.pause(self._engine, self._clock(), replay_id, actor, reason)
        return self.replay(replay_id)

    def cancel_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """End a replay: unsent dead letters stay parked. Raises NotFoundError, NotPossibleError."""
        replays.cancel(self._engine, self._clock(), replay_id, actor, reason)
        return self.replay(replay_id)


@in_transaction
def _record(
    transaction: DeadLetterTransaction,
    actor: str,
    action: str,
    subject: str,
    reason: str | None,
    detail: Mapping[str, Any] | None,
) -> None:
    transaction.record(actor, action, subject, reason, detail)
