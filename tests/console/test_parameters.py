"""Parameters of a request: filters and sets of dead letters."""

from datetime import UTC, datetime

import pytest
from werkzeug.datastructures import MultiDict

from tests.console.sample_data import HOSTILE
from worker.console.parameters import DeadLetterSet, filter_in, filter_pairs
from worker.deadletters.models import DeadLetterStatus
from worker.errors import QueryError


def test_set_of_dead_letters_survives_a_url() -> None:
    for pairs in (
        [("n", "1"), ("n", "5")],
        [("status", "parked"), ("code", HOSTILE), ("user", "a&b=c"), ("since", "2026-11-22T10:15:00")],
        [("status", "all"), ("text", "ü")],
        [("since", "2026-11-22T10:15:00.25"), ("until", "0999-01-01T00:00")],
    ):
        chosen = DeadLetterSet.read(MultiDict(pairs))
        assert DeadLetterSet.read(MultiDict(chosen.pairs)) == chosen


def test_filter_survives_a_form() -> None:
    chosen = filter_in(MultiDict({"until": "2026-11-22T10:15:00+01:00", "group": "abcd"}))
    assert chosen.until == datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
    assert filter_in(MultiDict(filter_pairs(chosen))) == chosen


def test_action_stays_within_its_filter() -> None:
    chosen = DeadLetterSet.read(MultiDict([("status", "parked"), ("status", "resolved"), ("type", "t")]))
    assert chosen.only(DeadLetterStatus.PARKED).pairs == [("status", "parked"), ("type", "t")]
    with pytest.raises(QueryError, match="the filter finds those that are resolved"):
        DeadLetterSet.read(MultiDict([("status", "resolved")])).only(DeadLetterStatus.PARKED)
