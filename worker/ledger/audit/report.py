"""Report of an audit: its findings, its totals, and its progress."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Row

from worker.ledger.audit.checks import CHECKS
from worker.ledger.queries import View

FINDINGS_MAX = 100


@dataclass(frozen=True)
class Discrepancy(View):
    """Row that isn't as it must be. ``check`` is a key of ``CHECKS``.

    The fields that identify it are given where known: the account, the reference, the sequence of an entry,
    the number of a lot, the meter and period of a quota. ``expected`` follows from the entries or the
    outcome, ``actual`` is stored.
    """

    check: str
    account_id: int | None
    user_id: str | None
    reference_id: str | None
    sequence: int | None
    lot: int | None
    quota: str | None
    expected: int | None
    actual: int | None

    @classmethod
    def of_reference(cls, check: str, reference_id: str, user_id: str) -> Self:
        """Return the finding that a row is missing for this reference of a user: an operation or a claim."""
        return cls(check, None, user_id, reference_id, None, None, None, expected=1, actual=0)

    def __str__(self) -> str:
        names = {
            "user": self.user_id,
            "account": None if self.user_id is not None else self.account_id,
            "reference": self.reference_id,
            "quota": self.quota,
            "lot": self.lot,
            "entry": self.sequence,
        }
        place = ", ".join(f"{name} {value}" for name, value in names.items() if value is not None)
        return f"{place}: {CHECKS[self.check]}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True)
class AuditReport(View):
    """Result of an audit: the findings, and the number of rows examined.

    ``found`` counts the findings of each check that has any, also those past the limit, which are not among
    ``findings``. ``drift`` is the sum of the differences, in tokens and without their signs, between the
    balances and their entries, over all accounts. ``debt`` is what ``debtors`` accounts owe, and
    ``uncollected`` what was written off of payments that went back: both are tokens, and no findings.
    ``examined`` counts the rows of each table.
    """

    findings: tuple[Discrepancy, ...]
    found: Mapping[str, int]
    drift: int
    debtors: int
    debt: int
    uncollected: int
    examined: Mapping[str, int]

    @property
    def is_clean(self) -> bool:
        """True where nothing was found."""
        return not self.found

    @property
    def unlisted(self) -> int:
        """Number of findings that are counted but not listed."""
        return sum(self.found.values()) - len(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as every view does, with ``isClean`` first."""
        return {"isClean": self.is_clean, "unlisted": self.unlisted, **super().to_dict()}


@dataclass(frozen=True)
class AuditProgress(View):
    """Progress of a part of the audit: what it works through, and how many of ``total`` are done."""

    step: str
    done: int
    total: int


OnProgress = Callable[[AuditProgress], None]


class Discrepancies:
    """Findings so far: of each check the first ones, and the count and drift of all of them."""

    def __init__(self, findings_max: int) -> None:
        self._findings_max = findings_max
        self._listed: dict[str, list[Discrepancy]] = {}
        self._found: dict[str, int] = {}
        self.drift = 0

    def add(self, rows: Iterable[Row[Any]]) -> None:
        """Add the findings of one statement, as ``comparing.listed`` gives them."""
        for row in rows:
            if row.number == 1:  # each row of a check has the sums of all of them
                self._count(row.check, row.found)
                self.drift += int(row.drift or 0)
            self._list(_finding(row))

    def add_all(self, findings: Iterable[Discrepancy]) -> None:
        """Add findings that were made outside the database."""
        for finding in findings:
            self._count(finding.check, 1)
            self._list(finding)

    def include(self, later: "Discrepancies") -> None:
        """Add the findings of another share, whose slots come after those so far."""
        self.drift += later.drift
        for check, found in later.found.items():
            self._count(check, found)
        for finding in later.listed:
            self._list(finding)

    def _count(self, check: str, found: int) -> None:
        self._found[check] = self._found.get(check, 0) + found

    def _list(self, finding: Discrepancy) -> None:
        listed = self._listed.setdefault(finding.check, [])
        if len(listed) < self._findings_max:
            listed.append(finding)

    @property
    def listed(self) -> tuple[Discrepancy, ...]:
        """Discrepancies that are listed, check by check."""
        return tuple(finding for check in CHECKS for finding in self._listed.get(check, ()))

    @property
    def found(self) -> Mapping[str, int]:
        """Number of findings of each check that has any."""
        return {check: self._found[check] for check in CHECKS if check in self._found}


def _finding(row: Row[Any]) -> Discrepancy:
    return Discrepancy(
        check=row.check,
        account_id=row.account_id,
        user_id=row.user_id,
        reference_id=row.reference_id,
        sequence=row.sequence,
        lot=row.lot,
        quota=None if row.meter is None else f"{row.meter} {row.period_start}",
        expected=None if row.expected is None else int(row.expected),
        actual=None if row.actual is None else int(row.actual),
    )
