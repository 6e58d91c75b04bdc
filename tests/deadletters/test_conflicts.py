"""Both sides of a reference conflict: what the ledger stored, and what came."""

from schemas import DeductUsage
from tests.deadletters.parts import World, deduct


def test_both_contents_of_a_conflict_are_side_by_side(world: World) -> None:
    world.open("ann")
    world.apply(DeductUsage(reference_id="r-1", user_id="ann", tokens=5, feature="ocr"))
    same, other = world.park_failed(
        deduct("r-1", 5, feature="ocr"), deduct("r-1", 6, description="not compared")
    )
    assert world.service.details(same).conflicts == ()
    (conflict,) = world.service.details(other).conflicts
    assert conflict.reference_id == "r-1"
    fields = {field.name: (field.stored, field.came, field.differs) for field in conflict.fields}
    assert fields["tokens"] == (5, 6, True)
    assert fields["feature"] == ("ocr", None, True)
    assert fields["userId"] == ("ann", "ann", False)
    assert "description" not in fields


def test_reference_of_another_user_is_a_conflict_of_the_user(world: World) -> None:
    world.open("ann", "bob")
    world.apply(DeductUsage(reference_id="r-1", user_id="bob", tokens=5))
    (number,) = world.park_failed(deduct("r-1"))
    (conflict,) = world.service.details(number).conflicts
    assert [field.name for field in conflict.fields if field.differs] == ["userId"]


def test_batch_shows_the_items_in_conflict(world: World) -> None:
    world.open("ann")
    world.apply(*(DeductUsage(reference_id=f"r-{n}", user_id="ann", tokens=5) for n in (1, 2)))
    items = [deduct("r-1", 5), deduct("r-2", 7), deduct("r-3", 5)]
    (number,) = world.park_failed(
        {"type": "usage.batch", "referenceId": "b-1", "userId": "ann", "items": items}
    )
    assert [one.reference_id for one in world.service.details(number).conflicts] == ["r-2"]
