"""Survey: charges that match a filter, with the refunds that the worker's own ``decide`` would apply today.

Nothing moves: each chunk of refunds is judged in a transaction that is rolled back. For some milliseconds it
locks its accounts, as a batch does.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from schemas import Code, RefundCredit, Status
from worker.catalog import Catalog
from worker.core import Answer, Conflict, Outcome
from worker.core.replies import conflict_text, message_for
from worker.core.superseded import owner_of
from worker.deadletters.body_check import Receive
from worker.deadletters.replay.dry_run import answers_now
from worker.errors import NotFoundError, NotPossibleError
from worker.ledger.queries import snapshot
from worker.ledger.queries.charges import Charge, ChargeKey, charges_of, matching_operations
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.outcomes import stored_outcomes
from worker.ledger.queries.senders import senders_of
from worker.messages.dead_letters import Failure
from worker.reversing.refunds import as_delivered, message_of, refund_of
from worker.runtime.stop import StopRequest

_CHUNK = 500
_SAMPLES = 10
_REFUSED_SHOWN = 100


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """Rules of a survey: the worker's rules for deliveries, the catalog, and the user that would send."""

    receive: Receive
    catalog: Catalog
    sent_as: str | None = None


class SurveySums(NamedTuple):
    """Sums over charges that can be reversed."""

    charges: int = 0
    tokens: int = 0
    free_quantity: int = 0

    def plus(self, tokens: int, free_quantity: int) -> "SurveySums":
        """Return the sums with one more charge."""
        return SurveySums(self.charges + 1, self.tokens + tokens, self.free_quantity + free_quantity)


def largest_first(groups: Mapping[str, SurveySums]) -> list[tuple[str, SurveySums]]:
    """Return groups with the most tokens first; the order of equal ones is always the same."""
    return sorted(groups.items(), key=lambda item: (-item[1].tokens, -item[1].charges, item[0]))


@dataclass(frozen=True, slots=True)
class RefusedCharge:
    """A charge that can't be reversed, with the code and the text of the refusal."""

    reference_id: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class SurveyedCharge:
    """A charge that can be reversed, and what would go back."""

    charge: Charge
    sender: str
    tokens: int
    free_quantity: int


@dataclass(slots=True)
class Survey:
    """Charges that match: those that can be reversed in ``keys``, summed up by user, feature and sender.

    ``kinds`` counts all operations that match, by type and status. Of ``given_back`` charges nothing is left,
    of ``partly`` a part, which is what would go back. ``judged`` is smaller than ``charges`` where the survey
    was stopped.
    """

    kinds: Mapping[tuple[str, str], int]
    charges: int
    judged: int = 0
    given_back: int = 0
    partly: int = 0
    keys: list[ChargeKey] = field(default_factory=list)
    sums: SurveySums = field(default_factory=SurveySums)
    by_user: dict[str, SurveySums] = field(default_factory=lambda: defaultdict(SurveySums))
    by_feature: dict[str, SurveySums] = field(default_factory=lambda: defaultdict(SurveySums))
    by_sender: dict[str, SurveySums] = field(default_factory=lambda: defaultdict(SurveySums))
    samples: list[SurveyedCharge] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refusals: list[RefusedCharge] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """Number of operations that match."""
        return sum(self.kinds.values())

    @property
    def refused_in_all(self) -> int:
        """Number of charges that can't be reversed."""
        return sum(self.refused.values())

    @property
    def is_whole(self) -> bool:
        """True where every charge was judged."""
        return self.judged == self.charges

    def add(self, surveyed: SurveyedCharge) -> None:
        """Add a charge that can be reversed."""
        charge, moved = surveyed.charge, (surveyed.tokens, surveyed.free_quantity)
        self.keys.append(charge.key)
        self.partly += charge.refunds > 0
        self.sums = self.sums.plus(*moved)
        for groups, name in (
            (self.by_user, charge.usage.user_id),
            (self.by_feature, charge.feature or "none"),
            (self.by_sender, surveyed.sender),
        ):
            groups[name] = groups[name].plus(*moved)
        if len(self.samples) < _SAMPLES:
            self.samples.append(surveyed)

    def refuse(self, refused: RefusedCharge) -> None:
        """Add a charge that can't be reversed."""
        self.refused[refused.code] += 1
        if len(self.refusals) < _REFUSED_SHOWN:
            self.refusals.append(refused)


def survey(
    engine: Engine,
    now: datetime,
    wanted: OperationFilter,
    rules: SurveyRules,
    *,
    on_progress: Callable[[int, int], None] = lambda _judged, _charges: None,
    stop: StopRequest | None = None,
    most: int | None = None,
) -> Survey:
    """Judge the refunds of all charges that match; ``on_progress`` gets how many are judged, and of how many.

    Raises NotFoundError where no operation matches, QueryError for a sender that has sent nothing, and
    NotPossibleError where there are more than ``most`` charges.
    """
    with snapshot(engine) as connection:
        matching = matching_operations(connection, wanted)
    if not matching.kinds:
        raise NotFoundError("no operation matches: there is nothing to reverse")
    found = Survey(matching.kinds, len(matching.charges))
    if most is not None and found.charges > most:
        raise NotPossibleError(
            f"{found.charges:,} charges match, more than {most:,}: narrow the filter, or use "
            "`billing-worker reverse`"
        )
    for start in range(0, found.charges, _CHUNK):
        if stop is not None and stop.requested:
            break
        _judge(engine, now, matching.charges[start : start + _CHUNK], rules, found)
        on_progress(found.judged, found.charges)
    return found


def _judge(
    engine: Engine, now: datetime, keys: Sequence[ChargeKey], rules: SurveyRules, found: Survey
) -> None:
    with snapshot(engine) as connection:
        charges = charges_of(connection, keys)
        refundable = [charge for charge in charges.values() if not charge.is_given_back]
        commands = refunds_now(connection, refundable, run=None, reason="reverse")
        senders = senders_of(connection, (charge.usage for charge in refundable))
    found.judged += len(keys)
    found.given_back += len(charges) - len(refundable)
    accepted = []
    for charge, command in zip(refundable, commands, strict=True):
        received = rules.receive(as_delivered(message_of(command, rules.sent_as, now)), now)
        if isinstance(received, Failure):
            reference = charge.usage.reference_id
            found.refuse(RefusedCharge(reference, received.code.value, received.message))
        else:
            accepted.append((charge, command))
    answers = (
        answers_now(engine, [command for _, command in accepted], rules.catalog, now) if accepted else ()
    )
    for (charge, _), answer in zip(accepted, answers, strict=True):
        moved = _moved(charge.usage.reference_id, answer)
        if isinstance(moved, RefusedCharge):
            found.refuse(moved)
        else:
            sender = senders.get(charge.usage.sender_id)
            found.add(SurveyedCharge(charge, "unknown" if sender is None else str(sender), *moved))


def refunds_now(
    connection: Connection, charges: Iterable[Charge], *, run: int | None, reason: str
) -> list[RefundCredit]:
    """Return the refunds of charges; one that was rejected before is asked for as the next attempt."""
    first = [refund_of(charge, run=run, reason=reason) for charge in charges]
    stored = stored_outcomes(connection, [command.reference_id for command in first])
    return list(_next_attempts(first, stored))


def _next_attempts(commands: Iterable[RefundCredit], stored: dict[str, Outcome]) -> Iterator[RefundCredit]:
    for command in commands:
        before = stored.get(command.reference_id)
        is_ours = before is not None and owner_of(before) == owner_of(command)
        if before is not None and is_ours and before.status is Status.REJECTED:
            yield command.model_copy(update={"attempt": before.attempt + 1})
        else:
            yield command


def _moved(reference: str, answer: Answer) -> tuple[int, int] | RefusedCharge:
    """Return the tokens and the free units that would go back, or the refusal."""
    if isinstance(answer, Conflict):
        text = f"the reference of its refund {conflict_text(answer)}"
        return RefusedCharge(reference, Code.REFERENCE_CONFLICT.value, text)
    outcome = answer.outcome
    if not outcome.is_applied:
        return RefusedCharge(reference, outcome.code.value, message_for(outcome))
    return outcome.amount or 0, int(outcome.detail.get("free_quantity", 0))
