"""Columns of tables, and which of them fit a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

#: Width between two columns.
_GAP = 2
#: Least width of a text that is cut, and the width from which an identifier is cut as well.
_TEXT_MIN, _IDENTIFIER_MAX = 12, 48


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Columns of a higher ``rank`` are dropped first; one of rank 0 always stays.

    A ``text`` is cut with … where space is short; identifiers, times and numbers are whole or not there.
    """

    name: str
    rank: int = 0
    text: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Fit:
    """The columns that are shown, by their index, with their widths; and those that are not."""

    widths: Mapping[int, int]
    dropped: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Width of the table."""
        return sum(self.widths.values()) + _GAP * (len(self.widths) - 1)


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> Fit:
    """Return the columns that fit ``width``; all of them, uncut, where it is None."""
    natural = [
        max([cell_len(column.name), *(cell_len(row[index]) for row in rows)])
        for index, column in enumerate(columns)
    ]
    if width is None:
        return Fit(dict(enumerate(natural)))
    least = [_least(column, full) for column, full in zip(columns, natural, strict=True)]
    kept = _kept(columns, least, width)
    widths = _stretched({index: least[index] for index in kept}, natural, width)
    return Fit(widths, tuple(index for index in range(len(columns)) if index not in widths))


def _least(column: Column, natural: int) -> int:
    return min(natural, max(cell_len(column.name), _TEXT_MIN) if column.text else _IDENTIFIER_MAX)


def _kept(columns: Sequence[Column], least: Sequence[int], width: int) -> list[int]:
    """Return the indices that stay: those of rank 0, then by rank each that still fits."""
    kept = {index for index, column in enumerate(columns) if not column.rank}
    left = width - sum(least[index] + _GAP for index in kept) + _GAP
    by_rank = sorted(set(range(len(columns))) - kept, key=lambda index: (columns[index].rank, index))
    for index in by_rank:
        if least[index] + _GAP <= left:
            kept.add(index)
            left -= least[index] + _GAP
    return sorted(kept)


def _stretched(least: Mapping[int, int], natural: Sequence[int], width: int) -> dict[int, int]:
    """Return the widths with the space that is left, the narrowest column first, up to its natural width."""
    widths = dict(least)
    left = width - sum(widths.values()) - _GAP * (len(widths) - 1)
    wanting = [index for index in widths if widths[index] < natural[index]]
    while left > 0 and wanting:
        narrowest = min(wanting, key=lambda index: widths[index])
        widths[narrowest] += 1
        left -= 1
        wanting = [index for index in wanting if widths[index] < natural[index]]
    return widths
