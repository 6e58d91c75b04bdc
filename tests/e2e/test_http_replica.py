"""`serve` on a replica: it reads the replica, and the primary for a caller's own writes."""

import pytest

from schemas import BonusCredit, OpenAccount
from tests.support.apply_commands import applied
from tests.support.replication import ReplicatedLedger
from tests.support.serve_process import ServeProcess, Serving
from worker.catalog import load_catalog
from worker.core import Decided

ANN = "userId=ann"


@pytest.fixture
def server(serving: Serving, replicated_ledger: ReplicatedLedger) -> ServeProcess:
    """The server on a replica that stands at an account of 10,000 tokens, with one entry."""
    ledger = replicated_ledger
    applied(ledger.primary, load_catalog(), OpenAccount(reference_id="open", user_id="ann", tier="free"))
    server = serving(ledger.primary_url, read_database_url=ledger.replica_url, read_max_lag_s=600)
    server.get(f"/v1/balance?{ANN}")  # the server notes the primary's place
    ledger.standby.catch_up()
    ledger.standby.pause_replay()
    return server


def give(ledger: ReplicatedLedger, tokens: int, reference: str) -> int:
    """Give tokens on the primary; return the sequence, as the caller's reply has it."""
    bonus = BonusCredit(reference_id=reference, user_id="ann", tokens=tokens)
    (answer,) = applied(ledger.primary, load_catalog(), bonus)
    assert isinstance(answer, Decided)
    assert answer.outcome.last_entry is not None
    return answer.outcome.last_entry


def test_caller_reads_its_own_writes_and_others_the_replica(
    server: ServeProcess, replicated_ledger: ReplicatedLedger
) -> None:
    sequence = give(replicated_ledger, 7, "own")
    status, old = server.get(f"/v1/balance?{ANN}")
    assert (status, old["balance"], old["sequence"]) == (200, 10_000, sequence - 1)
    status, own = server.get(f"/v1/balance?{ANN}&minSequence={sequence}")
    assert (status, own["balance"], own["sequence"]) == (200, 10_007, sequence)
    assert own["asOf"] > old["asOf"]
    status, page = server.get(f"/v1/history?{ANN}&limit=1&minSequence={sequence}")
    assert (status, page["transactions"][0]["referenceId"]) == (200, "own")
    assert server.get(f"/v1/afford?{ANN}&tokens=10007&minSequence={sequence}")[1]["affordable"] is True
    assert server.get(f"/v1/afford?{ANN}&tokens=10007")[1]["affordable"] is False
    assert server.get(f"/v1/balance?{ANN}")[1]["balance"] == 10_000, "others still read the replica"


def test_sequence_that_nobody_has_is_a_conflict(
    server: ServeProcess, replicated_ledger: ReplicatedLedger
) -> None:
    sequence = give(replicated_ledger, 7, "own")
    status, problem = server.get(f"/v1/balance?{ANN}&minSequence={sequence + 1}")
    assert (status, problem["code"], problem["field"]) == (409, "sequence_not_reached", "minSequence")
    assert f"is at {sequence}" in problem["detail"]


def test_replica_that_has_caught_up_answers_again(
    server: ServeProcess, replicated_ledger: ReplicatedLedger
) -> None:
    sequence = give(replicated_ledger, 7, "own")
    replicated_ledger.standby.resume_replay()
    replicated_ledger.standby.catch_up()
    status, answer = server.get(f"/v1/balance?{ANN}")
    assert (status, answer["balance"], answer["sequence"]) == (200, 10_007, sequence)
