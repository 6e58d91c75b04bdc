"""Parameters of a request, parsed; an invalid one is a QueryError that names the valid form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from schemas.fields import INT64_MAX
from worker.deadletters.models import APPLIED, DeadLetterStatus
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import QueryError

Values = MultiDict[str, str]

_TEXT_MAX = 500
_NUMBERS_MAX = 1_000
_ENTRIES_MAX = 5_000


def text_in(values: Values, name: str) -> str | None:
    """Return a text without white space around it; None where there is none."""
    text = values.get(name, "").strip()
    if len(text) > _TEXT_MAX:
        raise QueryError(f"{name} is too long: at most {_TEXT_MAX} characters")
    return text or None


def number_in(values: Values, name: str) -> int | None:
    """Return a whole number from 0 to 2^63−1; None where there is none."""
    text = values.get(name, "").strip()
    return whole(name, text) if text else None


def whole(name: str, text: str) -> int:
    """Return ``text`` as a whole number. Raises QueryError."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > INT64_MAX:
        raise QueryError(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def moment_in(values: Values, name: str) -> datetime | None:
    """Return a time, which is in UTC unless it has an offset; None where there is none."""
    text = values.get(name, "").strip()
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"{name} must be a time such as 2026-11-22T10:15, not {text[:40]!r}") from error


def day_in(values: Values, name: str) -> date | None:
    """Return a day; None where there is none."""
    text = text_in(values, name)
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise QueryError(f"{name} must be a day such as 2026-11-01, not {text!r}") from error


def undo_entries(values: Values) -> tuple[int, ...]:
    """Return the entries of the activity log to undo: ``undo=7,8``. Raises QueryError."""
    pieces = [piece for piece in values.get("undo", "").split(",") if piece]
    if len(pieces) > _ENTRIES_MAX:
        raise QueryError(f"at most {_ENTRIES_MAX} entries of the activity log can be undone at once")
    return tuple(whole("undo", piece) for piece in pieces)


@dataclass(frozen=True, slots=True)
class DeadLetterSet:
    """Set of dead letters to act on: numbers, or all that a filter finds."""

    numbers: tuple[int, ...] = ()
    filter: DeadLetterFilter | None = None

    @classmethod
    def read(cls, values: Values) -> "DeadLetterSet":
        """Read from ``n=…`` once or more often, or from the filter's parameters. Raises QueryError."""
        named = values.getlist("n")
        if len(named) > _NUMBERS_MAX:
            raise QueryError(f"at most {_NUMBERS_MAX} dead letters can be named; use a filter for more")
        if named:
            return cls(numbers=tuple(dict.fromkeys(whole("n", text.strip()) for text in named)))
        return cls(filter=filter_in(values))

    @property
    def dead_letters(self) -> Sequence[int] | DeadLetterFilter:
        """Set in the form that actions take."""
        return self.numbers if self.filter is None else self.filter

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Parameters that ``read`` makes the same set of."""
        if self.filter is None:
            return [("n", str(number)) for number in self.numbers]
        return filter_pairs(self.filter)

    @property
    def query(self) -> str:
        """Parameters as the query of a URL."""
        return urlencode(self.pairs)

    def only(self, *status: DeadLetterStatus) -> "DeadLetterSet":
        """Return the set with only these statuses, where a filter makes it.

        Raises QueryError where the filter excludes all of them: the action would change dead letters that
        the operator has not seen.
        """
        if self.filter is None:
            return self
        kept = tuple(name for name in self.filter.status if name in status)
        if not kept:
            raise QueryError(
                f"this needs dead letters that are {' or '.join(status)}, "
                f"and the filter finds those that are {' or '.join(self.filter.status)}"
            )
        return DeadLetterSet(filter=replace(self.filter, status=kept))

    def __str__(self) -> str:
        if self.filter is None:
            shown = ", ".join(str(number) for number in self.numbers[:5])
            return (
                f"dead letter {shown}"
                if len(self.numbers) == 1
                else f"dead letters {shown}"
                + (f" and {len(self.numbers) - 5} more" if len(self.numbers) > 5 else "")
            )
        conditions = [f"{name} {value}" for name, value in filter_pairs(self.filter) if name != "status"]
        return f"all dead letters with {', '.join(conditions)}" if conditions else "all dead letters"


_FIELDS: Mapping[str, str] = {
    "code": "code",
    "type": "type",
    "user": "user_id",
    "reference": "reference_id",
    "text": "text",
    "group": "fingerprint",
}
_ALL = "all"


def filter_in(values: Values) -> DeadLetterFilter:
    """Return the filter that the parameters name; without a status, dead letters that wait."""
    named = [name for name in values.getlist("status") if name]
    status: tuple[DeadLetterStatus, ...]
    is_applied = APPLIED in named
    if _ALL in named:
        status = tuple(DeadLetterStatus)
    elif is_applied:
        if len(named) > 1:
            raise QueryError(f"{APPLIED} is a state of its own: give no other status beside it")
        status = (DeadLetterStatus.RESOLVED,)
    else:
        unknown = sorted(set(named) - set(DeadLetterStatus))
        if unknown:
            raise QueryError(
                f"no such status: {', '.join(unknown)[:100]}; "
                f"there are {', '.join((*DeadLetterStatus, APPLIED))}"
            )
        status = tuple(DeadLetterStatus(name) for name in named)
    fields: dict[str, Any] = {field: text_in(values, name) for name, field in _FIELDS.items()}
    since, until = moment_in(values, "since"), moment_in(values, "until")
    chosen = DeadLetterFilter(**fields, since=since, until=until, applied=True if is_applied else None)
    return replace(chosen, status=status) if status else chosen


def filter_pairs(chosen: DeadLetterFilter) -> list[tuple[str, str]]:
    """Return the parameters that ``filter_in`` makes the same filter of."""
    statuses = [APPLIED] if chosen.applied else [status.value for status in chosen.status]
    pairs = [("status", status) for status in statuses]
    pairs += [
        (name, value) for name, field in _FIELDS.items() if (value := getattr(chosen, field)) is not None
    ]
    times = (("since", chosen.since), ("until", chosen.until))
    return pairs + [
        (name, value.replace(tzinfo=None).isoformat()) for name, value in times if value is not None
    ]
