"""Character classes of the contract's patterns, as ranges that every language reads alike.

Python's ``re`` knows no Unicode properties, and the unassigned characters are others in each version of
Unicode. So a pattern lists what is refused for ever: controls, format characters, surrogates, private use,
noncharacters, and reserved characters that will be invisible whatever they become. Other unassigned
characters pass the file, and the worker refuses them until its version of Unicode knows them.
"""

from collections.abc import Iterable, Iterator
from typing import Final

Range = tuple[int, int]

_LAST: Final = 0x10FFFF
_SURROGATES: Final[Range] = (0xD800, 0xDFFF)

_CONTROLS: Final[tuple[Range, ...]] = ((0x00, 0x1F), (0x7F, 0x9F))

#: Format characters (Cf) of Unicode 16, and the reserved ones between them that stay invisible.
_FORMAT: Final[tuple[Range, ...]] = (
    (0x00AD, 0x00AD),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x180E, 0x180E),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0xFEFF, 0xFEFF),
    (0xFFF0, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE00FF),
    (0xE01F0, 0xE0FFF),
)

_PRIVATE: Final[tuple[Range, ...]] = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFF), (0x100000, 0x10FFFF))

_NONCHARACTERS: Final[tuple[Range, ...]] = (
    (0xFDD0, 0xFDEF),
    *((plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(17)),
)

_LINE: Final[Range] = (0x2028, 0x2028)
_PARAGRAPH: Final[Range] = (0x2029, 0x2029)
_SPACES: Final[tuple[Range, ...]] = (
    (0x0020, 0x0020),
    (0x00A0, 0x00A0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)

#: Refused characters of each property that a model's pattern may name.
REFUSED: Final[dict[str, tuple[Range, ...]]] = {
    "C": (*_CONTROLS, *_FORMAT, *_PRIVATE, *_NONCHARACTERS),
    "Cc": _CONTROLS,
    "Z": (*_SPACES, _LINE, _PARAGRAPH),
    "Zl": (_LINE,),
    "Zp": (_PARAGRAPH,),
}


def class_without(refused: Iterable[Range]) -> str:
    """Return the class of all characters outside of ``refused``, such as ``[!-~¡-ÿ]``.

    It names what is taken, by the characters themselves: so it needs no escape that one language lacks, and
    leaves surrogates out, which are in no text.
    """
    return "[" + "".join(map(_span, _gaps((*refused, _SURROGATES)))) + "]"


def _gaps(refused: Iterable[Range]) -> Iterator[Range]:
    begin = 0
    for first, last in sorted(refused):
        if first > begin:
            yield begin, first - 1
        begin = max(begin, last + 1)
    if begin <= _LAST:
        yield begin, _LAST


def _span(taken: Range) -> str:
    first, last = map(chr, taken)
    if not {first, last}.isdisjoint(r"\[]^-"):
        raise ValueError(f"the range {first}-{last} would need an escape in a class of characters")
    return first if first == last else f"{first}-{last}"
