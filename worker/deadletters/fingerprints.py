"""Fingerprint of a failure: the same for failures of the same kind, whatever their data.

Nothing here may change: the rows of the table keep the fingerprints that it once gave them. Migration 0006
has a copy for the rows that were there before.
"""

import hashlib
import re

_INVALID_FIELD, _DUPLICATE_FIELD = "invalid_field", "duplicate_field"
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

_CLASS = re.compile(r"(?:[\w<>]+\.)*([^\W\d]\w*)(?::|$)")
#: Names below these are a producer's own: those in metadata, and those that an object gives twice.
_IN_METADATA = re.compile(r"((?:items\.\d+\.)?metadata\.).*", re.DOTALL)
_GIVEN_TWICE = re.compile(r"((?:items\.\d+\.)?(?:metadata\.)?).*", re.DOTALL)


def fingerprint_of(
    code: str, type_: str | None, field: str | None, message: str, traceback: str | None
) -> str:
    """Return 32 hexadecimal digits, the same for failures of the same kind.

    Of a fault count the reason code, the type, and the class of the exception. Of a refusal count the code,
    the type, the field, whichever item of a batch it was, and of an invalid value the rule that it breaks.
    The traceback of a fault does not count: its beginning may be cut, and it holds text of producers. The
    name of an unknown field and an unknown type do count, though producers make them up: operators look for
    them.
    """
    kind = [fault_class(message)] if traceback else [field_path(code, field), rule_in(code, field, message)]
    digest = hashlib.sha256("\0".join([code, type_ or "", *kind]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def field_path(code: str, field: str | None) -> str:
    """Return the field without indexes of items, numbers in names, and names of a producer's own."""
    path = field or ""
    if code == _DUPLICATE_FIELD:
        path = _GIVEN_TWICE.sub(r"\1*", path, count=1)
    elif code == _INVALID_FIELD:
        path = _IN_METADATA.sub(r"\1*", path, count=1)
    return _DIGITS.sub("#", path[:_FIELD_MAX])


def rule_in(code: str, field: str | None, message: str) -> str:
    """Return the rule that an invalid value breaks; empty for another code, or a text of no known rule."""
    if code != _INVALID_FIELD:
        return ""
    text = _OTHER_ITEMS.split(message.removeprefix(f"{field}: "), maxsplit=1)[0]
    return next((rule for rule, words in _RULES if words.search(text)), "")


def fault_class(message: str) -> str:
    """Return the class of a fault: its message begins with it. Empty where it does not."""
    found = _CLASS.match(message)
    return found[1] if found else ""
