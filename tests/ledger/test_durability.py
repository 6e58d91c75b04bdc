"""Durability of what is committed: on one server, with an asynchronous and with a synchronous standby."""

from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from tests.support.replication import ReplicatedLedger
from tests.support.waiting import eventually
from worker.ledger.durability import Durability, durability_of
from worker.ledger.engine import ledger_engine


@pytest.mark.parametrize(
    ("found", "servers", "warning"),
    [
        (Durability("on"), 1, None),
        (Durability("on"), 2, "a failover: no standby is connected; set synchronous_standby_names"),
        (Durability("on", receivers=1), 1, "a failover: 1 standby is connected, asynchronous; set"),
        (Durability("on", receivers=2, synchronous=None), 2, "2 standbys are connected, asynchronous"),
        (Durability("on", "s1", 1, 1), 2, None),
        (Durability("remote_apply", "ANY 1 (s1, s2)", 2, 2), 2, None),
        (Durability("remote_write", "*", 1, None), 1, None),
        (Durability("local", "*", 1, 1), 1, "a failover, for synchronous_commit is local"),
        (Durability("off", "*", 1, 1), 1, "a crash of this server, for synchronous_commit is off"),
        (Durability("on", "*", 1, 0), 1, "commits wait for '\\*', and no synchronous standby is connected"),
        (Durability("on", "*", 1, 1, flushes=False), 1, "a crash of this server: set fsync"),
    ],
)
def test_warning_names_what_loses_an_acknowledged_message(
    found: Durability, servers: int, warning: str | None
) -> None:
    given = found.warning(servers=servers)
    assert (given is None) == (warning is None)
    if given is not None and warning is not None:
        assert warning.replace("\\", "") in given


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Durability("on"), "a commit is on the disk of one server, and no standby is connected"),
        (Durability("on", "s1", 1, 1), "a commit waits for 's1': 1 standby is connected, synchronous"),
        (Durability("on", "s1", 1, None), "synchronous is unknown without pg_read_all_stats"),
        (Durability("remote_write", "s1", 1, 1), "waits for 's1', in the standby's memory: 1 standby"),
    ],
)
def test_text_says_what_a_commit_waits_for(found: Durability, text: str) -> None:
    assert text in found.text


def test_file_of_sqlite_has_no_settings_to_look_at(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    assert durability_of(engine) is None
    engine.dispose()


def test_standby_shows_as_asynchronous_until_the_primary_waits_for_it(
    replicated_ledger: ReplicatedLedger,
) -> None:
    ledger = replicated_ledger
    assert flushing(ledger.primary) == Durability("on", receivers=1)
    ledger.standby.bind()
    try:
        eventually(lambda: flushing(ledger.primary) == Durability("on", "*", 1, 1))
        with_few_rights = role_without_rights(ledger)
        assert flushing(with_few_rights) == Durability("on", "*", 1, None)
        with_few_rights.dispose()
    finally:
        ledger.standby.release()


def flushing(engine: Engine) -> Durability:
    """Return what the primary promises, as if it flushed: servers of tests need not."""
    found = durability_of(engine)
    assert found is not None
    return replace(found, flushes=True)


def role_without_rights(ledger: ReplicatedLedger) -> Engine:
    """Return an engine of a role that may connect and no more."""
    name = f"bare_{uuid4().hex[:8]}"
    with ledger.primary.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'bare'"))
    login = ledger.primary_url.partition("://")[2].partition("@")[0]
    return ledger_engine(ledger.primary_url.replace(login, f"{name}:bare"))
