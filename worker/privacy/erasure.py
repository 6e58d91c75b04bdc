"""Erasure of a user: the id becomes a pseudonym, texts and bodies go, entries and their proof stay.

The work is one transaction in one function of the database, which the role for privacy alone may execute: it
is done whole or not at all, and may be run again for what has come since.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select, text
from sqlalchemy.exc import DBAPIError

from schemas import slot_of
from worker.deadletters.store import activity_log
from worker.deadletters.store.activity_log import reason_given
from worker.errors import ConfigurationError, NotFoundError, NotPossibleError
from worker.ledger.driver_errors import is_in_use
from worker.ledger.engine import translated_errors
from worker.ledger.erased_ids import erased_among
from worker.ledger.form import is_distributed
from worker.ledger.session_settings import AS_ASKED, as_local
from worker.ledger.tables import accounts, lots
from worker.privacy.rights import require_right

PREFIX = "erased-"

_ERASE = text("SELECT erase_user(:user, :pseudonym, :actor)")


@dataclass(frozen=True, slots=True)
class Erasure:
    """Result of an erasure, or of a dry run: the rows of each table that change.

    ``left`` counts references of other users that hold the id, ``kept`` those that are another user's as
    well: a reference decides what counts once, so that these stay.
    """

    pseudonym: str
    had_account: bool
    rows: Mapping[str, int]
    left: int
    kept: int
    is_done: bool


def pseudonym_for(user_id: str, draw: Callable[[], str] = lambda: token_hex(8)) -> str:
    """Return a pseudonym in the slot of the user, where its rows stay: the first that falls into it."""
    while slot_of(drawn := f"{PREFIX}{draw()}") != slot_of(user_id):
        pass
    return drawn


def erase(
    engine: Engine,
    now: datetime,
    user_id: str,
    *,
    reason: str,
    actor: str,
    force: bool = False,
    dry_run: bool = False,
) -> Erasure:
    """Erase a user; a dry run does the same and takes it back.

    With ``force`` also one whose account has a balance, a debt, holds or a subscription. Raises
    NotFoundError, NotPossibleError, ConfigurationError, ContentionError.
    """
    why = _without_id(reason_given(reason), user_id)
    with translated_errors(), engine.connect() as connection, connection.begin() as transaction:
        _require_possible(connection)
        connection.exec_driver_sql(as_local(AS_ASKED))
        _require_at_rest(_account_of(connection, user_id), user_id, now, force=force)
        was_erased = bool(erased_among(connection, [user_id]))
        pseudonym = pseudonym_for(user_id)
        found = _erased(connection, user_id, pseudonym, actor)
        if not was_erased and found["account"] is None and not any(found["counts"].values()):
            raise NotFoundError(f"nothing in the database is about the user {user_id!r}")
        # Under its lock by now: what came in between is seen here.
        _require_at_rest(_account_of(connection, pseudonym), user_id, now, force=force)
        rows = {name: count for name, count in found["counts"].items() if count}
        detail = {"rows": rows, "left": found["left"], "kept": found["kept"], "forced": force}
        activity_log.write(connection, now, actor, "erase-account", pseudonym, why, detail)
        if dry_run:
            transaction.rollback()
    return Erasure(
        pseudonym, found["account"] is not None, rows, found["left"], found["kept"], is_done=not dry_run
    )


def _require_possible(connection: Connection) -> None:
    require_right(connection, "erase_user")
    if is_distributed(connection):
        raise ConfigurationError("an account of a distributed ledger can't be erased by this version")


def _without_id(reason: str, user_id: str) -> str:
    if user_id in reason.split() or (len(user_id) > 2 and user_id in reason):
        raise NotPossibleError("the reason must not name the user: it stays in the activity log")
    return reason


def _erased(connection: Connection, user_id: str, pseudonym: str, actor: str) -> Mapping[str, Any]:
    try:
        values = {"user": user_id, "pseudonym": pseudonym, "actor": str(actor)}
        found: Mapping[str, Any] = connection.execute(_ERASE, values).scalar_one()
    except DBAPIError as error:
        if not is_in_use(error):
            raise
        raise NotPossibleError(
            "a dead letter of the user is being replayed: wait for the replay, or cancel it, and try again"
        ) from None
    return found


def _account_of(connection: Connection, user_id: str) -> Row[Any] | None:
    """Return the account of a user, with its credit that takes effect later; None without one."""
    account, lot = accounts.c, lots.c
    pending = (
        select(func.coalesce(func.sum(lot.pending), 0))
        .where(lot.slot == account.slot, lot.account_id == account.account_id)
        .scalar_subquery()
    )
    statement = select(accounts, pending.label("pending")).where(
        account.slot == slot_of(user_id), account.user_id == user_id
    )
    return connection.execute(statement).one_or_none()


def _require_at_rest(account: Row[Any] | None, user_id: str, now: datetime, *, force: bool) -> None:
    """Raise NotPossibleError for an account on which something is still to come, unless it is forced."""
    if account is None or force:
        return
    still = {
        f"a balance of {account.balance:,}": account.balance != 0,
        f"{account.held:,} tokens held": account.held > 0,
        f"a debt of {account.debt:,}": account.debt > 0,
        "credit that takes effect later": account.pending > 0,
        "a subscription that goes on": account.ends_at is None or account.ends_at > now,
    }
    reasons = [what for what, is_so in still.items() if is_so]
    if reasons:
        raise NotPossibleError(
            f"the account of {user_id!r} has {', '.join(reasons)}: end it first (subscription.cancel, "
            "`billing-worker adjust`), or give --force, and it goes on under the pseudonym"
        )
