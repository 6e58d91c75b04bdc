"""Hypothesis strategies of imports that meet other commands: few users, few payments, every kind of past."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from schemas import Command
from tests.support import chosen_imports as choices
from tests.support.chosen_imports import ImportChoice, LotChoice, PaymentChoice, import_of, within_period

Common = Mapping[str, st.SearchStrategy[Any]]


def imports(common: Common, tiers: Sequence[str], now: datetime) -> st.SearchStrategy[Command]:
    """Return imports with the ``common`` fields, of states up to some weeks before ``now``.

    Some are refused: for a meter that nobody sells, or an allocation that outlasts its period.
    """
    return _imports(common, tiers, now, _lots(), [*choices.METERS, *choices.METERS, "fax"])


def good_imports(common: Common, tiers: Sequence[str], now: datetime) -> st.SearchStrategy[Command]:
    """Return imports that bring an account, where the tiers are sold and no payment is another's."""
    return _imports(common, tiers, now, _lots().map(within_period), choices.METERS)


def _imports(
    common: Common,
    tiers: Sequence[str],
    now: datetime,
    lots: st.SearchStrategy[LotChoice],
    meters: Sequence[str],
) -> st.SearchStrategy[Command]:
    quotas = st.tuples(st.sampled_from(list(meters)), st.sampled_from(choices.USED))
    choice = st.builds(
        ImportChoice,
        tier=st.sampled_from(list(tiers)),
        ages=st.tuples(st.sampled_from(choices.AGES), *[st.sampled_from(choices.EARLIER)] * 3),
        lots=st.lists(lots, max_size=4),
        payments=st.lists(_payments(), max_size=2, unique_by=lambda paid: paid.reference_id),
        debt=st.sampled_from(choices.DEBTS),
        quotas=st.lists(quotas, max_size=2, unique_by=lambda quota: quota[0]),
        past=st.none() | _pasts(),
    )
    return st.tuples(choice, st.fixed_dictionaries(dict(common))).map(
        lambda drawn: import_of(drawn[0], now, **drawn[1])
    )


def _lots() -> st.SearchStrategy[LotChoice]:
    return st.builds(
        LotChoice,
        source=st.sampled_from(choices.SOURCES),
        left=st.sampled_from(choices.LEFT),
        ends=st.sampled_from(choices.LOT_ENDS),
        priority=st.sampled_from(choices.PRIORITIES),
    )


def _payments() -> st.SearchStrategy[PaymentChoice]:
    return st.builds(
        PaymentChoice,
        reference_id=st.sampled_from(["p0", "p0", "p1", "p2"]),
        money=st.sampled_from(choices.MONEY),
        bought=st.sampled_from(choices.BOUGHT),
        left=st.tuples(*[st.sampled_from(choices.LEFT_OF_BOUGHT)] * 2),
        ends=st.sampled_from(choices.ENDS),
    )


def _pasts() -> st.SearchStrategy[dict[str, int]]:
    """Return what came in and went out beside the lots; what was used follows from the rest."""
    more, either = st.sampled_from(choices.MORE), st.sampled_from(choices.EITHER)
    return st.fixed_dictionaries(
        {
            **dict.fromkeys(choices.CAME_OR_WENT, more),
            **dict.fromkeys(choices.OF_BOTH_SIGNS, either),
        }
    )
