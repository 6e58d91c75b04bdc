"""Fingerprint of a failure: the same for failures of the same kind, whatever their data.

Nothing here may change: the rows of the table keep the fingerprints that it once gave them. Migration 0006
has a copy for the rows that were there before.
"""

import hashlib
import re

_INVALID_FIELD = "invalid_field"
_FIELD_MAX = 200
_DIGITS = re.compile(r"\d+")

#: Rules that a value may break, by the words of the texts that refuse it; the first that matches counts.
_RULES = tuple(
    (rule, re.compile(words))
    for rule, words in (
        ("too many", r"at most \d+ keys|holds too many|holds more than"),
        ("too long", r"at most \d+ characters"),
        ("empty", r"must not be empty"),
        ("too large", r"too large|at most \d+ is taken|less than"),
        ("too small", r"or more|greater than|must not be 0"),
        ("whole number", r"whole number"),
        ("too old", r"days ago"),
        ("in the future", r"in the future"),
        ("order", r"must be after"),
        ("time", r"RFC 3339|outside the years|must be in|out of range|isoformat"),
        ("characters", r"characters that are not taken|surrogate|capital letters"),
        ("itself", r"names this command itself"),
        ("package", r"name the package"),
        ("expiry", r"is for tokens that are given"),
        ("no type", r"has no type"),
        ("choice", r"one of|should be '"),
        ("type", r"must be|should be a"),
    )
)
#: Text that replies add behind that of the first item that was refused.
_OTHER_ITEMS = re.compile(r" It is one of \d+ such items\.| \d+ more are in conflict with")

_START = r"Traceback \(most recent call last\):\n"
_UNCUT = re.compile(_START)
_NEXT = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    rf"|During handling of the above exception, another exception occurred):\n\n{_START}"
)
_EXCEPTION = re.compile(r"(?:[\w<>]+\.)*([^\W\d]\w*)(?::|$)")


def fingerprint_of(
    code: str, type_: str | None, field: str | None, message: str, traceback: str | None
) -> str:
    """Return 32 hexadecimal digits, the same for failures of the same kind.

    Of a fault count the reason code, the type, and the classes of the exception and its causes. Of a refusal
    count the code, the type, the field, whichever item of a batch it was, and of an invalid value the rule
    that it breaks.
    """
    kind = (
        exceptions_in(traceback, message) if traceback else [field_path(field), rule_in(code, field, message)]
    )
    digest = hashlib.sha256("\0".join([code, type_ or "", *kind]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def field_path(field: str | None) -> str:
    """Return the field without the indexes of items, and without numbers in names that producers made up."""
    return _DIGITS.sub("#", (field or "")[:_FIELD_MAX])


def rule_in(code: str, field: str | None, message: str) -> str:
    """Return the rule that an invalid value breaks; empty for another code, or a text of no known rule."""
    if code != _INVALID_FIELD:
        return ""
    text = _OTHER_ITEMS.split(message.removeprefix(f"{field}: "), maxsplit=1)[0]
    return next((rule for rule, words in _RULES if words.search(text)), "")


def exceptions_in(traceback: str, message: str) -> list[str]:
    """Return the class of the fault, and before it those of its causes, the first cause first.

    A long traceback has lost its beginning: then its causes are unknown, and the fault's class stands alone.
    The message of a fault begins with its class.
    """
    *causes, last = _NEXT.split(traceback)
    known = causes if _UNCUT.match(traceback) else []
    fault = _EXCEPTION.match(message)
    return [*map(_raised_in, known), fault[1] if fault else _raised_in(last)]


def _raised_in(block: str) -> str:
    """Return the class of the exception that ends a block of frames; they are indented, it is not."""
    lines = block.removeprefix("Traceback (most recent call last):\n").splitlines()
    raised = next((line for line in lines if line and not line.startswith(" ")), "")
    found = _EXCEPTION.match(raised)
    return found[1] if found else ""
