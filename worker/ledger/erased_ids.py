"""Digests of erased ids: a command of an erased user is known by them, and opens no account again.

A digest stands by itself: no row says which pseudonym the id became, nor when. It is a plain SHA-256, as the
database computes it: a key beside it would protect it from nobody who can read it, and one elsewhere would
open every erased account again on the day that it is lost.
"""

from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256

from sqlalchemy import Connection

from schemas import NO_USER, Command
from worker.core.known import Known
from worker.core.needs import names_of
from worker.core.superseded import ABOUT_PAYMENTS
from worker.ledger.bulk import Keys, select_rows
from worker.ledger.tables import erased_ids


def digest_of(erased: str) -> str:
    """Return the digest under which the database keeps an erased id."""
    return sha256(f"erased {erased}".encode()).hexdigest()


def erased_among(connection: Connection, ids: Collection[str]) -> frozenset[str]:
    """Return those of ``ids`` that were erased."""
    if not ids:
        return frozenset()
    asked = {digest_of(one): one for one in ids}
    found = select_rows(connection, erased_ids, ("digest",), "digest", Keys(sorted(asked)))
    return frozenset(asked[row.digest] for row in found)


def ids_to_ask(commands: Iterable[Command], known: Known) -> set[str]:
    """Return the ids of ``commands`` that may have been erased: of users without an account, and of payments.

    What the ledger knows is not among them. It is to be asked under the locks of the accounts.
    """
    return set(_unknown(commands, known))


def _unknown(commands: Iterable[Command], known: Known) -> Iterator[str]:
    for command in commands:
        user_id = command.user_id
        if user_id != NO_USER and (user_id not in known.accounts or user_id in known.just_opened):
            yield user_id
        if command.type in ABOUT_PAYMENTS:
            names = (name for name in names_of(command) if name not in known.payment_names)
            yield from (command.reference_id, *names)
