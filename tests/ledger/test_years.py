"""Years by chance in a database: rows are the model's, the audit finds nothing, and the past is kept."""

from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count

import pytest
from sqlalchemy import Engine

from tests.ledger.test_lookback import without_trace
from tests.ledger.test_worlds import replies_to
from tests.support.in_world import in_world
from tests.support.model import Model
from tests.support.stored_comparison import assert_stored_like_the_model
from tests.support.strategies import CATALOGS
from tests.support.worlds import named_world
from tests.support.years import years_of
from worker.errors import NotFoundError
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import Balance, Reader


def assert_years_are_stored(engine: Engine, seeds: range) -> None:
    """Apply years to one database, each under one of the catalogs; fail unless all is as it should be."""
    catalogs = list(CATALOGS.values())
    for seed, _, day in years_of(seeds):
        catalog = catalogs[seed % len(catalogs)]
        with named_world(seed):
            model = Model(catalog)
            for now, batch in day:
                commands = [in_world(seed, command) for command in batch]
                expected = [model.apply(command, now) for command in commands]
                assert replies_to(engine, catalog, commands, now) == expected
            assert_stored_like_the_model(engine, model, f"{seed}-")
    assert audit(engine).findings == ()


def test_years_are_stored_as_the_model_says(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        assert_years_are_stored(engine, range(20))
    finally:
        engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_years_are_stored_as_the_model_says(engine: Engine) -> None:
    assert_years_are_stored(engine, range(20, 500))


# -- the past ---------------------------------------------------------------------------------------------


def assert_past_is_kept(engine: Engine, seeds: range) -> None:
    """Fail unless each past balance is the one that was shown then; each command has a time of its own."""
    catalogs, reader = list(CATALOGS.values()), Reader(engine)
    for seed, _, day in years_of(seeds):
        catalog, numbers = catalogs[seed % len(catalogs)], count()
        shown: dict[tuple[str, datetime], Balance] = {}
        with named_world(seed):
            for now, command in [(at, command) for at, batch in day for command in batch]:
                moment = now + next(numbers) * timedelta(milliseconds=1)
                replies_to(engine, catalog, [in_world(seed, command)], moment)
                for user in (f"{seed}-u0", f"{seed}-u1"):
                    with suppress(NotFoundError):  # the second is opened by the second command
                        shown[user, moment] = reader.balance(user, moment, catalog)
            for (user, at), balance in shown.items():
                past = reader.balance_at(user, at, catalog)
                assert without_trace(past) == without_trace(balance)


def test_past_of_years_is_as_it_was_shown(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        assert_past_is_kept(engine, range(6))
    finally:
        engine.dispose()


@pytest.mark.slow
def test_past_of_many_years_is_as_it_was_shown(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        assert_past_is_kept(engine, range(6, 60))
    finally:
        engine.dispose()
