"""Reader of the ledger: each query in a snapshot of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Engine

from worker.catalog import Catalog
from worker.ledger.queries import balances, expiring, explain, history, holdings, statements, totals, usage
from worker.ledger.queries.balances import Affordability, Balance
from worker.ledger.queries.expiring import Expiring, ExpiringPage
from worker.ledger.queries.explain import Explanation
from worker.ledger.queries.history import History
from worker.ledger.queries.holdings import Holds, Lots
from worker.ledger.queries.snapshots import in_utc, snapshot
from worker.ledger.queries.statements import Statement
from worker.ledger.queries.totals import Stats
from worker.ledger.queries.usage import UsageReport


class Reader:
    """Answers from one database. Cheap to make; connects when asked.

    Every method raises LedgerUnavailableError where the database doesn't answer, NotFoundError for a user or
    a reference that isn't known, and QueryError for a query that makes no sense. Times
    may be in any zone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def balance(self, user_id: str, now: datetime, catalog: Catalog) -> Balance:
        """Return the balance of ``user_id`` at ``now``, with what is due and not posted yet."""
        with snapshot(self._engine) as connection:
            return balances.balance(connection, user_id, in_utc("now", now), catalog)

    def balance_at(self, user_id: str, at: datetime, catalog: Catalog) -> Balance:
        """Return the past balance at ``at``; for a time to come, the future one if nothing else happens.

        It uses today's catalog where something was due and not posted at that time.
        """
        with snapshot(self._engine) as connection:
            return balances.balance_at(connection, user_id, in_utc("at", at), catalog)

    def can_afford(self, user_id: str, tokens: int, now: datetime, catalog: Catalog) -> Affordability:
        """Return the result of a ``usage.deduct`` of ``tokens``, from 1 to 2^63−1, at ``now``."""
        with snapshot(self._engine) as connection:
            return balances.can_afford(connection, user_id, tokens, in_utc("now", now), catalog)

    def lots(
        self,
        user_id: str,
        now: datetime,
        catalog: Catalog,
        *,
        used_up: bool = False,
        limit: int | None = None,
        behind: int | None = None,
    ) -> Lots:
        """Return the lots of ``user_id``, next to be spent first; with ``used_up`` the empty ones as well.

        Return up to ``limit`` (1 to 1000), or all, ``behind`` the lot of that number where it is given.
        """
        with snapshot(self._engine) as connection:
            return holdings.lots_of(
                connection, user_id, in_utc("now", now), catalog, used_up=used_up, limit=limit, behind=behind
            )

    def holds(
        self,
        user_id: str,
        now: datetime,
        catalog: Catalog,
        *,
        ended: bool = False,
        limit: int = 100,
        behind: str | None = None,
    ) -> Holds:
        """Return the open holds of ``user_id``; with ``ended`` up to ``limit`` (1 to 1000) others as well.

        Return the ended ones ``behind`` the hold of that reference, and no open one, where it is given.
        """
        with snapshot(self._engine) as connection:
            return holdings.holds_of_user(
                connection, user_id, in_utc("now", now), catalog, ended=ended, limit=limit, behind=behind
            )

    def expiring(self, user_id: str, now: datetime, days: int, catalog: Catalog) -> tuple[Expiring, ...]:
        """Return the tokens of ``user_id`` that expire within ``days`` (1 to 3660), in the order of time."""
        with snapshot(self._engine) as connection:
            return tuple(expiring.of_user(connection, user_id, in_utc("now", now), days, catalog))

    def all_expiring(self, now: datetime, days: int, catalog: Catalog) -> Iterator[Expiring]:
        """Yield the same for all users, account by account, read while the caller iterates."""
        with snapshot(self._engine) as connection:
            yield from expiring.of_everybody(connection, in_utc("now", now), days, catalog)

    def expiring_page(
        self,
        user_id: str | None,
        now: datetime,
        days: int,
        catalog: Catalog,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ExpiringPage:
        """Return up to ``limit`` (1 to 1000) lines of ``expiring``, or of ``all_expiring`` without a user."""
        with snapshot(self._engine) as connection:
            moment = in_utc("now", now)
            if user_id is None:
                return expiring.page_of_everybody(connection, moment, days, catalog, limit, cursor)
            return expiring.page_of_user(connection, user_id, moment, days, catalog, limit, cursor)

    def history(self, user_id: str, limit: int = 50, offset: int = 0, cursor: str | None = None) -> History:
        """Return a page of the entries of ``user_id``, newest first, from ``offset`` or behind ``cursor``."""
        with snapshot(self._engine) as connection:
            return history.history(connection, user_id, limit, offset, cursor)

    @contextmanager
    def statement(self, user_id: str, start: datetime, end: datetime) -> Iterator[Statement]:
        """Open the statement of ``user_id`` from ``start`` until before ``end``; read it inside the block."""
        with snapshot(self._engine) as connection:
            yield statements.statement(connection, user_id, in_utc("start", start), in_utc("end", end))

    def explain(self, reference_id: str, now: datetime, catalog: Catalog) -> Explanation:
        """Return everything that the ledger knows of ``reference_id``."""
        with snapshot(self._engine) as connection:
            return explain.explain(connection, reference_id, now, catalog)

    def usage(
        self, user_id: str, now: datetime, catalog: Catalog, days: int = 30, timezone: str = "UTC"
    ) -> UsageReport:
        """Return the usage of the last ``days`` (1 to 366) local days in ``timezone``, today included."""
        with snapshot(self._engine) as connection:
            return usage.usage(connection, user_id, in_utc("now", now), catalog, days, timezone)

    def stats(self) -> Stats:
        """Return totals over all accounts, operations and payments."""
        with snapshot(self._engine) as connection:
            return totals.stats(connection)
