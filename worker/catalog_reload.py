"""Reload of the catalog while a process runs: judged first, taken by all its parts or by none."""

import logging
from collections.abc import Callable

from worker.catalog import Catalog
from worker.errors import ConfigurationError
from worker.runtime import log_fields
from worker.runtime.hang_up import HangUp
from worker.runtime.log_fields import LogEvent

log = logging.getLogger(__name__)

#: Judge of a catalog. Raises ConfigurationError where it must not be used here.
Judge = Callable[[Catalog], None]


class CatalogReload:
    """Reload on request. ``load`` reads the file; ``current`` is the catalog that is used until then.

    ``run`` is for the main loop, between its batches: no part sees two catalogs in one.
    """

    def __init__(self, load: Callable[[], Catalog], current: Callable[[], Catalog], hang_up: HangUp) -> None:
        self._load, self._current, self._hang_up = load, current, hang_up
        self._judges: list[Judge] = []
        self._users: list[Callable[[Catalog], None]] = []

    def add(self, use: Callable[[Catalog], None], judge: Judge | None = None) -> None:
        """Hand each new catalog to ``use``, once every ``judge`` has found it good."""
        self._users.append(use)
        if judge is not None:
            self._judges.append(judge)

    @property
    def requested(self) -> bool:
        """True where somebody has asked for it."""
        return self._hang_up.requested

    def run(self) -> None:
        """Reload; a catalog that is bad is logged with its fault, and the old one stays."""
        self._hang_up.take()
        fresh = self._judged()
        if fresh is None:
            return
        old = self._current()
        for use in self._users:
            use(fresh)
        _report(old, fresh)

    def is_good(self) -> bool:
        """Return True where the file holds a catalog that can be used; log its fault otherwise."""
        return self._judged() is not None

    def _judged(self) -> Catalog | None:
        try:
            fresh = self._load()
            for judge in self._judges:
                judge(fresh)
        except ConfigurationError as error:
            log.error(  # noqa: TRY400 - a person's fault, without a traceback
                "the catalog stays as it was: %s", error, extra=log_fields.fields(LogEvent.CATALOG_REFUSED)
            )
            return None
        return fresh


def _report(old: Catalog, fresh: Catalog) -> None:
    """Log the change; accounts on a tier that is gone get nothing of it any more."""
    before, now = (catalog.short_digest for catalog in (old, fresh))
    gone = sorted({*old.tiers} - {*fresh.tiers})
    lost = (
        f"; it lacks {', '.join(map(repr, gone))}: see `billing-worker check` for accounts on it"
        if gone
        else ""
    )
    text = f"is the same, {now}" if before == now else f"is {now} now, and was {before}"
    log.log(
        logging.WARNING if gone else logging.INFO,
        "the catalog is reloaded: it %s%s",
        text,
        lost,
        extra=log_fields.fields(LogEvent.CATALOG_RELOADED),
    )
