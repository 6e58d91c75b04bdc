"""Text of others as one line, which terminals and readers of logs show and don't obey."""


def printable(text: str) -> str:
    """Return ``text`` as one line that a terminal shows and doesn't obey: a producer may send anything."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
