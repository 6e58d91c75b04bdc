"""Rejected payments of a batch: each is counted, and told in one line of the log."""

import logging
from collections.abc import Collection, Iterable

from worker.broker import Delivery
from worker.core import Answer, Decided, Outcome
from worker.core.incidents import is_rejected_payment
from worker.messages.origin import origin_of
from worker.messages.tracing import trace_of
from worker.metrics import Metrics
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent


class RejectedPayments:
    """Counter of rejected payments, with a line for each; a duplicate was told before."""

    def __init__(
        self, metrics: Metrics, logger: logging.Logger, worker_users: Collection[str | None] = ()
    ) -> None:
        self._metrics, self._log, self._worker_users = metrics, logger, worker_users

    def add(self, delivery: Delivery, answers: Iterable[Answer]) -> None:
        """Count the rejected payments among the ``answers`` to a delivery, and log them."""
        for answer in answers:
            if not isinstance(answer, Decided) or answer.duplicate or answer.outcome.is_applied:
                continue
            if is_rejected_payment(answer.outcome):
                self._report(delivery, answer.outcome)

    def _report(self, delivery: Delivery, outcome: Outcome) -> None:
        self._metrics.payments_rejected.labels(outcome.code.value).inc()
        # The reference and the user alone are the producer's: what else the payment says is in the ledger.
        self._log.warning(
            "rejected the payment %r (%s): see `billing-worker payments`; "
            "mend the cause, then `billing-worker retry`",
            outcome.reference_id,
            outcome.code.value,
            extra=log_fields.fields(
                LogEvent.PAYMENT_REJECTED,
                type=outcome.type,
                reference_id=outcome.reference_id,
                user_id=outcome.user_id or None,
                code=outcome.code.value,
                attempt=outcome.attempt,
                queue=delivery.queue,
                sender=origin_of(delivery, self._worker_users).sender,
                trace=trace_of(delivery),
            ),
        )
