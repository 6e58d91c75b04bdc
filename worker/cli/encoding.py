"""Check that arguments and variables are UTF-8: other bytes come to Python as halves of surrogate pairs."""

import os
import re
from collections.abc import Mapping, Sequence

_HALF = re.compile("[\udc80-\udcff]")


def encoding_fault(arguments: Sequence[str], variables: Mapping[str, str]) -> str | None:
    """Return the fault of the first argument, or ``BILLING_…`` variable, that is not UTF-8; None without one.

    A variable is named without its value, which may be a password.
    """
    for place, argument in enumerate(arguments, 1):
        if _HALF.search(argument):
            option = arguments[place - 2] if place > 1 and arguments[place - 2].startswith("-") else ""
            after = f", after {option}," if option else ""
            return f"argument {place}{after} is not UTF-8: {_escaped(argument)}"
    for name, value in variables.items():
        if name.startswith("BILLING_") and _HALF.search(name + value):
            return f"the variable {_escaped(name)} is not UTF-8"
    return None


def _escaped(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")
