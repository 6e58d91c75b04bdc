"""The audit as a whole: share by share, each complete in itself, on one or several connections."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine, func, select, text

from worker.catalog import Catalog
from worker.ledger.audit import payment_names
from worker.ledger.audit.jobs import Step, in_parallel
from worker.ledger.audit.report import FINDINGS_MAX, AuditProgress, AuditReport, Discrepancies, OnProgress
from worker.ledger.audit.share_checks import STEPS_A_SHARE, Demand, check_share
from worker.ledger.audit.shares import SLOT_BY_SLOT, WHOLE, shares_of
from worker.ledger.audit.sums import EXAMINED, Sums, sums_by_slot, total
from worker.ledger.audit.taken import without_taker
from worker.ledger.queries import snapshot
from worker.ledger.slots import Slots

#: Most jobs: as many connections as an engine's pool gives.
JOBS_MAX = 15


class _Share(NamedTuple):
    """Slots to be checked, and their sums; None where they are to be read in the snapshot of the share."""

    slots: Slots
    sums: Sums | None = None


class _Checked(NamedTuple):
    """Result of a share."""

    findings: Discrepancies
    sums: Sums


class _Snapshots(NamedTuple):
    """Snapshots that an audit reads.

    ``begin`` begins one, where each share has its own. ``divisions`` are the slots that a statement may read
    at once, all together. ``release`` ends the last one of a connection.
    """

    divisions: Sequence[Slots]
    begin: Callable[[Connection], None]
    release: Callable[[Connection], None]


def audit(
    engine: Engine,
    on_progress: OnProgress | None = None,
    findings_max: int = FINDINGS_MAX,
    *,
    catalog: Catalog | None = None,
    jobs: int = 1,
    one_slot: bool = False,
    claims_before: datetime | None = None,
    waiting_before: datetime | None = None,
) -> AuditReport:
    """Audit the whole ledger as it stands at one moment, beside workers that go on.

    Lists at most ``findings_max`` (from 1) findings of each check and counts the others. ``catalog`` says
    whether an open dispute has taken tokens; without one both are accepted, since policies change and the
    ledger keeps what was done under each. ``jobs`` connections check shares side by side on PostgreSQL; on
    SQLite it is one.

    A distributed ledger has no moment that all its slots share: with ``one_slot`` each is read by itself, at
    a moment of its own. ``claims_before`` is for a ledger with claims: each operation must have one, and a
    claim made before that time its operation. An event that waits although its payment is there is a finding
    where it was recorded before ``waiting_before``, if given. Raises LedgerUnavailableError.
    """
    demand = Demand(findings_max, catalog, claims_before, waiting_before)
    with ExitStack() as stack:
        number = jobs if engine.dialect.name == "postgresql" else 1
        connections = [stack.enter_context(snapshot(engine)) for _ in range(number)]
        if one_slot:
            shares = [_Share(slots) for slots in SLOT_BY_SLOT]
            return _audit(connections, shares, demand, on_progress, _ONE_A_SLOT)
        _set_memory(connections[0])
        shares = _summed(connections[0], jobs=number)
        _share_snapshot(connections)
        return _audit(connections, shares, demand, on_progress, _ONE)


def audit_snapshot(
    connection: Connection,
    on_progress: OnProgress | None = None,
    findings_max: int = FINDINGS_MAX,
    *,
    catalog: Catalog | None = None,
    claims_before: datetime | None = None,
    waiting_before: datetime | None = None,
    shares: Sequence[Slots] | None = None,
) -> AuditReport:
    """Audit as ``audit`` does, inside an open transaction, which should not see others' commits."""
    _set_memory(connection)
    demand = Demand(findings_max, catalog, claims_before, waiting_before)
    return _audit([connection], _summed(connection, shares), demand, on_progress, _OPEN)


# -- snapshots --------------------------------------------------------------------------------------------


def _share_snapshot(connections: Sequence[Connection]) -> None:
    """Give all connections the snapshot of the first. They work from then on: an idle one is ended."""
    first, *others = connections
    if others:
        name = first.execute(select(func.pg_export_snapshot())).scalar_one()
        for connection in others:
            connection.execute(text(f"SET TRANSACTION SNAPSHOT '{name}'"))
            _set_memory(connection)


def _begin_anew(connection: Connection) -> None:
    """Begin another snapshot."""
    connection.rollback()
    _set_memory(connection)


def _stay(connection: Connection) -> None:
    """Leave the transaction as it is."""


_ONE = _Snapshots([WHOLE], _stay, Connection.rollback)
_ONE_A_SLOT = _Snapshots(SLOT_BY_SLOT, _begin_anew, Connection.rollback)
_OPEN = _Snapshots([WHOLE], _stay, _stay)


def _set_memory(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # The statements are long and a share is short: to compile them takes longer than to run them.
        connection.execute(text("SET LOCAL jit = off"))
        # A share of a large ledger sorts its entries: with a session's default memory, mostly on the disk.
        connection.execute(text("SET LOCAL work_mem = '64MB'"))


# -- shares -----------------------------------------------------------------------------------------------


def _summed(connection: Connection, shares: Sequence[Slots] | None = None, jobs: int = 1) -> list[_Share]:
    """Return these shares, or those that fit the ledger, with their sums."""
    by_slot = sums_by_slot(connection, WHOLE)
    if shares is None:
        shares = shares_of(total(by_slot.values())["entries"], jobs)
    return [_Share(slots, _sums_of(slots, by_slot)) for slots in shares]


def _sums_of(slots: Slots, by_slot: Mapping[int, Sums]) -> Sums:
    return total(sums for slot, sums in by_slot.items() if slots.first <= slot <= slots.last)


def _audit(
    connections: Sequence[Connection],
    shares: Sequence[_Share],
    demand: Demand,
    on_progress: OnProgress | None,
    snapshots: _Snapshots,
) -> AuditReport:
    def check(connection: Connection, share: _Share, step: Step) -> _Checked:
        snapshots.begin(connection)
        sums = share.sums
        if sums is None:
            sums = total(sums_by_slot(connection, share.slots).values())
        findings = check_share(connection, share.slots, sums, demand, step)
        if sums["taken"]:
            findings.add_all(
                without_taker(
                    connection, share.slots, snapshots.divisions, snapshots.begin, demand.claims_before
                )
            )
        places = payment_names.Places(snapshots.divisions, snapshots.begin)
        findings.add_all(payment_names.of_share(connection, share.slots, places, demand.claims_before))
        if share.slots.first <= 0:  # one share alone has the first slot
            findings.add_all(
                payment_names.beside(connection, places, demand.claims_before, demand.waiting_before)
            )
        return _Checked(findings, sums)

    progress = _Progress(on_progress, len(shares) * STEPS_A_SHARE)
    return _report(demand, in_parallel(connections, shares, check, progress.step, snapshots.release))


def _report(demand: Demand, checked: Sequence[_Checked]) -> AuditReport:
    findings = Discrepancies(demand.findings_max)
    for share in checked:
        findings.include(share.findings)
    sums = total(share.sums for share in checked)
    return AuditReport(
        findings=findings.listed,
        found=findings.found,
        drift=findings.drift,
        debtors=sums["debtors"],
        debt=sums["debt"],
        uncollected=sums["uncollected"],
        examined={table.name: sums[table.name] for table in EXAMINED},
    )


class _Progress:
    """Number of checks that are done, of all shares."""

    def __init__(self, on_progress: OnProgress | None, in_all: int) -> None:
        self._on_progress, self._done, self._in_all = on_progress, 0, in_all
        self._report()

    def step(self) -> None:
        """Count a check."""
        self._done += 1
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(AuditProgress("checks", self._done, self._in_all))
