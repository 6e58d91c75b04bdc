"""The check of a user's order sees an order that changed, and nothing else."""

import json

import pytest

from schemas import Command, DeductUsage, OpenAccount, PaymentSucceeded
from tests.support.apply_commands import applied
from tests.support.steady_producer import Publication, malformed, valid
from tests.support.user_order import misplaced
from worker.catalog import load_catalog
from worker.ledger.engine import ledger_engine


def publication(command: Command, correlation_id: str | None = None) -> Publication:
    return valid(json.loads(command.to_json()), correlation_id)


def used(number: int, user_id: str = "ann") -> Command:
    return DeductUsage(reference_id=f"{user_id}-{number}", user_id=user_id, tokens=1)


PAID = PaymentSucceeded(
    reference_id="paid", user_id="ann", package_id="standard", amount_minor=1_999, currency="USD"
)
FIRST, SECOND, THIRD = (publication(used(number)) for number in (1, 2, 3))
OF_BOB = publication(used(1, "bob"))


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ([FIRST, SECOND, THIRD], []),
        ([FIRST, THIRD], []),
        ([SECOND, FIRST], ["ann, billing.usage: ann-1, ann-2"]),
        ([FIRST, THIRD, SECOND], ["ann, billing.usage: ann-1, ann-2, ann-3"]),
        ([THIRD, OF_BOB], []),  # users have no order among themselves
        ([THIRD, publication(PAID)], []),  # nor have lanes
        ([SECOND, publication(used(1), "a copy")], []),
        ([THIRD, publication(used(9)), malformed(1)], []),  # these have no entry
    ],
)
def test_order_is_that_of_a_user_and_a_lane(
    published: list[Publication], expected: list[str], sqlite_url: str
) -> None:
    engine = ledger_engine(sqlite_url)
    opened = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro") for user in ("ann", "bob")]
    applied(engine, load_catalog(), *opened, used(1, "bob"), PAID, used(1), used(2), used(3))
    assert misplaced(engine, published) == expected
    engine.dispose()
