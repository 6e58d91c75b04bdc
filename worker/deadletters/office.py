"""The dead-letter office: letters drained from their queue into a table, where looking disturbs nothing.

What consoles and commands call. A letter is acknowledged in the queue only after its row is committed; a
replay goes through the front door, to the exchange and key it first came by, so that everything the ledger
knows of its reference holds.
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
from worker.deadletters import actions, dry_run, reading, replays, transfer
from worker.deadletters.actions import Mended, TakenIn
from worker.deadletters.desk import Desk, transact
from worker.deadletters.dry_run import Judge, StopLike
from worker.deadletters.filters import LetterFilter, Letters
from worker.deadletters.outcomes import ledger_lines
from worker.deadletters.parking import arrival_of, park
from worker.deadletters.reading import Order
from worker.deadletters.views import (
    AuditPage,
    Counts,
    Done,
    DryRun,
    Group,
    GroupDrift,
    GroupPage,
    Imported,
    LetterPage,
    NotPossibleError,
    ParkedLetter,
    RefusedBodyError,
    Replay,
    ReplayItemPage,
    ReplayPage,
    Status,
    Story,
)
from worker.errors import BillingError, BrokerUnavailableError, LedgerUnavailableError
from worker.ledger.queries import snapshot
from worker.ledger.store import Ledger

log = logging.getLogger(__name__)

_BATCH = 500
_PATIENCE_S = 5.0
_REFERENCES_SHOWN = 100

ALL = tuple(Status)


class NotKeptError(BillingError):
    """Letters can't be put into the table; they stay in their queue."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Drain:
    """Takes dead letters from the queue that ``link`` consumes; holds what can't be kept in an outage.

    ``keep`` puts deliveries into the table and returns those that it could.
    """

    def __init__(self, link: Link, keep: Callable[[Sequence[Delivery]], list[Delivery]]) -> None:
        self.link = link
        self._keep = keep
        self._held: Sequence[Delivery] = ()

    def take(self, wait_s: float) -> int:
        """Take what has come by now, a batch at most; returns how many. Waits up to ``wait_s`` for the first.

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
        """Close the link; what is held goes back to the queue."""
        with suppress(BrokerUnavailableError):
            self.link.close()


class DeadLetterOffice:
    """Dead letters in the ledger's database. Numbers are those that ``list`` shows.

    ``taken_in`` is the worker's own judgement of a delivery, ``catalog`` what is for sale: without them
    nothing is judged, and payments are worth nobody knows how much. ``sent_as`` is the broker user that would
    send a letter again. Cheap to make, and shared by threads: each call is a transaction of its own. Every
    method raises LedgerUnavailableError.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        catalog: Catalog | None = None,
        taken_in: TakenIn | None = None,
        clock: Callable[[], datetime] = _utc_now,
        sent_as: str | None = None,
    ) -> None:
        self._engine, self._catalog, self._taken_in = engine, catalog, taken_in
        self._clock, self._sent_as = clock, sent_as

    # -- draining -----------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Raises LedgerUnavailableError unless the database takes writes; before anything is taken."""
        Ledger(self._engine).probe()

    def drain(self, link: Link) -> "Drain":
        """Return what takes dead letters from the queue that ``link`` consumes into the table."""
        return Drain(link, self._keep_what_can_be)

    def park(self, link: Link, *, expected: int = 0, wait_s: float = 0.2) -> int:
        """Drain the dead-letter queue that ``link`` consumes; returns how many dead letters came.

        See ``Drain.take_all``.
        """
        return self.drain(link).take_all(expected=expected, wait_s=wait_s)

    def _keep_what_can_be(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that are kept now: one that can't be, for a reason that nobody foresaw, holds no other up."""
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
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is this letter's alone
            # What it holds is the producer's and goes into no log.
            log.error("a dead letter can't be kept (%s): it stays in its queue", type(fault).__name__)  # noqa: TRY400
            return False
        return True

    def _keep(self, deliveries: Sequence[Delivery]) -> None:
        arrivals = [arrival_of(delivery, self._catalog) for delivery in deliveries]
        transact(self._engine, self._clock(), partial(park, arrivals=arrivals))

    # -- looking ------------------------------------------------------------------------------------------

    def groups(
        self, *, waiting_only: bool = True, order: Order = "last", limit: int = 50, after: str | None = None
    ) -> GroupPage:
        """A page of groups: what failed in the same way. Raises QueryError."""
        with snapshot(self._engine) as connection:
            return reading.groups(
                connection, waiting_only=waiting_only, order=order, limit=limit, after=after
            )

    def group(self, fingerprint: str) -> Group:
        """One group, by the beginning of its fingerprint. Raises NotFoundError, QueryError."""
        with snapshot(self._engine) as connection:
            return reading.group(connection, fingerprint)

    def drifts(self) -> list[GroupDrift]:
        """Where groups differ from their letters, which they never should."""
        with snapshot(self._engine) as connection:
            return reading.drifts(connection)

    def counts(self) -> Counts:
        """All letters together."""
        with snapshot(self._engine) as connection:
            return reading.counts(connection)

    def page(
        self, filter_: LetterFilter | None = None, *, limit: int = 50, before: int | None = None
    ) -> LetterPage:
        """A page of letters, newest first. Raises QueryError."""
        with snapshot(self._engine) as connection:
            return reading.page(connection, filter_ or LetterFilter(), limit, before)

    def every_letter(self, filter_: LetterFilter) -> Iterator[ParkedLetter]:
        """All letters that match, whole, newest first, read while one goes through them."""
        with snapshot(self._engine) as connection:
            yield from reading.every_letter(connection, filter_)

    def letter(self, number: int) -> ParkedLetter:
        """One letter; raises NotFoundError."""
        with snapshot(self._engine) as connection:
            return reading.letter(connection, number)

    def story(self, number: int) -> Story:
        """One letter with all that happened to it, and what the ledger knows. Raises NotFoundError."""
        now = self._clock()
        with snapshot(self._engine) as connection:
            letter = reading.letter(connection, number)
            return Story(
                letter=letter,
                events=reading.events(connection, number),
                edits=reading.edits(connection, number),
                ledger=ledger_lines(connection, letter, now, _REFERENCES_SHOWN),
                problem=self._problem(letter, letter.current_body),
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
        """A page of what operators did, newest first. Raises QueryError."""
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
        """Write something else that an operator did into the log: a sign-in, say."""

        def work(desk: Desk) -> None:
            desk.record(actor, action, subject, reason, detail)

        transact(self._engine, self._clock(), work)

    # -- acting -------------------------------------------------------------------------------------------

    def note(self, number: int, text: str, actor: str) -> None:
        """Write a note on a letter. Raises NotFoundError, NotPossibleError."""
        actions.note(self._engine, number, text, actor, self._clock())

    def discard(self, letters: Letters, reason: str, actor: str) -> Done:
        """Put parked letters away, for a reason. Raises NotFoundError before any is put away."""
        return actions.discard(self._engine, letters, reason, actor, self._clock())

    def restore(self, letters: Letters, reason: str | None, actor: str) -> Done:
        """Put discarded letters back. Raises NotFoundError before any is put back."""
        return actions.restore(self._engine, letters, reason, actor, self._clock())

    def undo_discard(self, entries: Sequence[int], actor: str) -> Done:
        """Restore what was discarded as these entries of the log tell (``Done.entries``).

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
    ) -> ParkedLetter:
        """Set the body that a replay sends; ``instead_of`` is the current one, as the operator saw it.

        Raises NotFoundError; RefusedBodyError, which names the field and the way out, unless ``unchecked``;
        NotPossibleError where the letter is not parked or was edited meanwhile.
        """
        if not unchecked and (problem := self.problem_with(number, body)) is not None:
            raise problem
        mended = Mended(body, instead_of, reason, actor)
        return actions.edit(self._engine, number, mended, self._catalog, self._clock())

    def problem_with(self, number: int, body: bytes) -> RefusedBodyError | None:
        """Why a worker would refuse the letter with this body; None where it would take it."""
        return self._problem(self.letter(number), body)

    def _problem(self, letter: ParkedLetter, body: bytes) -> RefusedBodyError | None:
        return actions.problem_with(letter, body, self._taken_in, self._clock(), self._sent_as)

    def export(self, letters: Letters, actor: str) -> Iterator[str]:
        """The letters as lines of JSON. Raises NotFoundError before the first line."""
        return transfer.export(self._engine, letters, actor, self._clock())

    def import_lines(self, lines: Iterable[str], actor: str) -> Imported:
        """Add the letters of exported lines that are not here yet. Raises BadLineError."""
        return transfer.import_lines(self._engine, lines, actor, self._catalog, self._clock())

    # -- replays ------------------------------------------------------------------------------------------

    def dry_run(
        self,
        letters: Letters,
        *,
        on_progress: Callable[[int, int | None], None] | None = None,
        stop: StopLike | None = None,
    ) -> DryRun:
        """What letters would do to the ledger today; nothing is sent or written. Raises NotFoundError."""
        if self._taken_in is None or self._catalog is None:
            raise NotPossibleError("this office has no judge: nobody can say what would come of it")
        judge = Judge(self._taken_in, self._catalog, self._sent_as)
        return dry_run.dry_run(self._engine, letters, judge, self._clock(), on_progress, stop)

    def create_replay(
        self,
        letters: Letters,
        reason: str,
        actor: str,
        *,
        rate: float | None = None,
        steps: Sequence[int] = (),
    ) -> Replay:
        """Freeze the letters and store the replay, for a runner to run. Raises NotFoundError, QueryError."""
        order = replays.Order(reason, actor, rate, tuple(steps))
        return replays.create(self._engine, letters, order, self._clock())

    def replay(self, replay_id: int) -> Replay:
        """One replay as it stands. Raises NotFoundError."""
        return replays.get(self._engine, replay_id)

    def replays(self, *, limit: int = 50, before: int | None = None) -> ReplayPage:
        """A page of replays, newest first."""
        return replays.page(self._engine, limit, before)

    def replay_items(
        self, replay_id: int, *, states: Sequence[str] = (), limit: int = 100, after: int = 0
    ) -> ReplayItemPage:
        """A page of a replay's letters, in their order. Raises NotFoundError."""
        return replays.items(self._engine, replay_id, states, limit, after)

    def pause_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """Let a running replay rest, whoever runs it. Raises NotFoundError, NotPossibleError."""
        return replays.pause(self._engine, replay_id, actor, reason, self._clock())

    def cancel_replay(self, replay_id: int, actor: str, reason: str | None = None) -> Replay:
        """End a replay: what was not sent stays parked. Raises NotFoundError, NotPossibleError."""
        return replays.cancel(self._engine, replay_id, actor, reason, self._clock())

    def tidy(self) -> int:
        """End the letters of replays that nobody runs any more, as far as the ledger shows their outcome."""
        return replays.tidy(self._engine, self._clock())
