"""Effect of each message on the account of its user, written down a second time and in another way.

A rule is given the account with all that is due posted; it writes in it, or says why not.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.support.model_books import Books, Message, period
from tests.support.model_payments import Payments
from worker.catalog import Package, PricingRule

Answer = dict[str, Any]
#: A message that was judged, and its answer.
Judgement = tuple[Message, Answer]
#: By reference: each message that was judged.
Judgements = dict[str, list[Judgement]]
#: A code, an amount (None: rejected), and what else the reply says.
Verdict = tuple[str, int | None, dict[str, Any]]


class Rules:
    """The rules, and what they remember beside the books: what was given back, and the till."""

    def __init__(self, judgements: Judgements) -> None:
        self._judgements = judgements
        #: References of usages that were given back, with the tokens.
        self._given_back: list[tuple[str, int]] = []
        self.till = Payments()

    def judge(self, books: Books, message: Message) -> Verdict:
        """Judge the message: its code, its amount (None: rejected), and what else the reply says."""
        return self._by_type[message["type"]](self, books, message)

    def _applied(self, reference_id: str) -> tuple[Message, Answer] | None:
        """The message of that reference and its answer, if it was applied."""
        past = self._judgements.get(reference_id, [])
        return past[-1] if past and past[-1][1]["status"] == "applied" else None

    # -- accounts -----------------------------------------------------------------------------------------

    def _exists(self, books: Books, _message: Message) -> Verdict:
        return "account_exists", None, {"tier": books.tier}

    def _settle_account(self, _books: Books, _message: Message) -> Verdict:
        return "account_settled", 0, {}

    # -- usage --------------------------------------------------------------------------------------------

    def _deduct(self, books: Books, message: Message) -> Verdict:
        if message["tokens"] > max(books.available(), 0):
            return _insufficient(message["tokens"], books.available())
        books.take(message["tokens"], "usage", feature=message.get("feature"))
        return "tokens_deducted", message["tokens"], {}

    def _upload(self, books: Books, message: Message) -> Verdict:
        tier = books.plan()
        if tier is None:
            return "unknown_tier", None, {"tier": books.tier}
        limit = 0 if books.has_ended() else tier.free_upload_bytes
        used, size = books.used("free_upload"), message["bytes"]
        if size > 0 and used + size > limit:
            left = limit - used if used < limit else 0
            figures = {"required": size, "available": left, "shortfall": size - left}
            return "free_upload_limit_exceeded", None, {**figures, "used": used, "limit": limit}
        books.counted.append(("free_upload", books.period()[0], size))
        return "free_upload_counted", size, {"used": used + size, "limit": limit}

    def _reserve(self, books: Books, message: Message) -> Verdict:
        tokens = message["tokens"]
        if tokens > books.available():
            return _insufficient(tokens, books.available())
        until = books.now + timedelta(seconds=message["ttlSeconds"])
        books.holds.append(
            {
                "reference": message["referenceId"],
                "amount": tokens,
                "parts": books.parts_for(tokens),
                "state": "open",
                "captured": 0,
                "openedAt": books.now,
                "expiresAt": until,
                "closedAt": None,
            }
        )
        return "tokens_reserved", tokens, {"expiresAt": _wire(until)}

    def _settle_hold(self, books: Books, message: Message) -> Verdict:
        name, tokens = message["originalReferenceId"], message["tokens"]
        hold = books.hold_named(name)
        if hold is None:
            return "hold_not_found", None, {"originalReferenceId": name}
        if hold["state"] != "open":
            return "hold_closed", None, {"originalReferenceId": name, "state": hold["state"]}
        kept = hold["amount"]
        if tokens > kept and message["onExcess"] == "refuse":
            return _of(name, _short("hold_exceeded", tokens, kept))
        if tokens > kept and tokens - kept > books.available():
            return _of(name, _insufficient(tokens, kept + books.available()))
        books.close(hold, "settled", books.now)
        hold["captured"] = tokens
        for lot, amount in hold["parts"]:
            part = min(amount, tokens)
            books.write(-part, "usage", lot, feature=message.get("feature"))
            tokens -= part
        books.take(tokens, "usage", feature=message.get("feature"))
        released = kept - message["tokens"] if message["tokens"] < kept else 0
        return "hold_settled", message["tokens"], {"originalReferenceId": name, "released": released}

    def _release(self, books: Books, message: Message) -> Verdict:
        name = message["originalReferenceId"]
        hold = books.hold_named(name)
        if hold is None:
            return "hold_not_found", None, {"originalReferenceId": name}
        if hold["state"] != "open":
            return "hold_closed", None, {"originalReferenceId": name, "state": hold["state"]}
        books.close(hold, "released", books.now)
        return "hold_released", hold["amount"], {"originalReferenceId": name}

    def _record(self, books: Books, message: Message) -> Verdict:
        meter, quantity = message["meter"], message["quantity"]
        rule, tier = books.catalog.pricing.get(meter), books.plan()
        if rule is None:
            return "unknown_meter", None, {"meter": meter}
        if tier is None:
            return "unknown_tier", None, {"tier": books.tier}
        quota = meter if rule.quota is None else rule.quota
        limit = tier.free_upload_bytes if quota == "free_upload" else tier.free_units.get(quota, 0)
        if books.has_ended():
            limit = 0
        used = books.used(quota)
        free = min(quantity, limit - used) if used < limit else 0
        tokens = _price(rule, quantity - free)
        if tokens > max(books.available(), 0):
            return _insufficient(tokens, books.available())
        if free:
            books.counted.append((quota, books.period()[0], free))
        books.take(tokens, "usage", feature=message.get("feature", meter))
        detail = {
            "meter": meter,
            "quantity": quantity,
            "freeQuantity": free,
            "chargedQuantity": quantity - free,
            "used": used + free,
            "limit": limit,
        }
        return "usage_recorded", tokens, detail

    # -- credit -------------------------------------------------------------------------------------------

    def _refund(self, books: Books, message: Message) -> Verdict:
        tokens, name = message["tokens"], message.get("originalReferenceId")
        if name is None:
            if books.catalog.refunds.unbound == "refuse":
                return "original_required", None, {}
            books.fill(books.note("refund", tokens), tokens, "refunds")
            return "tokens_refunded", tokens, {}
        past = self._judgements.get(name)
        if not past or past[-1][0]["userId"] != message["userId"]:
            return "original_not_found", None, {"originalReferenceId": name}
        original = self._applied(name)
        if original is None or original[0]["type"] not in ("usage.deduct", "usage.settle", "usage.record"):
            return "original_not_refundable", None, {"originalReferenceId": name}
        taken = [
            (movement["lot"], -movement["amount"])
            for movement in books.movements
            if movement["referenceId"] == name and movement["counter"] == "usage"
        ]
        back = sum(amount for reference_id, amount in self._given_back if reference_id == name)
        left = sum(amount for _, amount in taken) - back
        if tokens > left:
            return _of(name, _short("refund_exceeds_original", tokens, left))
        self._given_back.append((name, tokens))
        repaid = min(books.debt(), tokens)
        books.write(repaid, "refunds", None)
        # Tokens taken last go back first; a refund begins where the one before it ended.
        for lot, amount in _stretch(taken[::-1], back + repaid, back + tokens):
            books.write(amount, "refunds", lot)
        return "tokens_refunded", tokens, {"originalReferenceId": name}

    def _bonus(self, books: Books, message: Message) -> Verdict:
        tokens, start, end = message["tokens"], _time(message, "effectiveAt"), _time(message, "expiresAt")
        until = {} if end is None else {"expiresAt": _wire(end)}
        if end is not None and end <= books.now:
            return "credit_expired", None, until
        is_later = start is not None and start > books.now
        credit = books.note(
            "bonus",
            tokens,
            expires_at=end,
            effective_at=start if is_later else None,
            priority=message.get("priority"),
            is_waiting=is_later,
        )
        if start is not None and is_later:
            return "bonus_scheduled", tokens, {"effectiveAt": _wire(start), **until}
        books.fill(credit, tokens, "bonus")
        return "bonus_granted", tokens, until

    def _adjust(self, books: Books, message: Message) -> Verdict:
        tokens, end = message["tokens"], _time(message, "expiresAt")
        why = {"reason": message["reason"], "actor": message["actor"]}
        if tokens > 0:
            if end is not None and end <= books.now:
                return "credit_expired", None, {"expiresAt": _wire(end), **why}
            books.fill(books.note("adjustment", tokens, expires_at=end), tokens, "adjustments")
            return "adjustment_credited", tokens, why
        if -tokens > books.available() and not message["allowNegative"]:
            code, _, figures = _insufficient(-tokens, books.available())
            return code, None, {**figures, **why}
        books.write(-books.take(-tokens, "adjustments"), "adjustments", None)
        return "adjustment_debited", -tokens, why

    # -- subscriptions ------------------------------------------------------------------------------------

    def _change(self, books: Books, message: Message) -> Verdict:
        name = message["tier"]
        tier = books.catalog.tiers.get(name)
        if tier is None:
            return "unknown_tier", None, {"tier": name}
        if books.now >= books.granted_until:
            books.granted_until, books.period_granted = books.period()[1], 0
        extra = max(0, tier.monthly_tokens - books.period_granted)
        books.period_granted += extra
        books.tier, books.ends_at = name, None
        allocate(books, extra, books.granted_until)
        return "subscription_changed", extra, {"tier": name, "periodEnd": _wire(books.granted_until)}

    def _renew(self, books: Books, message: Message) -> Verdict:
        if books.ends_at is not None:
            return "subscription_not_active", None, {}
        now = books.now
        at = _time(message, "periodStart") or now
        day = timedelta(days=1)
        if at < books.anchor - day or at > now + day:
            return "period_out_of_range", None, {"periodStart": _wire(at)}
        start, end = period(books.anchor, max(at, books.anchor))
        if end <= books.granted_until and at >= end - day:
            start, end = period(books.anchor, end)
        named = {"periodStart": _wire(start), "periodEnd": _wire(end)}
        if end <= books.granted_until:
            return "period_already_granted", None, named
        _, next_start = books.period()
        if end <= now or (start > now and (start != next_start or books.granted_until < start)):
            return "period_out_of_range", None, named
        tier = books.plan()
        if tier is None:
            return "unknown_tier", None, {"tier": books.tier}
        books.granted_until, books.period_granted = end, tier.monthly_tokens
        detail = {"tier": books.tier, **named}
        if start > now:
            if tier.monthly_tokens:
                books.note(
                    "allocation", tier.monthly_tokens, effective_at=start, expires_at=end, is_waiting=True
                )
            return "renewal_scheduled", tier.monthly_tokens, detail
        allocate(books, tier.monthly_tokens, end, start)
        return "subscription_renewed", tier.monthly_tokens, detail

    def _cancel(self, books: Books, message: Message) -> Verdict:
        if books.ends_at is not None:
            return "subscription_not_active", None, {}
        ended = 0
        if message["at"] == "now":
            books.ends_at = books.now
            for credit in books.credits:
                if credit["source"] == "allocation":
                    credit["isWaiting"] = False
                    ended += books.free(credit)
                    books.write(-books.free(credit), "expiry", credit["number"])
        else:
            books.ends_at = max(books.granted_until, books.now)
        return "subscription_canceled", ended, {"periodEnd": _wire(books.ends_at)}

    # -- payments -----------------------------------------------------------------------------------------

    def _purchase(self, books: Books, message: Message) -> Verdict:
        package = _package(books, message)
        if package is None:
            named = message.get("packageId") or f"#{message['packageIndex']}"
            return "unknown_package", None, {"packageId": named}
        price = f"{package.price_minor} {package.currency}"
        paid = f"{message['amountMinor']} {message['currency']}"
        if paid != price:
            return "amount_mismatch", None, {"packageId": package.id, "expected": price, "received": paid}
        written_off = self.till.bought(books, message, package)
        detail: dict[str, Any] = {
            "packageId": package.id,
            "baseTokens": package.tokens,
            "bonusTokens": package.bonus_tokens,
        }
        if written_off:
            detail["uncollected"] = written_off
        return "tokens_purchased", package.tokens + package.bonus_tokens, detail

    def _went_back(self, books: Books, message: Message) -> Verdict:
        name = message["originalReferenceId"]
        detail: dict[str, Any] = {"originalReferenceId": name}
        original = self._applied(name)
        if original and came_to_nothing(*original):
            original = None
        if original and original[0]["type"] == "payment.succeeded":
            paid, buyer = original[0], original[0]["userId"]
        else:
            paid, buyer = None, None
        if original and buyer != message["userId"]:
            return "original_not_found", None, detail
        if "amountMinor" in message:
            received = f"{message['amountMinor']} {message['currency']}"
            if paid and paid["currency"] != message["currency"]:
                price = f"{paid['amountMinor']} {paid['currency']}"
                return "currency_mismatch", None, {**detail, "expected": price, "received": received}
            detail["amountMinor"] = message["amountMinor"]
        event = self.till.happened(books, message)
        if event["uncollected"] > 0:
            detail["uncollected"] = event["uncollected"]
        if paid is None:
            return "payment_awaited", 0, detail
        codes = {"refunded": "payment_refunded", "disputed": "payment_disputed", "failed": "payment_failed"}
        return codes.get(event["happened"], event["happened"]), abs(event["collected"]), detail

    _by_type: Mapping[str, Callable[["Rules", Books, Message], Verdict]] = {
        "account.open": _exists,
        "account.settle": _settle_account,
        "credit.adjust": _adjust,
        "credit.bonus": _bonus,
        "credit.refund": _refund,
        "payment.dispute_closed": _went_back,
        "payment.disputed": _went_back,
        "payment.failed": _went_back,
        "payment.refunded": _went_back,
        "payment.succeeded": _purchase,
        "subscription.cancel": _cancel,
        "subscription.change": _change,
        "subscription.renew": _renew,
        "usage.deduct": _deduct,
        "usage.free_upload": _upload,
        "usage.record": _record,
        "usage.release": _release,
        "usage.reserve": _reserve,
        "usage.settle": _settle_hold,
    }


def came_to_nothing(message: Message, answer: Answer) -> bool:
    """True for usage that was rejected, or took neither tokens nor free units nor a hold."""
    if not message["type"].startswith("usage."):
        return False
    is_of_hold = message["type"] in ("usage.reserve", "usage.settle", "usage.release")
    took = is_of_hold or answer.get("amount", 0) != 0 or answer.get("freeQuantity", 0) != 0
    return answer["status"] == "rejected" or not took


def allocate(books: Books, tokens: int, until: datetime, start: datetime | None = None) -> None:
    """Credits what a tier grants for a period."""
    if tokens > 0:
        credit = books.note("allocation", tokens, effective_at=start, expires_at=until)
        books.fill(credit, tokens, "allocation")


def _package(books: Books, message: Message) -> Package | None:
    for index, package in enumerate(books.catalog.packages):
        if message.get("packageId") == package.id or message.get("packageIndex") == index:
            return package
    return None


def _short(code: str, required: int, available: int) -> Verdict:
    return code, None, {"required": required, "available": available, "shortfall": required - available}


def _insufficient(required: int, available: int) -> Verdict:
    return _short("insufficient_balance", required, available)


def _of(original: str, verdict: Verdict) -> Verdict:
    code, amount, detail = verdict
    return code, amount, {"originalReferenceId": original, **detail}


def _price(rule: PricingRule, quantity: int) -> int:
    if quantity == 0:
        return 0
    exact = Fraction(quantity * rule.tokens, rule.per)
    if rule.rounding == "half_even":
        rounded = round(exact)
    else:
        rounded = math.ceil(exact) if rule.rounding == "up" else math.floor(exact)
    return rounded if rounded > rule.minimum_tokens else rule.minimum_tokens


def _stretch(parts: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """Parts laid end to end, between two places: [(2, 5), (1, 3)] from 4 to 6 is [(2, 1), (1, 1)]."""
    found, place = [], 0
    for lot, amount in parts:
        overlap = min(end, place + amount) - max(start, place)
        if overlap > 0:
            found.append((lot, overlap))
        place += amount
    return found


def _time(message: Message, name: str) -> datetime | None:
    text = message.get(name)
    return None if text is None else datetime.fromisoformat(text)


def _wire(moment: datetime) -> str:
    """A UTC time as it stands in a message."""
    return moment.isoformat().replace("+00:00", "Z")
