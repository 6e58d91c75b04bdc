"""Text of others on a terminal: shown, never obeyed."""


def printable(text: str) -> str:
    """Return ``text`` as one line that a terminal shows and doesn't obey: a producer may send anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
