"""Formats of values on a page: numbers, times, and text from outside."""

from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

from worker.messages.dead_letters import EPOCH
from worker.runtime.cached_value import Unknown
from worker.runtime.durations import lasting
from worker.runtime.shown_balance import owed_after, owed_text
from worker.runtime.shown_ids import with_escapes
from worker.runtime.shown_money import shown_money


def visible(text: Any) -> str:
    """Return ``text`` with invisible characters as escapes, so that it can't deceive; line ends stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode("ascii")
        for char in str(text).replace("\r\n", "\n")
    )


def shortened(text: Any, most: int = 120) -> str:
    """Return ``text`` on one line of at most ``most`` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def shown_id(id_: Any, most: int = 120) -> str:
    """Return an id on one line, cut to ``most`` characters, with escapes beside it where it isn't ASCII."""
    return shortened(with_escapes(shortened(id_, most), str(id_)), 2 * most)


def number(value: int | Unknown | None) -> Markup:
    """Return a whole number in groups of three digits, or unknown."""
    if isinstance(value, Unknown):
        return unknown(value.why)
    return unknown() if value is None else Markup(f"{value:,}")  # noqa: S704 - digits


def balance(value: int | None, available: int | None = None, debt: int | None = None) -> Markup:
    """Return a balance; of an account in debt what it may spend and owes, else one below zero in red."""
    if value is None:
        return unknown()
    if debt and (owed := owed_text(value if available is None else available, debt)) is not None:
        return Markup('<span class="owed">{}</span>').format(owed)
    if value < 0:
        shown = signed(value)
        return Markup('<span class="owed" title="{:,} owed">{}</span>').format(owed_after(value), shown)
    return number(value)


def money(minor: int | None, currency: str | None) -> Markup:
    """Return money with its currency, from minor units; unknown without an amount."""
    return unknown() if minor is None else Markup("{}").format(shown_money(minor, currency))


def signed(value: int | None) -> Markup:
    """Return a whole number with its sign."""
    return unknown() if value is None else Markup(f"{value:+,}".replace("-", "−"))  # noqa: S704 - digits


def unknown(why: str = "") -> Markup:
    """Return an unknown value, with the reason in its title."""
    return Markup('<span class="unknown" title="{}">unknown</span>').format(why or "No value is stored")


def moment(value: datetime | None) -> Markup:
    """Return a time to the second, in UTC; a dead letter without one has an unknown time."""
    if value is None or value == EPOCH:
        return unknown()
    return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), f"{value:%Y-%m-%d %H:%M:%S}Z")


def ago(value: datetime | None, now: datetime) -> Markup:
    """Return the age in one unit; the time itself is in the title."""
    if value is None or value == EPOCH:
        return unknown()
    text = "just now" if now - value < timedelta(seconds=2) else f"{lasting(now - value)} ago"
    if value > now + timedelta(seconds=2):
        text = f"in {lasting(value - now)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        value.isoformat(), f"{value:%Y-%m-%d %H:%M:%S}Z", text
    )


def compact(value: int) -> str:
    """Return a number for an axis: 1.2k, 3M."""
    for size, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}".rstrip("0").rstrip(".") + name
    return str(value)


def size(octets: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{octets / 1024:,.1f} KiB" if octets >= 1024 else f"{octets} B"


def words(text: Any) -> str:
    """Return a code such as insufficient_balance as words."""
    return str(text).replace("_", " ").replace(".", " ")


# Rows keep the words of the first version: the action "park", the subjects "letter 7" and "letters 7, 8".


def action(stored: str) -> str:
    """Return a stored action of the activity log in the words of the pages."""
    return words("drain" if stored == "park" else stored)


def subject(stored: str) -> str:
    """Return the stored subject of an action or a replay in the words of the pages."""
    return f"dead {stored}" if stored.startswith("letter") else stored
