"""Results of refunds that were sent, as the ledger and the dead letters show them; no reply is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from schemas import Code
from worker.core import Outcome
from worker.core.replies import message_for
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.replay.ledger_check import Expected, agrees, shown
from worker.deadletters.store.tables import dead_letters
from worker.ledger.bulk import among
from worker.ledger.queries.charges import ChargeKey, charges_of, reverse_run_in
from worker.reversing.models import ChargeState
from worker.reversing.store import ChargeEnd, SentRefund


@dataclass(frozen=True, slots=True)
class ShownResults:
    """Charges that have a result, and those whose state has changed: their refunds are to be made anew."""

    ends: Mapping[ChargeKey, ChargeEnd]
    changed: Sequence[ChargeKey]


def results_of(connection: Connection, run: int, sent: Sequence[SentRefund]) -> ShownResults:
    """Return what the ledger shows of the refunds that a run has sent."""
    expected = [Expected.of(one.command) for one in sent]
    ledger = shown(connection, expected)
    ends: dict[ChargeKey, ChargeEnd] = {}
    refused: list[tuple[SentRefund, Expected, Outcome]] = []
    for one, asked in zip(sent, expected, strict=True):
        outcome = ledger.of(asked)
        if outcome is None:
            continue
        if agrees(asked, outcome) and outcome.is_applied:
            ends[one.key] = _applied(run, one, outcome)
        else:
            refused.append((one, asked, outcome))
    charges = charges_of(connection, [one.key for one, _, _ in refused])
    changed = []
    for one, asked, outcome in refused:
        if charges[one.key].refunds > one.refunds or _may_be_asked_again(asked, outcome):
            changed.append(one.key)
        elif agrees(asked, outcome):
            ends[one.key] = ChargeEnd(ChargeState.REFUSED, f"{outcome.code}: {message_for(outcome)}")
        else:
            ends[one.key] = _other_operation(outcome)
    return ShownResults(ends, changed)


def _may_be_asked_again(asked: Expected, outcome: Outcome) -> bool:
    """Return True where somebody else's attempt under the reference was rejected: the next one is free."""
    is_same_owner = (outcome.type, outcome.user_id) == (asked.type, asked.user_id)
    return is_same_owner and not outcome.is_applied and not agrees(asked, outcome)


def _applied(run: int, sent: SentRefund, outcome: Outcome) -> ChargeEnd:
    by = reverse_run_in(outcome.metadata)
    if by != run:
        faster = "another refund" if by is None else f"reverse run {by}"
        return ChargeEnd(ChargeState.GIVEN_BACK_BEFORE, f"{faster} was faster")
    free_quantity = int(outcome.detail.get("free_quantity", 0))
    if sent.refunds:
        text = "part of it had been given back before"
        return ChargeEnd(ChargeState.REST_REVERSED, text, outcome.amount or 0, free_quantity)
    return ChargeEnd(ChargeState.REVERSED, None, outcome.amount or 0, free_quantity)


def _other_operation(outcome: Outcome) -> ChargeEnd:
    code = Code.REFERENCE_CONFLICT
    text = f"{code}: {outcome.reference_id} is the reference of another operation, a {outcome.type}"
    return ChargeEnd(ChargeState.REFUSED, text)


def dead_letters_of(connection: Connection, sent: Sequence[SentRefund]) -> dict[ChargeKey, ChargeEnd]:
    """Return the refunds that have become dead letters since they were sent, and wait as such."""
    if not sent:
        return {}
    dead_letter = dead_letters.c
    statement = select(
        dead_letter.reference_id, dead_letter.number, dead_letter.message, dead_letter.last_failed_at
    ).where(
        among(connection, dead_letter.reference_id, [one.command.reference_id for one in sent]),
        dead_letter.status == DeadLetterStatus.PARKED.value,
        dead_letter.last_failed_at.is_not(None),
    )
    found = {row.reference_id: row for row in connection.execute(statement.order_by(dead_letter.number))}
    return {
        one.key: ChargeEnd(ChargeState.DEAD_LETTER, f"dead letter {row.number}: {row.message}")
        for one in sent
        if (row := found.get(one.command.reference_id)) is not None and row.last_failed_at >= one.sent_at
    }
