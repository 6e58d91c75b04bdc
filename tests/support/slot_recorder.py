"""Recorder of the worker's statements on the ledger that don't name the slot of each table they touch.

It looks at the text alone: each table of the ledger, under its name or its alias, needs a column ``slot``.
The plans on the partitioned stand-in prove what the text promises.
"""

import re
import sys
from collections.abc import Iterator

from sqlalchemy import Engine, event

from worker.ledger.tables import LEDGER

_NAMES = "|".join(table.name for table in LEDGER)
_PREPARED = re.compile(r"PREPARE \w+\(.*?\) AS ")
_VERBS = ("WITH", "SELECT", "INSERT", "UPDATE", "DELETE")
_TABLE = re.compile(
    rf"(?:\bFROM|\bJOIN|\bUPDATE|\bINTO|,)\s+({_NAMES})\b(?!\s*\.)(?:\s+AS\s+(\w+))?", re.IGNORECASE
)
#: The judge of one database may do without: whose a reference is can't be asked with a slot.
_JUDGE = re.compile(
    r"SELECT [^()]* FROM operations( AS t)? WHERE (t|operations)\.reference_id (=|IN) [^()]*\([^()]*\)"
    r"( AND (NOT )?(t|operations)\.is_taken( = 0)?)?( ORDER BY \d+)?$"
)
#: Files of the worker that look at tables as a whole.
_WHOLE = ("/worker/ledger/migrations/", "/worker/ledger/form.py", "/worker/ledger/citus.py")


class SlotRecorder:
    """Texts of statements without the slot, as long as it listens."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._judged: set[str] = set()

    def listen(self) -> None:
        """Look at every statement of every engine from now on."""
        event.listen(Engine, "before_cursor_execute", self._look)

    def _look(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement in self._judged:
            return
        if not is_without_slot(statement):
            self._judged.add(statement)
        elif _is_of_worker():
            self.found.append(statement)


def is_without_slot(statement: str) -> bool:
    """Return True for a statement on the ledger that leaves out the slot of a table."""
    text = _PREPARED.sub("", " ".join(statement.split()), count=1)
    return text.startswith(_VERBS) and any(
        not _JUDGE.match(part) and list(_unnamed(part)) for part in text.split(" UNION ALL ")
    )


def _unnamed(text: str) -> Iterator[str]:
    """Yield the names, or aliases, of the tables whose slot is not named."""
    tables = [(match[1], match[2]) for match in _TABLE.finditer(text)]
    for name, alias in tables:
        shown = alias or name
        is_named = re.search(rf"\b{shown}\.slot\b", text) or (
            len({table for table, _ in tables}) == 1 and re.search(r"(?<!\.)\bslot\b", text)
        )
        is_insert = re.search(rf"INTO {name} \([^)]*\bslot\b", text)
        if not is_named and not is_insert:
            yield shown


def _is_of_worker() -> bool:
    """Return True where the worker's code sent the statement, and not a test's own."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/sqlalchemy/" not in path and "slot_recorder" not in path:
            return "/worker/" in path and not any(part in path for part in _WHOLE)
        frame = frame.f_back  # type: ignore[assignment]
    return False
