"""Ids as people see them: letters of two alphabets look alike, so escapes stand beside what isn't ASCII."""


def with_escapes(shown: str, id_: str) -> str:
    r"""Return ``shown``, the text of an id, with escapes where the id isn't ASCII: ``аda (\u0430da)``."""
    return shown if id_.isascii() else f"{shown} ({''.join(map(_escaped, id_))})"


def _escaped(char: str) -> str:
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
