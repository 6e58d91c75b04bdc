"""Imports by hand: an account as it was elsewhere, with the past laid over what is spent of its credits.

Written from the contract's page: credits stand in one order, what went out stands in another, and the one
is laid along the other from end to end.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.support.model_account import AccountModel, Credit, Message, period
from tests.support.model_payments import Payments
from worker.catalog import Catalog

#: A code and what else the reply to a rejected import says.
Refusal = tuple[str, dict[str, Any]]
#: Tokens by what they came from or went to, in order.
Sums = list[tuple[str, int]]

#: The sources of what came in, each with its total and its counter-account.
_CAME = {
    "allocation": ("allocated", "allocation"),
    "purchase": ("purchased", "purchases"),
    "bonus": ("bonus", "bonus"),
    "refund": ("refunded", "refunds"),
    "adjustment": ("adjusted", "adjustments"),
}
_TOTALS = ("allocated", "purchased", "bonus", "refunded", "adjusted", "used", "expired", "reversed")


@dataclass
class Past:
    """A credit with what came into it, by counter-account, and what is left of it."""

    message: Message
    source: str
    came: Sums
    left: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    #: The payment that bought it, if any.
    payment: Message | None = None

    def spent(self) -> int:
        """Tokens that came in and are not left."""
        return _sum(self.came) - self.left


def refusal(catalog: Catalog, message: Message, is_taken: Callable[[Message], bool]) -> Refusal | None:
    """The first reason not to import; ``is_taken`` tells of each payment if its reference is another's."""
    if message["tier"] not in catalog.tiers:
        return "unknown_tier", {"tier": message["tier"]}
    for quota in message["quotas"]:
        if quota["meter"] != "free_upload" and quota["meter"] not in catalog.pricing:
            return "unknown_meter", {"meter": quota["meter"]}
    _, end = _period(message)
    for lot in message["lots"]:
        if lot["source"] == "allocation" and "expiresAt" in lot and _time(lot["expiresAt"]) > end:
            return "allocation_outlasts_period", {"expiresAt": lot["expiresAt"], "periodEnd": wire(end)}
    for payment in payments_of(message):
        if is_taken(payment):
            return "reference_taken", {"originalReferenceId": payment["referenceId"]}
    return None


def payments_of(message: Message) -> list[Message]:
    """Each payment of the import, as a message of its own."""
    own = {"type": "payment.import", "userId": message["userId"], "attempt": message["attempt"]}
    return [{**payment, **own, "occurredAt": payment["paidAt"]} for payment in message["payments"]]


def imported(catalog: Catalog, message: Message, now: datetime, payments: Payments) -> AccountModel:
    """The account as it was at ``asOf``; what has fallen due since is not posted in it."""
    account = AccountModel(catalog, message["tier"], message, now)
    account.anchor = _time(message["anchor"])
    start, account.granted_until = _period(message)
    account.granted_start = start
    account.period_granted = sum(
        _granted(lot)
        for lot in message["lots"]
        if lot["source"] == "allocation" and _ends(lot) == account.granted_until
    )
    _count(account, message["quotas"], start)
    _post_past(account, message, payments)
    for mark in ("low", "depleted"):
        account.look_at_mark(mark)
    account.message = message
    return account


def answer_of(message: Message) -> dict[str, Any]:
    """Parts of the reply to an import beside the balances: what its own lots have left, and the period."""
    start, end = _period(message)
    left = sum(lot["tokens"] for lot in message["lots"] if "paymentReferenceId" not in lot)
    return {"amount": left, "tier": message["tier"], "periodStart": wire(start), "periodEnd": wire(end)}


# -- the past ---------------------------------------------------------------------------------------------


def _post_past(account: AccountModel, message: Message, payments: Payments) -> None:
    """Post each credit with all that came in, take what is spent, and owe what no credit paid."""
    came, went = _sums(message)
    bought = [past for payment in payments_of(message) for past in _bought(message, payment)]
    opening = {**message, "occurredAt": message["openedAt"]}
    given = [
        Past(opening, lot["source"], _came(lot), lot["tokens"], _known_of(lot))
        for lot in message["lots"]
        if "paymentReferenceId" not in lot
    ]
    for past in (*bought, *given):
        came = _without(came, past.came)
    unknown = [past for past in given if past.source == "carried_over"]
    for past in unknown:
        wanted = _sum(past.came)
        past.came = _first(came, wanted)
        came = _without(came, past.came)
    # What no lot names came in and went out again.
    gone = [Past(opening, _source_of(counter), [(counter, tokens)]) for counter, tokens in came]
    known = [past for past in given if past.source != "carried_over"]
    for past in (*bought, *known, *unknown, *gone):
        went = _post(account, past, went, payments)
    _owe(account, opening, went)


def _sums(message: Message) -> tuple[Sums, Sums]:
    """All that ever came in and all that ever went out, each in its order."""
    totals = _totals(message)
    came = [(counter, totals[name]) for name, counter in _CAME.values()]
    named = sum(_granted(lot) for lot in message["lots"] if lot["source"] == "adjustment")
    # A sum of both signs: what was given is known from the lots, and the difference went out.
    taken = max(named - totals["adjusted"], 0)
    came[-1] = ("adjustments", totals["adjusted"] + taken)
    came.append(("reversals", max(-totals["reversed"], 0)))
    went = [("usage", totals["used"]), ("expiry", totals["expired"])]
    went += [("reversals", max(totals["reversed"], 0)), ("adjustments", taken)]
    return _without(came, []), _without(went, [])


def _totals(message: Message) -> dict[str, int]:
    """The totals; without any, what lots and payments were granted, and the rest of it was used."""
    totals = message.get("totals")
    if totals is not None:
        return {name: totals.get(name, 0) for name in _TOTALS}
    totals = dict.fromkeys(_TOTALS, 0)
    for lot in message["lots"]:
        if "paymentReferenceId" not in lot:
            name, _ = _CAME.get(lot["source"], _CAME["adjustment"])
            totals[name] += _granted(lot)
    for payment in message["payments"]:
        totals["purchased"] += payment["tokens"]
        totals["bonus"] += payment["bonusTokens"]
    balance = sum(lot["tokens"] for lot in message["lots"]) - message["debt"]
    totals["used"] = sum(totals.values()) - balance
    return totals


def _bought(message: Message, payment: Message) -> list[Past]:
    """The credits of a payment: what it bought, and its bonus where it has one."""
    parts = [("purchase", "purchases", payment["tokens"])]
    if payment["bonusTokens"]:
        parts.append(("purchase_bonus", "bonus", payment["bonusTokens"]))
    lots = {
        lot["source"]: lot
        for lot in message["lots"]
        if lot.get("paymentReferenceId") == payment["referenceId"]
    }
    nothing: dict[str, Any] = {"tokens": 0}
    return [
        Past(
            payment,
            source,
            [(counter, tokens)],
            lots.get(source, nothing)["tokens"],
            _known_of(lots.get(source, nothing)),
            payment,
        )
        for source, counter, tokens in parts
    ]


def _post(account: AccountModel, past: Past, went: Sums, payments: Payments) -> Sums:
    """Post one credit and take what is spent of it; returns what else went out."""
    account.message = past.message
    begin = _time(past.message["occurredAt"])
    credit = account.note(past.source, _sum(past.came), effective_at=begin, **past.fields)
    for counter, tokens in past.came:
        account.write(tokens, counter, credit["number"])
    spent = _first(went, past.spent())
    for counter, tokens in spent:
        account.write(-tokens, counter, credit["number"])
    if past.payment is not None:
        _list(account, past.payment, credit, payments)
    return _without(went, spent)


def _list(account: AccountModel, payment: Message, credit: Credit, payments: Payments) -> None:
    """List the payment with its first credit; the second one is its bonus."""
    if credit["source"] == "purchase":
        payments.imported(account, payment, credit["number"])
    else:
        (bought,) = payments.taken[-1]["lots"]
        credit["parent"] = bought
        payments.taken[-1]["lots"].append(credit["number"])


def _owe(account: AccountModel, opening: Message, went: Sums) -> None:
    """Owe what went out of no credit; of usage and expiry, a credit lends it."""
    account.message = opening
    lent = [(counter, tokens) for counter, tokens in went if counter in ("usage", "expiry")]
    if lent:
        lender = account.note("carried_over", _sum(lent), effective_at=_time(opening["openedAt"]))
        account.write(-_sum(lent), "transfers", None)
        account.write(_sum(lent), "transfers", lender["number"])
        for counter, tokens in lent:
            account.write(-tokens, counter, lender["number"])
    for counter, tokens in went:
        if (counter, tokens) not in lent:
            account.write(-tokens, counter, None)


def _count(account: AccountModel, quotas: Iterable[dict[str, Any]], start: datetime) -> None:
    for quota in quotas:
        rule = account.catalog.pricing.get(quota["meter"])
        name = quota["meter"] if rule is None or rule.quota is None else rule.quota
        if quota["used"]:
            account.counted.append((name, start, quota["used"]))


# -- small things -----------------------------------------------------------------------------------------


def _period(message: Message) -> tuple[datetime, datetime]:
    return period(_time(message["anchor"]), _time(message["asOf"]))


def _granted(lot: dict[str, Any]) -> int:
    granted: int = lot.get("granted", lot["tokens"])
    return granted


def _came(lot: dict[str, Any]) -> Sums:
    _, counter = _CAME.get(lot["source"], ("", "unknown"))
    return [(counter, _granted(lot))]


def _source_of(counter: str) -> str:
    """The source of a credit for what came from ``counter``; reversals gave purchases back."""
    return next((source for source, (_, name) in _CAME.items() if name == counter), "purchase")


def _known_of(lot: dict[str, Any]) -> dict[str, Any]:
    return {"expires_at": _ends(lot), "priority": lot.get("priority")}


def _ends(lot: dict[str, Any]) -> datetime | None:
    return _time(lot["expiresAt"]) if "expiresAt" in lot else None


def _first(sums: Sums, tokens: int) -> Sums:
    """The first so many tokens of the sums."""
    found = []
    for counter, there in sums:
        part = min(there, tokens)
        tokens -= part
        if part > 0:
            found.append((counter, part))
    return found


def _without(sums: Sums, gone: Sums) -> Sums:
    """The sums less what is gone, without those that come to nothing."""
    left = [(counter, there - _sum([g for g in gone if g[0] == counter])) for counter, there in sums]
    return [(counter, tokens) for counter, tokens in left if tokens > 0]


def _sum(sums: Sums) -> int:
    return sum(tokens for _, tokens in sums)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def wire(moment: datetime) -> str:
    """A UTC time as it stands in a message."""
    return moment.isoformat().replace("+00:00", "Z")
