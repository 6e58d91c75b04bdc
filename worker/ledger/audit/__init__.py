"""The audit: proves from the entries that every balance is explained, or names what isn't.

Everything is counted anew by the database, in one snapshot, so that the audit can run beside the workers. A
check is a statement whose rows are its findings; checks that read the same rows share one pass over them.
``checks`` says in words what each finds. ``run`` divides the ledger into ``shares``, ranges of slots, and
``jobs`` work on them side by side; ``share_checks`` lists the checks, and the other modules hold those of one
concern each.
"""

from worker.ledger.audit.checks import CHECKS
from worker.ledger.audit.effects import EFFECTS
from worker.ledger.audit.report import FINDINGS_MAX, AuditProgress, AuditReport, Discrepancy, OnProgress
from worker.ledger.audit.run import JOBS_MAX, audit, audit_snapshot

__all__ = [
    "CHECKS",
    "EFFECTS",
    "FINDINGS_MAX",
    "JOBS_MAX",
    "AuditProgress",
    "AuditReport",
    "Discrepancy",
    "OnProgress",
    "audit",
    "audit_snapshot",
]
