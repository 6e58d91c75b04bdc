"""Age of a replica, asked once: what it lacks counts, and not how long the primary is idle."""

from datetime import timedelta

import pytest

from tests.support.apply_commands import applied
from tests.support.query_samples import given, opened
from tests.support.replication import ReplicatedLedger
from worker.catalog import load_catalog
from worker.errors import ConfigurationError
from worker.ledger.replica import replica_age


def age(ledger: ReplicatedLedger, patience_s: float = 1.0) -> timedelta:
    found = replica_age(ledger.primary, ledger.replica, patience_s=patience_s)
    assert found is not None
    return found


def write(ledger: ReplicatedLedger) -> None:
    applied(ledger.primary, load_catalog(), opened("ann", "none"), given("ann", 5))


def test_replica_that_has_all_is_as_old_as_the_question_took(replicated_ledger: ReplicatedLedger) -> None:
    replicated_ledger.standby.catch_up()
    assert timedelta() <= age(replicated_ledger) < timedelta(seconds=1)


def test_replica_that_catches_up_meanwhile_is_waited_for(replicated_ledger: ReplicatedLedger) -> None:
    ledger, waits = replicated_ledger, list[float]()
    ledger.standby.pause_replay()
    write(ledger)

    def resume(seconds: float) -> None:
        waits.append(seconds)
        ledger.standby.resume_replay()
        ledger.standby.catch_up()

    found = replica_age(ledger.primary, ledger.replica, patience_s=60, sleep=resume)
    assert len(waits) == 1
    assert found is not None
    assert found < timedelta(seconds=60)


def test_replica_that_lacks_something_is_as_old_as_what_it_has(replicated_ledger: ReplicatedLedger) -> None:
    replicated_ledger.standby.pause_replay()
    first = age(replicated_ledger, patience_s=0)
    write(replicated_ledger)
    second = age(replicated_ledger, patience_s=0)
    third = age(replicated_ledger, patience_s=0)
    assert first < second < third


def test_primary_is_no_replica(replicated_ledger: ReplicatedLedger) -> None:
    with pytest.raises(ConfigurationError, match="names a primary"):
        replica_age(replicated_ledger.primary, replicated_ledger.primary)
