"""Lengths of time for people."""

from datetime import timedelta

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def lasting(length: timedelta) -> str:
    """Return a length of time in its two largest units."""
    seconds = max(int(length.total_seconds()), 0)
    for place, (size, name) in enumerate(_STEPS):
        if seconds >= size:
            text = f"{seconds // size} {name}"
            if place + 1 < len(_STEPS) and seconds < 10 * size:
                smaller, smaller_name = _STEPS[place + 1]
                rest = seconds % size // smaller
                text += f" {rest} {smaller_name}" if rest else ""
            return text
    return "0 s"
