"""Views of dead letters, groups, histories and replays. Frozen; None is "unknown", never zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from sqlalchemy import Row

from worker.errors import RefusedBodyError
from worker.ledger.queries import View


class DeadLetterStatus(StrEnum):
    """Status of a dead letter: it waits while it is parked or under way in a replay."""

    PARKED = "parked"
    REPLAYING = "replaying"
    RESOLVED = "resolved"  #: the ledger shows its outcome, or the broker has delivered it
    DISCARDED = "discarded"


#: Orders of groups: by the tokens that wait, the users that wait, the number that waits, the latest failure.
GroupOrder = Literal["tokens", "users", "count", "last"]

#: State of a resolved dead letter whose operation the ledger was found to have: see ``applied``.
APPLIED = "applied"
WAITING = (DeadLetterStatus.PARKED, DeadLetterStatus.REPLAYING)
#: Discarded, or under way; of the latter those whose replay nobody runs are restored.
RESTORABLE = (DeadLetterStatus.DISCARDED, DeadLetterStatus.REPLAYING)


class ItemState(StrEnum):
    """State of one item of a replay. After ``sent`` come the ways in which it ends."""

    WAITING = "waiting"
    SENDING = "sending"  #: it may have been published, or not: the next runner publishes it (again)
    SENT = "sent"
    APPLIED = "applied"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    DELIVERED = "delivered"
    CONFLICT = "conflict"
    FAILED_AGAIN = "failed_again"
    UNROUTABLE = "unroutable"
    SKIPPED = "skipped"


#: States of items that are not done.
OPEN_STATES = (ItemState.WAITING, ItemState.SENDING, ItemState.SENT)
#: States that stop a replay with steps.
FAILED_STATES = (ItemState.CONFLICT, ItemState.FAILED_AGAIN, ItemState.UNROUTABLE)


class ReplayState(StrEnum):
    """State of a replay; only a running one has a runner, and one whose runner was killed looks like it."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  #: by itself, because a step failed
    FINISHED = "finished"
    CANCELLED = "cancelled"


def _state(status: str, applied_at: datetime | None) -> str:
    return APPLIED if status == DeadLetterStatus.RESOLVED and applied_at is not None else status


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """One dead letter as it is kept: reason, origin, times, tries, and the message itself.

    ``queue``, ``exchange`` and ``routing_key`` are None where its origin is unknown: no worker user published
    it. Tries and versions are None as well, until a replay of it fails in a worker. ``sender`` is the broker
    user that sent the message first, as far as the broker vouches for it.
    """

    number: int
    letter_id: str
    status: str
    reason: str
    message: str
    field: str | None
    traceback: str | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    attempts: int | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    type: str | None
    reference_id: str | None
    user_id: str | None
    worker_version: str | None
    schema_version: int | None
    body: bytes
    properties: Mapping[str, Any]
    note: str | None
    fingerprint: str
    tokens_at_stake: int | None
    replay_id: int | None
    edited_body: bytes | None
    applied_at: datetime | None
    sender: str | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Return the dead letter of a row of the table."""
        values = {name: getattr(row, name) for name in cls.__slots__ if name != "sender"}
        if not row.queue:
            values |= dict.fromkeys(("queue", "exchange", "routing_key"))
        if not row.worker_version:
            values |= dict.fromkeys(("attempts", "worker_version", "schema_version"))
        # Rows from before senders were kept name none: what their headers say, nobody vouches for.
        sender = row.properties.get("sender")
        return cls(**values, sender=sender if isinstance(sender, str) else None)

    @property
    def is_origin_known(self) -> bool:
        """True where a worker user published the dead letter, and so its headers were believed."""
        return self.queue is not None

    @property
    def state(self) -> str:
        """Status for people: one that was found applied says so until an operator has confirmed it."""
        return _state(self.status, self.applied_at)

    @property
    def current_body(self) -> bytes:
        """Body that a replay sends: the latest edit, or the original."""
        return self.body if self.edited_body is None else self.edited_body


@dataclass(frozen=True)
class DeadLetterLine(View):
    """A dead letter in a list, without its body; ``size`` is the original body's, in bytes."""

    number: int
    status: str
    reason: str
    message: str
    field: str | None
    type: str | None
    reference_id: str | None
    user_id: str | None
    attempts: int | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    fingerprint: str
    tokens_at_stake: int | None
    replay_id: int | None
    note: str | None
    applied_at: datetime | None
    is_edited: bool
    size: int

    @property
    def state(self) -> str:
        """Status for people: one that was found applied says so until an operator has confirmed it."""
        return _state(self.status, self.applied_at)


@dataclass(frozen=True)
class DeadLetterPage(View):
    """A page of dead letters, newest first; the next page comes before ``next``, None at the end.

    ``total`` is None where there are more than are counted. With a text to look for, a page may be short and
    have a next one: ``searched_to`` is the number down to which the search went.
    """

    dead_letters: tuple[DeadLetterLine, ...]
    next: int | None
    total: int | None
    searched_to: int | None


@dataclass(frozen=True)
class DeadLetterGroup(View):
    """Dead letters that failed in the same way.

    ``message`` and ``field`` are those of ``sample``: the newest that waits, or the latest where none does.

    ``tokens_at_stake`` is the sum of the tokens that the waiting dead letters ask to move, as far as it is
    known; ``tokens_unknown`` counts the waiting dead letters of which it isn't. ``users`` are the distinct
    users that wait, counted to 1,000: ``users_is_least`` says that there are more. ``applied`` are those of
    the resolved ones that were found applied, and that nobody has confirmed.
    """

    fingerprint: str
    reason: str
    type: str | None
    field: str | None
    message: str
    sample: int
    waiting: int
    parked: int
    replaying: int
    resolved: int
    discarded: int
    tokens_at_stake: int
    tokens_unknown: int
    users: int
    users_is_least: bool
    applied: int
    first_failed_at: datetime | None
    last_failed_at: datetime | None


@dataclass(frozen=True)
class PartCount(View):
    """Dead letters of a group with the same value; None is an unknown one."""

    value: str | None
    dead_letters: int


@dataclass(frozen=True)
class GroupParts(View):
    """Dead letters of a group by sender, by version of the worker and by message, the commonest first.

    They are counted among the newest ``looked_at`` that wait, or of all where ``is_waiting`` is false; each
    part has ten values at most.
    """

    looked_at: int
    is_all: bool
    is_waiting: bool
    senders: tuple[PartCount, ...]
    worker_versions: tuple[PartCount, ...]
    messages: tuple[PartCount, ...]


@dataclass(frozen=True)
class GroupPage(View):
    """A page of groups, and how many there are; the next page comes after ``next``."""

    groups: tuple[DeadLetterGroup, ...]
    next: str | None
    total: int


@dataclass(frozen=True)
class GroupDrift(View):
    """A group that differs from its dead letters: the expected count, and the stored one."""

    fingerprint: str
    name: str
    expected: int
    actual: int


@dataclass(frozen=True)
class Counts(View):
    """Counts of all dead letters. ``groups`` counts those with dead letters that wait.

    ``applied`` are those of the resolved ones that were found applied, and that nobody has confirmed, counted
    to 10,000.
    """

    parked: int
    replaying: int
    resolved: int
    discarded: int
    groups: int
    tokens_at_stake: int
    tokens_unknown: int
    applied: int
    last_failed_at: datetime | None


@dataclass(frozen=True)
class Event(View):
    """One event in a dead letter's history."""

    at: datetime
    kind: str
    actor: str | None
    text: str | None
    replay_id: int | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a dead letter's body, whole; ``set_edit`` is the edit of a set that it is of."""

    number: int
    at: datetime
    actor: str
    reason: str
    before: bytes
    after: bytes
    set_edit: int | None


@dataclass(frozen=True)
class UneditedCause(View):
    """Cause for which an edit of a set leaves dead letters as they are: their number, and one of them."""

    text: str
    dead_letters: int
    sample: int


@dataclass(frozen=True)
class SetEdit(View):
    """Result of an edit of a set, or of taking one back; ``number`` is None where nothing was changed.

    ``unchanged`` dead letters have no such field or that value already; ``skipped`` ones are not parked any
    more, or were edited meanwhile. ``unedited`` are the causes of the others, the commonest first.
    """

    number: int | None
    changed: int
    unchanged: int
    skipped: int
    unedited: tuple[UneditedCause, ...]


@dataclass(frozen=True, slots=True)
class EditSample:
    """Body of one dead letter before and after an edit of a set, with its forecast."""

    forecast: "DeadLetterForecast"
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class SetEditPreview:
    """Preview of an edit of a set: the effect of every changed body on today's ledger, and samples.

    ``samples`` have one of each expected result, and some more. ``judged`` has the changed bodies only;
    ``skipped`` dead letters are not parked.
    """

    total: int
    unchanged: int
    skipped: int
    unedited: tuple[UneditedCause, ...]
    judged: "DryRun"
    samples: tuple[EditSample, ...]

    @property
    def decodes(self) -> int:
        """Number of changed bodies that a worker would take."""
        refused = sum(one.dead_letters for one in self.judged.forecasts if one.would == "malformed")
        return self.judged.total - refused


@dataclass(frozen=True)
class LedgerLine(View):
    """Row of the ledger under a reference of the dead letter; ``status`` is None without one.

    ``agrees`` says whether it is the outcome of what the dead letter's body asks for today.
    """

    reference_id: str
    type: str | None = None
    user_id: str | None = None
    status: str | None = None
    code: str | None = None
    message: str | None = None
    amount: int | None = None
    attempt: int | None = None
    recorded_at: datetime | None = None
    agrees: bool | None = None


@dataclass(frozen=True)
class BodyField(View):
    """Field of a command as the ledger stored it, and as it came; None where it is absent."""

    name: str
    stored: Any
    came: Any
    differs: bool


@dataclass(frozen=True)
class BodyConflict(View):
    """Command of a dead letter beside the operation that has its reference: what moves the ledger of both."""

    reference_id: str
    recorded_at: datetime
    fields: tuple[BodyField, ...]


@dataclass(frozen=True, slots=True)
class DeadLetterDetails:
    """One dead letter with its history, oldest first, and the ledger's rows under its references.

    ``problem`` is why a worker of today would refuse the body as it is; None where it would accept it.
    ``past_deadline`` is the time until which its usage was valid, where that has passed: a replay drops it.
    ``is_applied`` says that it is parked though the ledger has its operation, with the same content;
    ``conflicts`` are its commands whose references have operations of another content.
    """

    dead_letter: StoredDeadLetter
    events: tuple[Event, ...]
    edits: tuple[Edit, ...]
    ledger: tuple[LedgerLine, ...]
    problem: RefusedBodyError | None
    past_deadline: datetime | None = None
    is_applied: bool = False
    conflicts: tuple[BodyConflict, ...] = ()


@dataclass(frozen=True)
class Done(View):
    """Result of an action: how many dead letters it changed and skipped, and the first thousand numbers.

    ``entries`` are those of the activity log, which name all of them: they undo a discard.
    """

    done: int
    skipped: int
    numbers: tuple[int, ...]
    entries: tuple[int, ...]


@dataclass(frozen=True)
class Imported(View):
    """Result of an import: how many dead letters are new, and how many were here already, unchanged."""

    added: int
    known: int


@dataclass(frozen=True)
class ActivityEntry(View):
    """One action of an operator. ``os_user`` and ``host`` are unknown where the console did it, or before."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    reason: str | None
    detail: Mapping[str, Any]
    os_user: str | None = None
    host: str | None = None


@dataclass(frozen=True)
class ActivityPage(View):
    """A page of the activity log, newest first."""

    entries: tuple[ActivityEntry, ...]
    next: int | None


@dataclass(frozen=True)
class Replay(View):
    """A set of dead letters that is sent again. ``counts`` has every state of its items, zeros included.

    ``step`` counts from 1; the last of ``steps_in_all`` is the rest. In a stopped replay it is the step that
    failed. A running one whose lease is over was killed, and can be resumed.

    ``stop_on`` are the limits at which it stops by itself. ``ran_ms`` is how long it ran before
    ``running_since``, None where an earlier version ran it; ``ended_before`` had ended by then.
    """

    number: int
    at: datetime
    actor: str
    reason: str
    source: str
    rate: float | None
    steps: tuple[int, ...]
    state: ReplayState
    state_reason: str | None
    leased_by: str | None
    leased_until: datetime | None
    step: int
    steps_in_all: int
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    stop_on: tuple[str, ...] = ()
    running_since: datetime | None = None
    ran_ms: int | None = None
    ended_before: int = 0

    def has_runner(self, now: datetime) -> bool:
        """Return True where a process runs it; one that was killed leaves a lease that expires."""
        is_leased = self.leased_until is not None and self.leased_until > now
        return self.state is ReplayState.RUNNING and is_leased

    def elapsed(self, now: datetime) -> timedelta | None:
        """Return how long it ran, without its pauses; None where unknown."""
        if self.ran_ms is None:
            return None
        return timedelta(milliseconds=self.ran_ms) + self._running_for(now)

    def remaining(self, now: datetime) -> timedelta | None:
        """Return how long it has still to run at the pace of this run; None where unknown, or at rest."""
        ended, running_for = self.total - self.open - self.ended_before, self._running_for(now)
        if self.state is not ReplayState.RUNNING or ended < 1 or not running_for:
            return None
        return running_for * self.open / ended

    def _running_for(self, now: datetime) -> timedelta:
        """Return how long the present run lasts; one that was killed lasted until its lease ended."""
        if self.running_since is None or self.state is not ReplayState.RUNNING:
            return timedelta()
        end = now if self.leased_until is None else min(now, self.leased_until)
        return max(end - self.running_since, timedelta())

    @property
    def open(self) -> int:
        """Number of items that have not ended."""
        return sum(self.counts[state] for state in OPEN_STATES)

    @property
    def failed(self) -> int:
        """Number of items that have come back, or could not be sent."""
        return sum(self.counts[state] for state in FAILED_STATES)


@dataclass(frozen=True)
class ReplayPage(View):
    """A page of replays, newest first."""

    replays: tuple[Replay, ...]
    next: int | None


@dataclass(frozen=True)
class ReplayItem(View):
    """One dead letter of a replay, with its identities; ``tokens`` is None where unknown."""

    position: int
    number: int
    state: str
    detail: str | None
    sent_at: datetime | None
    settled_at: datetime | None
    type: str | None
    reference_id: str | None
    user_id: str | None
    tokens: int | None


@dataclass(frozen=True)
class ReplayItemPage(View):
    """A page of a replay's items, in the order in which they are sent."""

    items: tuple[ReplayItem, ...]
    next: int | None


@dataclass(frozen=True)
class RejectedTokens(View):
    """Tokens that the rejected dead letters of a replay ask to move, and of how many they are unknown.

    They are summed for the first 10,000: ``is_least`` says that there are more.
    """

    tokens: int
    unknown: int
    is_least: bool


@dataclass(frozen=True)
class ReplayLook(View):
    """A replay with a page of its items and the tokens rejected, all as of one moment."""

    replay: Replay
    items: ReplayItemPage
    rejected: RejectedTokens


@dataclass(frozen=True)
class Forecast(View):
    """Dead letters with the same expected result: their number, the tokens they would move, a sample.

    ``would`` is apply, reject, duplicate, conflict, malformed, fault (the worker itself would fail on it) or
    deliver (a message that is no command). ``field`` is the same for all, whichever item of a batch it was.
    """

    would: str
    code: str
    field: str | None
    text: str
    dead_letters: int
    tokens: int
    sample: int


@dataclass(frozen=True)
class DeadLetterForecast(View):
    """Expected effect of one dead letter on today's ledger.

    ``past_deadline`` is the time until which its usage was valid, where that has passed: a replay drops it.
    """

    number: int
    would: str
    code: str
    text: str
    field: str | None
    tokens: int
    past_deadline: datetime | None = None


@dataclass(frozen=True)
class DryRun(View):
    """Result of a dry run: by expected result, the commonest first, and the first thousand dead letters.

    ``past_deadline`` counts those whose usage was valid until a time that has passed.
    """

    total: int
    past_deadline: int
    forecasts: tuple[Forecast, ...]
    dead_letters: tuple[DeadLetterForecast, ...]


def columns_of(view: type[Any]) -> tuple[str, ...]:
    """Return the names of a view's fields, for a select of the same names."""
    return tuple(field.name for field in fields(view))
