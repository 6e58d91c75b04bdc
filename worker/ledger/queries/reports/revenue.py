"""Report on revenue: money of sold tokens, as accounting recognises it.

Money for tokens is *deferred revenue* until the tokens are used or expire. What was used is *recognised*;
what expired unused is *breakage*, which is recognised as well. At any time the money of a payment, without
what went back of it, is shared by its tokens, without those taken back: each share is in whole minor units,
and they add up to the money (the largest remainder gets what is left). A bonus that came with a purchase was
paid with it, and has its share. Free credit has no money: it is in the reports on tokens alone. Money that
bought no tokens, or whose tokens are all taken back, is recognised at once. Tokens that repaid a debt, that
were corrected by hand, or that went for another payment count as used.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from worker.catalog import PaymentPolicy
from worker.core.apportioning import apportion
from worker.ledger.queries.reports.request import ReportRequest
from worker.ledger.queries.reports.sold import SoldTokens, TokensGone, sold_tokens
from worker.ledger.queries.reports.table import (
    Movements,
    Report,
    ReportColumn,
    Stock,
    Summed,
    Unit,
    folded,
)

COLUMNS = (
    ReportColumn("payments", Unit.COUNT, "payments taken", rank=3),
    ReportColumn("sold", Unit.TOKENS, "tokens that they bought, bonuses included"),
    ReportColumn("used", Unit.TOKENS, "sold tokens that were used since", rank=2),
    ReportColumn("expired", Unit.TOKENS, "sold tokens that expired unused", rank=2),
    ReportColumn("taken_back", Unit.TOKENS, "sold tokens that went back with their money", rank=3),
    ReportColumn("outstanding", Unit.TOKENS, "sold tokens that are left when the range ends", Summed.LAST, 2),
    ReportColumn("gross", Unit.MONEY, "money taken", rank=2),
    ReportColumn("net", Unit.MONEY, "gross less what went back"),
    ReportColumn("opening", Unit.MONEY, "deferred revenue when the range begins", Summed.FIRST),
    ReportColumn("imported", Unit.MONEY, "deferred revenue that came from another system", rank=3),
    ReportColumn("recognised", Unit.MONEY, "revenue of tokens that were used"),
    ReportColumn("breakage", Unit.MONEY, "revenue of tokens that expired unused"),
    ReportColumn("closing", Unit.MONEY, "deferred revenue: opening + imported + net − recognised − breakage",
                 Summed.LAST),
)  # fmt: skip

_MEASURES = (
    *("payments", "sold", "used", "expired", "taken_back", "imported_tokens"),
    *("gross", "net", "imported", "recognised", "breakage"),
)
_STOCKS = (
    Stock("outstanding", {"sold": 1, "imported_tokens": 1, "used": -1, "expired": -1, "taken_back": -1}),
    Stock("closing", {"imported": 1, "net": 1, "recognised": -1, "breakage": -1}, "opening"),
)


@dataclass(frozen=True, slots=True)
class _State:
    """Money of a payment at a time, by what became of its tokens."""

    recognised: int = 0
    breakage: int = 0
    deferred: int = 0


def revenue_report(connection: Connection, request: ReportRequest, policy: PaymentPolicy) -> Report:
    """Return the report on revenue."""
    movements = Movements(request, _MEASURES)
    for sold in sold_tokens(connection, request, policy):
        _add(movements, sold)
    return folded(request, movements, COLUMNS, _STOCKS)


def _add(movements: Movements, sold: SoldTokens) -> None:
    """Add what a payment moved in each part of the range."""
    gone = TokensGone()
    back = 0
    state = _State()
    if sold.is_import:
        gone.add(sold.brought)
        state = _state(sold, gone, back)
        left = sold.tokens - gone.used - gone.expired - gone.taken_back
        movements.add(sold.group, sold.period, imported=state.deferred, imported_tokens=left)
    else:
        money = sold.amount_minor
        movements.add(sold.group, sold.period, payments=1, sold=sold.tokens, gross=money, net=money)
    for period in sorted({sold.period, *sold.gone, *sold.back}):
        went, returned = sold.gone.get(period, TokensGone()), sold.back.get(period, 0)
        gone.add(went)
        back += returned
        after = _state(sold, gone, back)
        movements.add(
            sold.group,
            period,
            used=went.used,
            expired=went.expired,
            taken_back=went.taken_back,
            net=-returned,
            recognised=after.recognised - state.recognised,
            breakage=after.breakage - state.breakage,
        )
        state = after


def _state(sold: SoldTokens, gone: TokensGone, back: int) -> _State:
    """Return the money of a payment when ``gone`` of its tokens and ``back`` of its money are gone."""
    money = sold.amount_minor - back
    left = sold.tokens - gone.used - gone.expired - gone.taken_back
    weights = [max(tokens, 0) for tokens in (gone.used, gone.expired, left)]
    if not any(weights):
        return _State(recognised=money)
    return _State(*apportion(money, weights))
