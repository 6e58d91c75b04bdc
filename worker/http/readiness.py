"""Readiness: the ledger answers a query, and has the schema that this version needs."""

import logging
from collections.abc import Callable
from datetime import datetime

from schemas import QueryOperation
from worker.http.asking import AnswersQueries
from worker.runtime.cached_value import CachedValue
from worker.runtime.limited_log import LimitedLog

log = logging.getLogger(__name__)

_MAX_AGE_S, _TIMEOUT_S = 1.0, 2.0
#: Query of the probe: a look-up by a key; nothing needs to be known of it.
_PROBE = QueryOperation(reference_id="readyz")


def readiness_of(
    service: AnswersQueries, require_schema: Callable[[], None], clock: Callable[[], datetime]
) -> CachedValue[None]:
    """Return the readiness, which is asked at most once a second, however many probes come."""
    unready = LimitedLog(log, logging.WARNING)

    def probe() -> None:
        try:
            require_schema()
            service.answer([_PROBE])
        except Exception as error:
            unready.add(type(error).__name__, f"not ready: {error}")
            raise

    return CachedValue(
        probe, name="the probe", max_age_s=_MAX_AGE_S, timeout_s=_TIMEOUT_S, clock=clock, pause_factor=1
    )
