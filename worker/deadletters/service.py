"""Dead letters drained from their queue into a table, where looking disturbs nothing.

The interface for consoles and commands. A dead letter is acknowledged in the queue only after its row is
committed. A replay goes through the queue, to the exchange and key it first came by, so that everything the
ledger knows of its reference holds.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Engine

from worker.broker import Delivery, Link
from worker.catalog import Catalog
from worker.deadletters.models import (
    AuditPage,
    Counts,
    DeadLetterDetails,
    DeadLetterGroup,
    DeadLetterPage,
    DeadLetterStatus,
    Done,
    DryRun,
    GroupDrift,
    GroupPage,
    Imported,
    Replay,
    ReplayItemPage,
    ReplayPage,
    StoredDeadLetter,
)
from worker.deadletters.replay import dry_run
from worker.deadletters.replay import store as replays
from worker.deadletters.replay.dry_run import Judge
from worker.deadletters.replay.ledger_check import ledger_lines
from worker.deadletters.store import edits as actions
from worker.deadletters.store import export as transfer
from worker.deadletters.store import queries as reading
from worker.deadletters.store.edits import BodyEdit, Receive
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.deadletters.store.ingest import arrival_of, park
from worker.deadletters.store.queries import GroupOrder
from worker.deadletters.store.transaction import DeadLetterTransaction, transact
from worker.errors import (
    BillingError,
    BrokerUnavailableError,
    LedgerUnavailableError,
    NotKeptError,
    NotPossibleError,
    RefusedBodyError,
)
from worker.ledger.queries import snapshot
from worker.ledger.store import Ledger
from worker.runtime.stop import StopRequest

log = logging.getLogger(__name__)

_BATCH = 500
_PATIENCE_S = 5.0
_REFERENCES_SHOWN = 100

ALL = tuple(DeadLetterStatus)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Drain:
    """Takes dead letters from the queue that ``link`` consumes; holds them in an outage of the database.

    ``keep`` puts deliveries into the table and returns those that it could keep.
    """

    def __init__(self, link: Link, keep: Callable[[Sequence[Delivery]], list[Delivery]]) -> None:
        self.link = link
        self._keep = keep
        self._held: Sequence[Delivery] = ()

    def take(self, wait_s: float) -> int:
        """Take a batch of what has come by now; returns how many. Waits up to ``wait_s`` for the first.

        After a LedgerUnavailableError the same batch is held: call again. Raises NotKeptError where none of
        it can be kept.
        """
        self._held = self._held or self.link.receive(_BATCH, wait_s)
        if not self._held:
            return 0
        try:
            kept = self._keep(self._held)
        except NotKeptError:
            self._held = ()  # unacknowledged as long as the link lives
            raise
        self.link.acknowledge(kept)
        self._held = ()
        return len(kept)

    def take_all(
        self,
        *,
        expected: int = 0,
        wait_s: float = 0.2,
        on_outage: Callable[[Exception], None] | None = None,
    ) -> int:
        """Take until no more come; returns how many. Raises NotKeptError.

        Waits ``wait_s`` for one more, and some seconds as long as fewer than ``expected`` have come. With
        ``on_outage``, which is called once, an outage of the database is waited out.
        """
        taken = 0
        while some := self._take_despite_outage(wait_s if taken >= expected else _PATIENCE_S, on_outage):
            taken += some
        return taken

    def _take_despite_outage(self, wait_s: float, on_outage: Callable[[Exception], None] | None) -> int:
        is_told = False
        while True:
            try:
                return self.take(wait_s)
            except LedgerUnavailableError as error:
                if on_outage is None:
                    raise
                if not is_told:
                    on_outage(error)
                is_told = True
                self.link.keep_alive(1.0)

    def close(self) -> None:
        """Close the link; held messages go back to the queue."""
        with suppress(BrokerUnavailableError):
            self.link.close()


class DeadLetters:
    """Dead letters in the ledger's database. Numbers are those that ``list`` shows.

    ``receive`` is the worker's own judgement of a delivery, ``catalog`` holds what is for sale: without them
    nothing is judged, and the tokens of payments are unknown. ``sent_as`` is the broker user that would send
    a dead letter again. Cheap to make, and shared by threads: each call is a transaction of its own. Every
    method raises LedgerUnavailableError.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        catalog: Catalog | None = None,
        receive: Receive | None = None,
        clock: Callable[[], datetime] = _utc_now,
        sent_as: str | None = None,
    ) -> None:
        self._engine, self._catalog, self._receive = engine, catalog, receive
        self._clock, self._sent_as = clock, sent_as

    # -- draining -----------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Raise LedgerUnavailableError unless the database takes writes; to be called before a drain."""
        Ledger(self._engine).probe()

    def drain(self, link: Link) -> "Drain":
        """Return a drain of the queue that ``link`` consumes into the table."""
        return Drain(link, self._keep_what_can_be)

    def park(self, link: Link, *, expected: int = 0, wait_s: float = 0.2) -> int:
        """Drain the dead-letter queue that ``link`` consumes; returns how many dead letters came.

        See ``Drain.take_all``.
        """
        return self.drain(link).take_all(expected=expected, wait_s=wait_s)

    def _keep_what_can_be(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those that are kept now; one that can't be, for an unforeseen reason, blocks no other."""
        try:
            self._keep(deliveries)
        except BillingError:
            raise
        except Exception as fault:
            kept = [delivery for delivery in deliveries if self._is_kept(delivery)] if deliveries[1:] else []
            if not kept:
                raise NotKeptError(
                    f"{len(deliveries)} dead letters can't be kept ({type(fault).__name__}): they stay in "
                    "their queue; this is a fault of this program's, or of its database"
                ) from fault
            return kept
        return list(deliveries)

    def _is_kept(self, delivery: Delivery) -> bool:
        try:
            self._keep([delivery])
        except BillingError:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is this dead letter's alone
            # Its content is the producer's and goes into no log.
            log.error("a dead letter can't be kept (%s): it stays in its queue", type(fault).__name__)  # noqa: TRY400
            return False
        return True

    def _keep(self, deliveries: Sequence[Delivery]) -> None:
        arrivals = [arrival_of(delivery, self._catalog) for delivery in deliveries]
        transact(self._engine, self._clock(), partial(park, arrivals=arrivals))

    # -- looking ------------------------------------------------------------------------------------------

    def groups(
        self,
        *,
        waiting_only: bool = True,
        order: GroupOrder = "last",
        limit: int = 50,
        after: str | None = None,
    ) -> GroupPage:
        """Return a page of groups of dead letters that failed in the same way. Raises QueryError."""
        with snapshot(self._engine) as connection:
            return reading.groups(
                connection, waiting_only=waiting_only, order=order, limit=limit, after=after
            )

    def group(self, fingerprint: str) -> DeadLetterGroup:
        """Return one group, by the beginning of its fingerprint. Raises NotFoundError, QueryError."""
        with snapshot(self._engine) as connection:
            return reading.group(connection, fingerprint)

    def drifts(self) -> list[GroupDrift]:
        """Return the groups that differ from their dead letters; there should never be any."""
        with snapshot(self._engine) as connection:
            return reading.drifts(connection)

    def counts(self) -> Counts:
        """Return the counts of all dead letters."""
        with snapshot(self._engine) as connection:
            return reading.counts(connection)

    def page(
        self, filter_: DeadLetterFilter | None = None, *, limit: int = 50, before: int | None = None
    ) -> DeadLetterPage:
        """Return a page of dead letters, newest first. Raises QueryError."""
        with snapshot(self._engine) as connection:
            return reading.page(connection, filter_ or DeadLetterFilter(), limit, before)

    def every_dead_letter(self, filter_: DeadLetterFilter) -> Iterator[StoredDeadLetter]:
        """Yield all dead letters that match, whole, newest first, read on the way."""
        with snapshot(self._engine) as connection:
            yield from reading.every_dead_letter(connection, filter_)

    def dead_letter(self, number: int) -> StoredDeadLetter:
        """Return one dead letter. Raises NotFoundError."""
        with snapshot(self._engine) as connection:
            return reading.dead_letter(connection, number)

    def details(self, number: int) -> DeadLetterDetails:
        """Return one dead letter with its history and the ledger's outcomes. Raises NotFoundError."""
        now = self._clock()
        with snapshot(self._engine) as connection:
            dead_letter = reading.dead_letter(connection, number)
            return DeadLetterDetails(
                dead_letter=dead_letter,
                events=reading.events(connection, number),
                edits=reading.edits(connection, number),
                ledger=ledger_lines(connection, dead_letter, now, _REFERENCES_SHOWN),
                problem=self._problem(dead_letter, dead_letter.current_body),
            )

    def audit_log(
        self,
        *,
        limit: int = 50,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> AuditPage:
        """Return a page of the activity log, newest first. Raises QueryError."""
        named = (("actor", actor), ("action", action), ("subject", subject))
        with snapshot(self._engine) as connection:
            return reading.audit_entries(connection, limit, before, named)

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        reason: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write another action of an operator into the activity log: a sign-in, say."""

        def work(transaction: DeadLetterTransaction) -> None:
            transaction.record(actor, action, subject, reason, detail)

        transact(self._engine, self._clock(), work)

    # -- acting -------------------------------------------------------------------------------------------

    def note(self, number: int, text: str, actor: str) -> None:
        """Write a note on a dead letter. Raises NotFoundError, NotPossibleError."""
        actions.note(self._engine, number, text, actor, self._clock())

    def discard(self, dead_letters: DeadLetterSelection, reason: str, actor: str) -> Done:
        """Discard parked dead letters, for a reason. Raises NotFoundError before any is discarded."""
        return actions.discard(self._engine, dead_letters, reason, actor, self._clock())

    def restore(self, dead_letters: DeadLetterSelection, reason: str | None, actor: str) -> Done:
        """Restore discarded dead letters. Raises NotFoundError before any is restored."""
        return actions.restore(self._engine, dead_letters, reason, actor, self._clock())

    def undo_discard(self, entries: Sequence[int], actor: str) -> Done:
        """Restore the dead letters that these entries of the activity log discarded (``Done.entries``).

        Raises NotFoundError.
        """
        return actions.undo_discard(self._engine, entries, actor, self._clock())

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
        mended = BodyEdit(body, instead_of, reason, actor)
        return actions.edit(self._engine, number, mended, self._catalog, self._clock())

    def problem_with(self, number: int, body: bytes) -> RefusedBodyError | None:
        """Return the error with which a worker would refuse this body; None where it would accept it."""
        return self._problem(self.dead_letter(number), body)

    def _problem(self, dead_letter: StoredDeadLetter, body: bytes) -> RefusedBodyError | None:
        return actions.problem_with(dead_letter, body, self._receive, self._clock(), self._sent_as)

    def export(self, dead_letters: DeadLetterSelection, actor: str) -> Iterator[str]:
        """Yield the dead letters as lines of JSON. Raises NotFoundError before the first line."""
        return transfer.export(self._engine, dead_letters, actor, self._clock())

    def import_lines(self, lines: Iterable[str], actor: str) -> Imported:
        """Add the dead letters of exported lines that are not here yet. Raises BadLineError."""
        return transfer.import_lines(self._engine, lines, actor, self._catalog, self._clock())

    # -- replays ------------------------------------------------------------------------------------------

    def dry_run(
        self,
        dead_letters: DeadLetterSelection,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
        stop: StopRequest | None = None,
    ) -> DryRun:
        """Judge dead letters against today's ledger; nothing is sent or written. Raises NotFoundError."""
        if self._receive is None or self._catalog is None:
            raise NotPossibleError("this office has no judge: nobody can say what would come of it")
        judge = Judge(self._receive, self._catalog, self._sent_as)
        return dry_run.dry_run(self._engine, dead_letters, judge, self._clock(), on_progress, stop)

    def create_replay(
        self,
        dead_letters: DeadLetterSelection,
        reason: str,
        actor: str,
        *,
        rate: float | None = None,
        steps: Sequence[int] = (),
    ) -> Replay:
        """Freeze the dead letters and store the replay, for a runner. Raises NotFoundError, QueryError."""
        order = replays.ReplayRequest(reason, actor, rate, tuple(steps))
        return replays.create(self._engine, dead_letters, order, self._clock())

    def replay(self, replay_id: int) -> Replay:
        """Return one replay in its present state. Raises NotFoundError."""
        return replays.get(self._engine, replay_id)

    def replays(self, *, limit: int = 50, before: int | None = None) -> ReplayPage:
        """Return a page of replays, newest first."""
        return replays.page(self._engine, limit, before)

    def replay_items(
        self, replay_id: int, *, states: Sequence[str] = (), limit: int = 100, after: int = 0
    ) -> ReplayItemPage:
        """Return a page of a replay's dead letters, in their order. Raises NotFoundError."""
        return replays.items(self._engine, replay_id, states, limit, after)

    def pause_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """Pause a running replay, in whichever process. Raises NotFoundError, NotPossibleError."""
        return replays.pause(self._engine, replay_id, actor, reason, self._clock())

    def cancel_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """End a replay: unsent dead letters stay parked. Raises NotFoundError, NotPossibleError."""
        return replays.cancel(self._engine, replay_id, actor, reason, self._clock())

    def tidy(self) -> int:
        """End the dead letters of replays without a runner, as far as the ledger shows their outcome."""
        return replays.tidy(self._engine, self._clock())
