"""Transactions of dead letters: all or nothing, and again after contention."""

import pytest

from tests.deadletters.parts import NOW, World, failed
from worker.deadletters.store import transaction as module
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.errors import ContentionError, LedgerUnavailableError


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sleep", lambda _: None)


def test_contended_transaction_runs_again_and_leaves_no_trace_of_the_failed_try(world: World) -> None:
    (dead_letter,) = world.park(failed(b"oops"))
    tries = iter(range(3))

    @in_transaction
    def note(transaction: DeadLetterTransaction, text: str) -> str:
        transaction.change(transaction.dead_letters([dead_letter.number])[dead_letter.number], note=text)
        transaction.record("ann", "note", "letter", text)
        if next(tries, None) is not None:
            raise ContentionError("deadlock detected")
        return text

    assert note(world.engine, NOW, "seen") == "seen"
    assert world.service.dead_letter(dead_letter.number).note == "seen"
    assert len(world.service.activity_log().entries) == 1


def test_lasting_contention_is_an_outage(world: World) -> None:
    @in_transaction
    def contend(_: DeadLetterTransaction) -> None:
        raise ContentionError("deadlock detected")

    with pytest.raises(LedgerUnavailableError, match="being changed"):
        contend(world.engine, NOW)


def test_failed_transaction_changes_nothing(world: World) -> None:
    (dead_letter,) = world.park(failed(b"oops"))

    @in_transaction
    def fail(transaction: DeadLetterTransaction) -> None:
        transaction.change(transaction.dead_letters([dead_letter.number])[dead_letter.number], note="x")
        transaction.record("ann", "note", "letter", "x")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail(world.engine, NOW)
    assert world.service.dead_letter(dead_letter.number).note is None
    assert world.service.activity_log().entries == ()
