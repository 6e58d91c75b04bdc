"""A minute of every fault at once."""

import random
from itertools import islice

import pytest

from tests.faults.chaos import FAULTS, Chaos, order_of

SEED, SECONDS = 1, 60.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_chaos_loses_doubles_and_refuses_no_message() -> None:
    chaos = Chaos(SEED, SECONDS)
    chaos.run()
    assert chaos.lines


def test_seed_decides_the_order_of_faults() -> None:
    first, again, other = (list(islice(order_of(random.Random(seed)), 40)) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault for fault, _ in first[: len(FAULTS)]} == set(FAULTS)
