"""Bodies on a terminal: pretty where that hides nothing, else as text, else hexadecimal."""

from worker.cli.text import printable
from worker.deadletters.body_text import pretty_json

_HEX_SHOWN = 4_096


def readable(body: bytes) -> str:
    """Return the body as a terminal may show it."""
    pretty = pretty_json(body)
    if pretty is not None:
        return lines(pretty)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(line.isprintable() for line in text.split("\n")):  # as broken JSON of several lines is
        return text
    left = len(body) - _HEX_SHOWN
    more = f"\n… and {left:,} bytes more, see `billing-worker dead-letters export`" if left > 0 else ""
    return body[:_HEX_SHOWN].hex(" ", 2) + more


def lines(text: str) -> str:
    """Return several lines that a terminal shows and doesn't obey."""
    return "\n".join(map(printable, text.split("\n")))
