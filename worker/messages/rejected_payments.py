"""Rejected payments of a batch: each is counted, and told in one line of the log."""

import logging
from collections.abc import Iterable

from worker.core import Answer, Decided
from worker.core.incidents import is_rejected_payment
from worker.metrics import Metrics
from worker.runtime.limited_log import LimitedLog


class RejectedPayments:
    """Counter of rejected payments, with a line for each; a duplicate was told before."""

    def __init__(self, metrics: Metrics, logger: logging.Logger) -> None:
        self._metrics = metrics
        self._log = LimitedLog(logger, logging.WARNING)

    def add(self, answers: Iterable[Answer]) -> None:
        """Count the rejected payments among ``answers``, and log them."""
        for answer in answers:
            if not isinstance(answer, Decided) or answer.duplicate or answer.outcome.is_applied:
                continue
            if is_rejected_payment(answer.outcome):
                self._report(answer.outcome.reference_id, answer.outcome.code.value)

    def _report(self, reference_id: str, code: str) -> None:
        self._metrics.payments_rejected.labels(code).inc()
        # The reference alone is the producer's: what else the payment says is in the ledger.
        self._log.add(
            reference_id,
            f"rejected the payment {reference_id!r} ({code}): see `billing-worker payments`; "
            "mend the cause, then `billing-worker retry`",
        )
