"""Checks of one share: everything of its users, in the statements of one connection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, select

from worker.catalog import Catalog
from worker.ledger.audit import accounts as account_checks
from worker.ledger.audit import claims as claim_checks
from worker.ledger.audit import entries as entry_checks
from worker.ledger.audit import freezing as freezing_checks
from worker.ledger.audit import holds as hold_checks
from worker.ledger.audit import lots as lot_checks
from worker.ledger.audit import outcomes as outcome_checks
from worker.ledger.audit import payments as payment_checks
from worker.ledger.audit import quotas as quota_checks
from worker.ledger.audit import refunds as refund_checks
from worker.ledger.audit.comparing import Checks, listed
from worker.ledger.audit.jobs import Step
from worker.ledger.audit.report import Discrepancies
from worker.ledger.audit.scope import Scope, scope_of
from worker.ledger.audit.sums import Sums
from worker.ledger.slots import Slots
from worker.ledger.tables import catalogs, senders

_Check = Callable[[Scope], Checks]

_CHECKS: Sequence[_Check] = (
    account_checks.sums,
    freezing_checks.states,
    entry_checks.chains,
    lot_checks.remains,
    lot_checks.origins,
    quota_checks.sums,
    quota_checks.chains,
    quota_checks.counted,
    quota_checks.given_back,
    outcome_checks.owners,
    outcome_checks.each,
    outcome_checks.replaced,
    hold_checks.lives,
    hold_checks.endings,
    hold_checks.parts,
    refund_checks.each,
    refund_checks.together,
    payment_checks.each,
    payment_checks.events,
)
STEPS_A_SHARE = len(_CHECKS) + 1


@dataclass(frozen=True, slots=True)
class Demand:
    """Extent of an audit, as ``audit`` describes it."""

    findings_max: int
    catalog: Catalog | None
    claims_before: datetime | None
    waiting_before: datetime | None = None


def check_share(
    connection: Connection, slots: Slots, sums: Sums, demand: Demand, step: Step
) -> Discrepancies:
    """Return the findings of a share, whose sums are given; ``step`` is called ``STEPS_A_SHARE`` times."""
    findings = Discrepancies(demand.findings_max)
    parameters = {
        **slots._asdict(),
        "findings_max": demand.findings_max,
        "senders": connection.execute(select(senders.c.sender_id)).scalars().all(),
        "catalogs": connection.execute(select(catalogs.c.catalog_id)).scalars().all(),
    }

    def check(checks: _Check) -> None:
        findings.add(connection.execute(_statement(checks, scope_of(slots)), parameters))

    for checks in _CHECKS:
        check(checks)
        step()
    findings.add_all(payment_checks.back(connection, slots, demand.catalog))
    if _may_be_without_account(sums, findings):
        check(account_checks.missing)
    if _may_be_unclaimed(sums, findings):
        check(entry_checks.unclaimed)
    if demand.claims_before is not None:
        findings.add_all(claim_checks.differences(connection, slots, demand.claims_before))
    step()
    return findings


@cache
def _statement(checks: _Check, scope: Scope) -> Select[Any]:
    return listed(scope, checks(scope))


def _may_be_without_account(sums: Sums, findings: Discrepancies) -> bool:
    """Return True where there may be an entry without an account.

    An account's entries are numbered from one: where no check found otherwise, and the accounts have as many
    entries as there are, they have all of them.
    """
    is_numbered = findings.found.keys().isdisjoint(account_checks.NUMBERED)
    return sums["posted"] != sums["entries"] or not is_numbered


def _may_be_unclaimed(sums: Sums, findings: Discrepancies) -> bool:
    """Return True where there may be an entry that no operation counts among its own.

    An entry names one operation, so that it can't be claimed twice: where all operations have the entries
    that they claim, and claim as many as there are, they claim all of them.
    """
    are_there = findings.found.keys().isdisjoint(outcome_checks.CLAIMS)
    return sums["claimed"] != sums["entries"] or not are_there
