"""Explanation of a reference: the ledger's, with the dead letters that name it."""

from dataclasses import fields
from datetime import timedelta

import pytest
from sqlalchemy import insert

from schemas import DeductUsage
from tests.deadletters.parts import NOW, World
from tests.support.query_samples import dead_letter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store import tables
from worker.errors import NotFoundError, NotPossibleError
from worker.ledger.queries import Explanation


def add(world: World, *references: str) -> None:
    with world.engine.begin() as connection:
        connection.execute(insert(tables.dead_letters), [dead_letter(one) for one in references])


def test_dead_letters_are_listed_beside_the_outcome_and_without_one(world: World) -> None:
    world.open("ann")
    world.apply(DeductUsage(reference_id="job", user_id="ann", tokens=1))
    add(world, "job", "never-applied")
    for reference, outcomes in (("job", 1), ("never-applied", 0)):
        view = world.service.explain(reference)
        assert [(one.reason, one.attempts) for one in view.dead_letters] == [("unknown_type", 2)]
        assert len(view.outcomes) == outcomes


def test_explanation_ends_with_the_dead_letters_in_json(world: World) -> None:
    world.open("ann")
    view = world.service.explain("open-ann", NOW + timedelta(days=1)).to_dict()
    assert [*view][-1] == "deadLetters"
    assert len(view) == len(fields(Explanation)) + 1
    assert view["deadLetters"] == []


def test_dead_letter_of_unknown_time_is_listed_without_one(world: World) -> None:
    with world.engine.begin() as connection:
        row = dead_letter("job") | {"first_failed_at": None, "last_failed_at": None}
        connection.execute(insert(tables.dead_letters), row)
    (mention,) = world.service.explain("job").dead_letters
    assert mention.last_failed_at is None


def test_unknown_reference_is_not_found_and_the_error_names_the_way_on(world: World) -> None:
    with pytest.raises(NotFoundError, match=r"nothing is known of the reference 'job'.*dead-letters list"):
        world.service.explain("job")


def test_explanation_without_a_catalog_is_refused(world: World) -> None:
    with pytest.raises(NotPossibleError, match="catalog"):
        DeadLetters(world.engine).explain("job")
