"""The audit: proves from the entries that every balance is explained, or names what isn't.

Everything is counted anew by the database, in one snapshot, so that the audit can run beside the workers. A
check is a statement whose rows are its findings; checks that read the same rows share one pass over them.
``checks`` says in words what each finds, ``run`` works through them step by step, and every other module
holds the checks of one concern.
"""

from worker.ledger.audit.checks import CHECKS
from worker.ledger.audit.effects import EFFECTS
from worker.ledger.audit.report import FINDINGS_MAX, AuditProgress, AuditReport, Discrepancy, OnProgress
from worker.ledger.audit.run import audit, audit_snapshot

__all__ = [
    "CHECKS",
    "EFFECTS",
    "FINDINGS_MAX",
    "AuditProgress",
    "AuditReport",
    "Discrepancy",
    "OnProgress",
    "audit",
    "audit_snapshot",
]
