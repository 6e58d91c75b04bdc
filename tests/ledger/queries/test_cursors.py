"""Cursors: a place comes back as it was given, and anything else is refused."""

from base64 import urlsafe_b64encode

import pytest

from schemas.fields import INT64_MAX
from worker.errors import QueryError
from worker.ledger.queries.cursors import cursor_of, place_in


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("place", [(0,), (12,), (INT64_MAX,), (3, 1_764_000_000_000_000, 9), (0, 0, 0)])
def test_cursor_keeps_its_place(place: tuple[int, ...]) -> None:
    assert place_in(cursor_of(7, *place), 7, len(place)) == place


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "\x00",
        "A" * 5_000,
        encoded("7"),
        encoded("7."),
        encoded("7.-1"),
        encoded("7.1.2"),
        encoded("7.01"),
        encoded("7.٣"),
        encoded("8.1"),
        encoded(f"7.{INT64_MAX + 1}"),
        encoded("7.1") + "=",
        encoded("7.1") + "\n",
    ],
)
def test_text_that_is_no_cursor_of_the_account_is_refused(cursor: str) -> None:
    with pytest.raises(QueryError, match="take the next one from a page") as refused:
        place_in(cursor, 7, 1)
    assert refused.value.field == "cursor"


def test_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(QueryError):
        place_in(cursor_of(7, 1, 2, 3), 7, 1)
    with pytest.raises(QueryError):
        place_in(cursor_of(7, 1), 7, 3)
