"""Changes of groups in one transaction: counts, sums, and the latest failure of each."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from worker.deadletters.models import WAITING
from worker.deadletters.store import tables
from worker.deadletters.store.bounded_sum import SQLITE_MAX, bounded_sum
from worker.ledger.bulk import Keys, insert_rows, select_rows, update_rows

_NUMBERS = ("parked", "replaying", "resolved", "discarded", "tokens_at_stake", "tokens_unknown")
_COLUMNS = tuple(column.name for column in tables.dead_letter_groups.columns)


@dataclass(frozen=True, slots=True)
class LatestFailure:
    """Latest failure of a group, as the group's row keeps it; times are None where unknown."""

    number: int
    reason: str
    type: str | None
    field: str | None
    message: str
    first_failed_at: datetime | None
    last_failed_at: datetime | None

    @classmethod
    def of(cls, number: int, row: Mapping[str, Any], first_failed_at: datetime | None) -> "LatestFailure":
        """Return the failure of a dead letter's row; the group knows no earlier one of that dead letter."""
        names = ("reason", "type", "field", "message", "last_failed_at")
        return cls(number, first_failed_at=first_failed_at, **{name: row[name] for name in names})


class GroupChanges:
    """Collects the changes of groups, and writes each group once."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._latest: dict[str, LatestFailure] = {}

    def count(self, dead_letter: Mapping[str, Any], by: int) -> None:
        """Count the dead letter in its group, or out of it, with the tokens that it asks to move."""
        counts = self._counts[dead_letter["fingerprint"]]
        counts[dead_letter["status"]] += by
        if dead_letter["status"] in WAITING:
            tokens = dead_letter["tokens_at_stake"]
            counts["tokens_unknown"] += by if tokens is None else 0
            counts["tokens_at_stake"] += 0 if tokens is None else by * tokens

    def set_latest(self, fingerprint: str, failure: LatestFailure) -> None:
        """Make ``failure`` the latest one of its group; the group's times span all that were given."""
        known = self._latest.get(fingerprint)
        if known is not None:
            failure = replace(
                failure,
                first_failed_at=_earlier(known.first_failed_at, failure.first_failed_at),
                last_failed_at=_later(known.last_failed_at, failure.last_failed_at),
            )
        self._latest[fingerprint] = failure

    def flush(self, connection: Connection) -> None:
        """Write the groups that differ now."""
        touched = sorted(self._counts.keys() | self._latest.keys())
        found = select_rows(connection, tables.dead_letter_groups, _COLUMNS, "fingerprint", Keys(touched))
        known = {row.fingerprint: {name: getattr(row, name) for name in _COLUMNS} for row in found}
        changed, added = [], []
        for fingerprint in touched:
            before = known.get(fingerprint)
            row = self._row(fingerprint, before)
            if connection.dialect.name == "sqlite":
                _bound(connection, row, before)
            if before is None:
                added.append(row)
            elif row != before:
                changed.append(row)
        insert_rows(connection, tables.dead_letter_groups, added)
        update_rows(connection, tables.dead_letter_groups, changed, key=("fingerprint",))

    def _row(self, fingerprint: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
        row: dict[str, Any] = (
            {"fingerprint": fingerprint, "first_failed_at": None, "last_failed_at": None}
            | dict.fromkeys(_NUMBERS, 0)
            if before is None
            else {**before, "tokens_at_stake": int(before["tokens_at_stake"])}
        )
        for name, by in self._counts[fingerprint].items():
            row[name] += by
        row["waiting"] = row["parked"] + row["replaying"]
        if (latest := self._latest.get(fingerprint)) is not None:
            row |= {
                "reason": latest.reason,
                "type": latest.type,
                "field": latest.field,
                "message": latest.message,
                "sample": latest.number,
                "first_failed_at": _earlier(row["first_failed_at"], latest.first_failed_at),
                "last_failed_at": _later(row["last_failed_at"], latest.last_failed_at),
            }
        return {name: row[name] for name in _COLUMNS}


def _bound(connection: Connection, row: dict[str, Any], before: Mapping[str, Any] | None) -> None:
    """Keep the tokens within SQLite's numbers; from a sum that was cut they are counted anew."""
    if before is not None and before["tokens_at_stake"] == SQLITE_MAX:
        dead_letter = tables.dead_letters.c
        statement = select(bounded_sum(connection, dead_letter.tokens_at_stake)).where(
            dead_letter.fingerprint == row["fingerprint"],
            dead_letter.status.in_([status.value for status in WAITING]),
        )
        row["tokens_at_stake"] = connection.execute(statement).scalar_one()
    row["tokens_at_stake"] = min(row["tokens_at_stake"], SQLITE_MAX)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the earlier of two times; an unknown one does not count."""
    return min((time for time in (one, other) if time is not None), default=None)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    """Return the later of two times; an unknown one does not count."""
    return max((time for time in (one, other) if time is not None), default=None)
