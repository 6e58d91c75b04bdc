r"""Patterns of the models in a form that Python, JavaScript and the others take, and take alike.

Pydantic's patterns are Rust's. JSON Schema asks authors for the few forms that every language has (Core,
6.4): no ``\p``, no ``\u{…}``, no ``\d`` (Python's takes digits of every script), no look-around. And ``$``
stands before a last line feed in Python: ``portable`` refuses that one beside the pattern.
"""

import re
from collections.abc import Iterator

from worker.contract.characters import REFUSED, Range, class_without

Schema = dict[str, object]

_POINT = r"\\u\{[0-9A-Fa-f]+\}"
_ITEM = re.compile(rf"\\p\{{(\w+)\}}|({_POINT})(?:-({_POINT}))?")
_CLASS = re.compile(rf"\[\^((?:\\p\{{\w+\}}|{_POINT}|-)+)\]")
_NOT_EVERYWHERE = re.compile(r"\\[pPuUxdDwWsSbBAzZ]|\(\?(?!:)")


def portable(pattern: str) -> Schema:
    """Return the keywords that stand for a model's pattern, which covers the text from ``^`` to ``$``."""
    return {"pattern": translated(pattern), "not": {"pattern": "\n"}}


def translated(pattern: str) -> str:
    """Return the pattern itself in the common form; raises ValueError where there is none."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError(f"the pattern {pattern!r} must cover the whole text, from ^ to $")
    common = _CLASS.sub(lambda found: class_without(_ranges(found[1])), pattern)
    common = common.replace(r"\d", "[0-9]").replace("(?:", "(")
    if _NOT_EVERYWHERE.search(common):
        raise ValueError(f"the pattern {pattern!r} has a part that not every language knows; see this module")
    return common


def _ranges(items: str) -> Iterator[Range]:
    for found in _ITEM.finditer(items):
        name, first, last = found.groups()
        if name is None:
            yield _point(first), _point(last or first)
        elif name in REFUSED:
            yield from REFUSED[name]
        else:
            raise ValueError(f"\\p{{{name}}} has no ranges in worker.contract.characters")


def _point(text: str) -> int:
    return int(text[3:-1], 16)
