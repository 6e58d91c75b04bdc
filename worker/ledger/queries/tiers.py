"""Accounts on tiers that the catalog lacks: they get nothing of a tier, and their usage may be refused."""

from collections import Counter
from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, or_, select

from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import accounts


def accounts_on_missing_tiers(connection: Connection, tiers: Collection[str], most: int) -> Mapping[str, int]:
    """Return the number of accounts on each tier that is none of ``tiers``, now or from a later time on.

    It counts at most ``most`` accounts and some more, and stops then.
    """
    account, known = accounts.c, sorted(tiers)
    missing = func.coalesce(account.next_tier, account.tier)
    lacks = or_(account.tier.not_in(known), account.next_tier.not_in(known))
    found: Counter[str] = Counter()
    for slots in parts_of(connection):
        some = (
            select(account.tier, missing.label("later"))
            .where(in_slots(account.slot, slots), lacks)
            .limit(most + 1)
            .subquery()
        )
        statement = select(some.c.tier, some.c.later, func.count()).group_by(some.c.tier, some.c.later)
        for tier, later, count in connection.execute(statement):
            found[tier if tier not in tiers else later] += count
        if found.total() > most:
            break
    return dict(sorted(found.items()))
