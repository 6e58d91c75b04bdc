"""Rights of broker users: who may send which type, and with references that begin how.

Rules say it once there are any. Without a rule of its own, usage may still come from anyone, and so may a
question about one account. What gives credit, opens or changes accounts, or reads more than one account, is
denied to everybody whom no rule names.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from schemas import (
    MESSAGE_TYPES,
    QUERY_TYPES,
    BonusCredit,
    ImportAccount,
    PaymentSucceeded,
    QueryStats,
    SettleAccount,
    type_of,
)

#: Users that may send a type, or each of them with the prefix that its references must begin with.
Users = Sequence[str] | Mapping[str, str]
#: Rules of senders: users by a pattern of types.
SenderRules = Mapping[str, Users]

#: Types that only a rule which names them without a wildcard allows: others were written before they came.
_NAMED_ONLY: Final = frozenset({type_of(ImportAccount)})
#: Posts what time alone brings about, whoever sends it and however often; the scheduler does.
SETTLE: Final = type_of(SettleAccount)
_STATS: Final = str(QueryStats.model_fields["type"].default)
#: Types that anyone may send where no pattern matches them.
_OPEN_TYPES: Final = frozenset(
    {SETTLE, *(name for name in (*MESSAGE_TYPES, *QUERY_TYPES) if name.startswith(("usage.", "query.")))}
) - {_STATS}
#: Types by which tokens come out of nothing.
CREDIT_TYPES: Final = (type_of(PaymentSucceeded), type_of(BonusCredit))

_ALL_TYPES: Final = (*MESSAGE_TYPES, *QUERY_TYPES)


def rules_by_type(senders: SenderRules) -> Mapping[str, Users]:
    """Return the users of each type that not everybody may send; empty without rules.

    Of several patterns that match a type the longest holds.
    """
    if not senders:
        return {}
    users = {type_: _users_of(type_, senders) for type_ in _ALL_TYPES}
    return {type_: found for type_, found in users.items() if found is not None}


def _users_of(type_: str, senders: SenderRules) -> Users | None:
    """Return who may send ``type_``; None where anyone may."""
    patterns = [pattern for pattern in senders if fnmatchcase(type_, pattern)]
    if type_ in _NAMED_ONLY:
        patterns = [pattern for pattern in patterns if pattern == type_]
    if patterns:
        return senders[max(patterns, key=len)]
    return None if type_ in _OPEN_TYPES else ()


def unmatched(senders: SenderRules) -> Sequence[str]:
    """Return the patterns that match no type: a slip of the pen there gives or denies no right."""
    return [pattern for pattern in senders if not any(fnmatchcase(type_, pattern) for type_ in _ALL_TYPES)]
