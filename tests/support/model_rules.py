"""Effect of each message on the account of its user, written down a second time and in another way.

A rule is given the account with all that is due posted; it writes in it, or says why not.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.support.model_account import AccountModel, Credit, Message
from tests.support.model_payments import Payments
from worker.catalog import Package, PricingRule

Answer = dict[str, Any]
#: A message that was judged, and its answer.
Judgement = tuple[Message, Answer]
#: By reference: each message that was judged.
Judgements = dict[str, list[Judgement]]
#: A code, an amount (None: rejected), and what else the reply says.
Decision = tuple[str, int | None, dict[str, Any]]


class Rules:
    """The rules, and what they remember beside the account: refunds of usage, and payments."""

    def __init__(self, judgements: Judgements) -> None:
        self._judgements = judgements
        #: References of usages that were given back, with the tokens.
        self._given_back: list[tuple[str, int]] = []
        self.payments = Payments()

    def judge(self, account: AccountModel, message: Message) -> Decision:
        """Judge the message: its code, its amount (None: rejected), and what else the reply says."""
        until = message.get("validUntil")
        if until is not None and datetime.fromisoformat(until) < account.now:
            return "too_late", None, {"validUntil": until}
        return self._by_type[message["type"]](self, account, message)

    def _applied(self, reference_id: str) -> tuple[Message, Answer] | None:
        """The message of that reference and its answer, if it was applied."""
        past = self._judgements.get(reference_id, [])
        return past[-1] if past and past[-1][1]["status"] == "applied" else None

    # -- accounts -----------------------------------------------------------------------------------------

    def _exists(self, account: AccountModel, _message: Message) -> Decision:
        return "account_exists", None, {"tier": account.tier}

    def _settle_account(self, _accounts: AccountModel, _message: Message) -> Decision:
        return "account_settled", 0, {}

    # -- usage --------------------------------------------------------------------------------------------

    def _deduct(self, account: AccountModel, message: Message) -> Decision:
        if message["tokens"] > max(account.available(), 0):
            return _insufficient(message["tokens"], account.available())
        account.take(message["tokens"], "usage", feature=message.get("feature"))
        return "tokens_deducted", message["tokens"], {}

    def _upload(self, account: AccountModel, message: Message) -> Decision:
        tier = account.plan()
        if tier is None:
            return "unknown_tier", None, {"tier": account.tier}
        limit = tier.free_upload_bytes if account.has_free_units() else 0
        used, size = account.used("free_upload"), message["bytes"]
        if size > 0 and used + size > limit:
            left = limit - used if used < limit else 0
            figures = {"required": size, "available": left, "shortfall": size - left}
            return "free_upload_limit_exceeded", None, {**figures, "used": used, "limit": limit}
        account.counted.append(("free_upload", account.period()[0], size))
        return "free_upload_counted", size, {"used": used + size, "limit": limit}

    def _reserve(self, account: AccountModel, message: Message) -> Decision:
        tokens = message["tokens"]
        if tokens > account.available():
            return _insufficient(tokens, account.available())
        until = account.now + timedelta(seconds=message["ttlSeconds"])
        account.holds.append(
            {
                "reference": message["referenceId"],
                "amount": tokens,
                "parts": account.parts_for(tokens),
                "state": "open",
                "captured": 0,
                "openedAt": account.now,
                "expiresAt": until,
                "closedAt": None,
            }
        )
        return "tokens_reserved", tokens, {"expiresAt": _wire(until)}

    def _settle_hold(self, account: AccountModel, message: Message) -> Decision:
        name, tokens = message["originalReferenceId"], message["tokens"]
        hold = account.hold_named(name)
        if hold is None:
            return "hold_not_found", None, {"originalReferenceId": name}
        is_late = hold["state"] == "expired" and message["onExpired"] == "take"
        if hold["state"] != "open" and not is_late:
            return "hold_closed", None, {"originalReferenceId": name, "state": hold["state"]}
        kept = hold["amount"]
        if tokens > kept and message["onExcess"] == "refuse":
            return _of(name, _short("hold_exceeded", tokens, kept))
        if is_late:
            there = account.available()
            missing = account.take(tokens, "usage", feature=message.get("feature"))
            hold["state"], hold["captured"] = "settled", tokens - missing
            figures = {"required": tokens, "available": there, "shortfall": missing}
            return "hold_settled_late", tokens - missing, {"originalReferenceId": name, **figures}
        if tokens > kept and tokens - kept > account.available():
            return _of(name, _insufficient(tokens, kept + account.available()))
        account.close(hold, "settled", account.now)
        hold["captured"] = tokens
        for lot, amount in hold["parts"]:
            part = min(amount, tokens)
            account.write(-part, "usage", lot, feature=message.get("feature"))
            tokens -= part
        account.take(tokens, "usage", feature=message.get("feature"))
        released = kept - message["tokens"] if message["tokens"] < kept else 0
        return "hold_settled", message["tokens"], {"originalReferenceId": name, "released": released}

    def _extend(self, account: AccountModel, message: Message) -> Decision:
        name = message["originalReferenceId"]
        hold = account.hold_named(name)
        if hold is None:
            return "hold_not_found", None, {"originalReferenceId": name}
        if hold["state"] != "open":
            return "hold_closed", None, {"originalReferenceId": name, "state": hold["state"]}
        asked = account.now + timedelta(seconds=message["ttlSeconds"])
        if asked > hold["expiresAt"]:
            hold["expiresAt"] = asked
        until = _wire(hold["expiresAt"])
        return "hold_extended", hold["amount"], {"originalReferenceId": name, "expiresAt": until}

    def _release(self, account: AccountModel, message: Message) -> Decision:
        name = message["originalReferenceId"]
        hold = account.hold_named(name)
        if hold is None:
            return "hold_not_found", None, {"originalReferenceId": name}
        if hold["state"] != "open":
            return "hold_closed", None, {"originalReferenceId": name, "state": hold["state"]}
        account.close(hold, "released", account.now)
        return "hold_released", hold["amount"], {"originalReferenceId": name}

    def _record(self, account: AccountModel, message: Message) -> Decision:
        meter, quantity = message["meter"], message["quantity"]
        rule, tier = account.catalog.pricing.get(meter), account.plan()
        if rule is None:
            return "unknown_meter", None, {"meter": meter}
        if tier is None:
            return "unknown_tier", None, {"tier": account.tier}
        quota = meter if rule.quota is None else rule.quota
        limit = tier.free_upload_bytes if quota == "free_upload" else tier.free_units.get(quota, 0)
        if not account.has_free_units():
            limit = 0
        used = account.used(quota)
        free = min(quantity, limit - used) if used < limit else 0
        tokens = _price(rule, quantity - free)
        metered = {"meter": meter, "quantity": quantity, "freeQuantity": free}
        metered["chargedQuantity"] = quantity - free
        if tokens > max(account.available(), 0):
            code, _, figures = _insufficient(tokens, account.available())
            return code, None, {**figures, **metered}
        if free:
            account.counted.append((quota, account.period()[0], free))
        account.take(tokens, "usage", feature=message.get("feature", meter))
        return "usage_recorded", tokens, {**metered, "used": used + free, "limit": limit}

    # -- credit -------------------------------------------------------------------------------------------

    def _refund(self, account: AccountModel, message: Message) -> Decision:
        tokens, name = message["tokens"], message.get("originalReferenceId")
        if name is None:
            if account.catalog.refunds.unbound == "refuse":
                return "original_required", None, {}
            account.fill(account.note("refund", tokens), tokens, "refunds")
            return "tokens_refunded", tokens, {}
        past = self._judgements.get(name)
        if not past or past[-1][0]["userId"] != message["userId"]:
            return "original_not_found", None, {"originalReferenceId": name}
        original = self._applied(name)
        if original is None or original[0]["type"] not in ("usage.deduct", "usage.settle", "usage.record"):
            return "original_not_refundable", None, {"originalReferenceId": name}
        taken = [
            (movement["lot"], -movement["amount"])
            for movement in account.movements
            if movement["referenceId"] == name and movement["counter"] == "usage"
        ]
        back = sum(amount for reference_id, amount in self._given_back if reference_id == name)
        left = sum(amount for _, amount in taken) - back
        if tokens > left:
            return _of(name, _short("refund_exceeds_original", tokens, left))
        self._given_back.append((name, tokens))
        # Tokens taken last go back first; a refund begins where the one before it ended. What was taken from
        # each lot goes back by itself, to the debt before the lot.
        for lot, amount in _stretch(taken[::-1], back, back + tokens):
            repaid = min(account.debt(), amount)
            account.write(repaid, "refunds", None)
            account.write(amount - repaid, "refunds", lot)
        return "tokens_refunded", tokens, {"originalReferenceId": name}

    def _bonus(self, account: AccountModel, message: Message) -> Decision:
        tokens, start, end = message["tokens"], _time(message, "effectiveAt"), _time(message, "expiresAt")
        until = {} if end is None else {"expiresAt": _wire(end)}
        if end is not None and end <= account.now:
            return "credit_expired", None, until
        is_later = start is not None and start > account.now
        credit = account.note(
            "bonus",
            tokens,
            expires_at=end,
            effective_at=start if is_later else None,
            priority=message.get("priority"),
            is_waiting=is_later,
        )
        if start is not None and is_later:
            return "bonus_scheduled", tokens, {"effectiveAt": _wire(start), **until}
        account.fill(credit, tokens, "bonus")
        return "bonus_granted", tokens, until

    def _adjust(self, account: AccountModel, message: Message) -> Decision:
        tokens, end = message["tokens"], _time(message, "expiresAt")
        why = {"reason": message["reason"], "actor": message["actor"]}
        if tokens > 0:
            if end is not None and end <= account.now:
                return "credit_expired", None, {"expiresAt": _wire(end), **why}
            account.fill(account.note("adjustment", tokens, expires_at=end), tokens, "adjustments")
            return "adjustment_credited", tokens, why
        if -tokens > account.available() and not message["allowNegative"]:
            code, _, figures = _insufficient(-tokens, account.available())
            return code, None, {**figures, **why}
        account.write(-account.take(-tokens, "adjustments"), "adjustments", None)
        return "adjustment_debited", -tokens, why

    # -- subscriptions ------------------------------------------------------------------------------------

    def _change(self, account: AccountModel, message: Message) -> Decision:
        name, now = message["tier"], account.now
        tier = account.catalog.tiers.get(name)
        if tier is None:
            return "unknown_tier", None, {"tier": name}
        is_paid = now < account.granted_until
        if message.get("effectiveAt") == "period_end":
            if account.has_ended():
                return "subscription_not_active", None, {}
            return _change_later(
                account, name, account.granted_until if is_paid else account.period_of(now)[1]
            )
        named = _gateways(message)
        if named is not None and not named[0] - _DAY <= now < named[1]:
            return "period_out_of_range", None, _named(*named)
        if named is not None and not _is_granted(account, named[0]):
            previous = account.tier
            at = _begin(account, named, tier.monthly_tokens)
            if at > now:
                code, _, detail = _change_later(account, name, at)
                return code, tier.monthly_tokens, {**detail, **_named(*named)}
            account.tier, account.next_tier, account.ends_at = name, None, None
            detail = {"tier": name, "previousTier": previous, **_named(*named)}
            return "subscription_changed", tier.monthly_tokens, detail
        if not is_paid:
            account.granted_start, account.granted_until = account.period_of(now)
            account.period_granted = 0
        extra = max(0, tier.monthly_tokens - account.period_granted)
        account.period_granted += extra
        start = account.granted_start
        if start is not None and start > now:
            coming, comes = account.next_tier or (account.tier, start)
            coming = coming if comes <= start else account.tier
            allocate(account, extra, account.granted_until, start)
            is_next = extra > 0 or name == coming
            code, _, detail = _change_later(account, name, start if is_next else account.granted_until)
            return code, extra, detail
        previous, account.tier = account.tier, name
        account.ends_at = account.next_tier = None
        allocate(account, extra, account.granted_until)
        until = _wire(account.granted_until)
        return "subscription_changed", extra, {"tier": name, "previousTier": previous, "periodEnd": until}

    def _renew(self, account: AccountModel, message: Message) -> Decision:
        if account.ends_at is not None:
            return "subscription_not_active", None, {}
        now, named = account.now, _gateways(message)
        if named is None:
            code, start, end = _own_period(account, _time(message, "periodStart"))
        else:
            start, end = named
            is_open = start - _DAY <= now < end
            code = "" if is_open else "period_out_of_range"
            code = "period_already_granted" if _is_granted(account, start) else code
        if code:
            return code, None, _named(start, end) if end is not None else {"periodStart": _wire(start)}
        assert end is not None
        name, following = account.tier, account.next_tier
        if following is not None and (named is not None or start > following[1] - _DAY):
            name = following[0]
        tier = account.catalog.tiers.get(name)
        if tier is None:
            return "unknown_tier", None, {"tier": name}
        if named is not None:
            at = _begin(account, named, tier.monthly_tokens)
            if following is not None and start < following[1] - _DAY:
                account.next_tier = (following[0], start)
        else:
            at = start if start != account.period_of(now)[0] else now
            if at > now and account.is_gateways():
                account.name_period((start, end))
            account.granted_start, account.granted_until = start, end
            account.period_granted = tier.monthly_tokens
            allocate(account, tier.monthly_tokens, end, start, is_waiting=at > now)
        code = "renewal_scheduled" if at > now else "subscription_renewed"
        return code, tier.monthly_tokens, {"tier": name, **_named(start, end)}

    def _cancel(self, account: AccountModel, message: Message) -> Decision:
        now, is_at_once = account.now, message["at"] == "now"
        if account.ends_at is not None and (account.has_ended() or not is_at_once):
            return "subscription_not_active", None, {}
        account.next_tier, start = None, account.granted_start
        allocations = [c for c in account.credits if c["source"] == "allocation" and c["endedAt"] is None]
        allocations = [c for c in allocations if c["expiresAt"] > now]
        if not is_at_once:
            account.ends_at = max(account.granted_until, now)
            return "subscription_canceled", 0, {"periodEnd": _wire(account.ends_at)}
        if start is not None and start > now:
            before, _ = account.period_of(now)
            _end_at_once(account, [credit for credit in allocations if credit["effectiveAt"] >= start])
            if account.named and account.named[-1][0] == start:
                account.named[-1:] = [(before, start)]
            account.ends_at = account.granted_until = start
            account.granted_start = before
            left = [c for c in allocations if c["expiresAt"] == start and c["parent"] is None]
            account.period_granted = sum(credit["granted"] for credit in left)
            return "subscription_canceled", 0, {"periodEnd": _wire(start)}
        ended = _end_at_once(account, allocations)
        tier, account.ends_at = account.plan(), now
        is_free = tier is not None and tier.auto_renew
        if now < account.granted_until:
            account.period_granted = max(0, account.period_granted - ended) if is_free else 0
        return "subscription_canceled", ended, {"periodEnd": _wire(now)}

    # -- payments -----------------------------------------------------------------------------------------

    def _purchase(self, account: AccountModel, message: Message) -> Decision:
        package = _package(account, message)
        if package is None:
            named = message.get("packageId") or f"#{message['packageIndex']}"
            return "unknown_package", None, {"packageId": named}
        price = f"{package.price_minor} {package.currency}"
        paid = f"{message['amountMinor']} {message['currency']}"
        if paid != price:
            return "amount_mismatch", None, {"packageId": package.id, "expected": price, "received": paid}
        written_off = self.payments.bought(account, message, package)
        detail: dict[str, Any] = {
            "packageId": package.id,
            "baseTokens": package.tokens,
            "bonusTokens": package.bonus_tokens,
        }
        if written_off:
            detail["uncollected"] = written_off
        return "tokens_purchased", package.tokens + package.bonus_tokens, detail

    def _went_back(self, account: AccountModel, message: Message) -> Decision:
        name = message["originalReferenceId"]
        detail: dict[str, Any] = {"originalReferenceId": name}
        original = self._applied(name)
        if original and came_to_nothing(*original):
            original = None
        if original and original[0]["type"] in ("payment.succeeded", "payment.import"):
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
        event = self.payments.happened(account, message)
        if event["uncollected"] > 0:
            detail["uncollected"] = event["uncollected"]
        if paid is None:
            return "payment_awaited", 0, detail
        codes = {"refunded": "payment_refunded", "disputed": "payment_disputed", "failed": "payment_failed"}
        return codes.get(event["happened"], event["happened"]), abs(event["collected"]), detail

    _by_type: Mapping[str, Callable[["Rules", AccountModel, Message], Decision]] = {
        "account.import": _exists,
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
        "usage.extend": _extend,
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
    is_of_hold = message["type"] in ("usage.reserve", "usage.extend", "usage.settle", "usage.release")
    took = is_of_hold or answer.get("amount", 0) != 0 or answer.get("freeQuantity", 0) != 0
    return answer["status"] == "rejected" or not took


def allocate(
    account: AccountModel,
    tokens: int,
    until: datetime,
    start: datetime | None = None,
    *,
    is_waiting: bool | None = None,
) -> None:
    """Credits what a tier grants for a period; tokens of a later one wait for its beginning."""
    if tokens > 0:
        waits = is_waiting if is_waiting is not None else start is not None and start > account.now
        credit = account.note("allocation", tokens, effective_at=start, expires_at=until, is_waiting=waits)
        if not waits:
            account.fill(credit, tokens, "allocation")


_DAY = timedelta(days=1)


def _change_later(account: AccountModel, tier: str, at: datetime) -> Decision:
    if account.next_tier is not None and account.next_tier[1] < at:
        account.tier = account.next_tier[0]  # it is of the period before
    account.next_tier, account.ends_at = (tier, at), None
    detail = {"tier": tier, "previousTier": account.tier, "effectiveAt": _wire(at)}
    return "change_scheduled", 0, detail


def _gateways(message: Message) -> tuple[datetime, datetime] | None:
    """The period that a gateway names."""
    start, end = _time(message, "periodStart"), _time(message, "periodEnd")
    return None if start is None or end is None else (start, end)


def _is_granted(account: AccountModel, start: datetime) -> bool:
    """True for a gateway's period that begins no later than the last one; by its own calendar, a day."""
    last = account.granted_start
    if last is None:
        return False
    return start <= last or (not account.is_gateways() and start < last + _DAY)


def _begin(account: AccountModel, named: tuple[datetime, datetime], tokens: int) -> datetime:
    """Grants a gateway's period; returns when it takes effect: at once where nothing else is granted."""
    start, end = named
    at = start if account.now < account.granted_until or start < account.now else account.now
    account.name_period(named)
    account.granted_start, account.granted_until, account.period_granted = start, end, tokens
    allocate(account, tokens, end, at)
    return at


def _own_period(account: AccountModel, named: datetime | None) -> tuple[str, datetime, datetime | None]:
    """The period of the account's own calendar that is meant, and why it can't be granted, if so."""
    now, at = account.now, account.now if named is None else named
    first, last = account.period_of(now)
    if not (first <= at < last) and (at < account.earliest() - _DAY or at > now + _DAY):
        return "period_out_of_range", at, None
    start, end = account.period_of(max(at, account.earliest()))
    is_day_before = end <= account.granted_until and now >= end - _DAY
    if is_day_before and (at >= end - _DAY or (start == first and at > first + _DAY)):
        start, end = account.period_of(end)
    if end <= account.granted_until:
        return "period_already_granted", start, end
    if start != first and (start != last or account.granted_until < start):
        return "period_out_of_range", start, end
    return "", start, end


def _end_at_once(account: AccountModel, ending: list[Credit]) -> int:
    """Ends credits now; what comes back to them later has ended as well. Returns what expires."""
    ended = 0
    for credit in ending:
        ended += account.free(credit)
        account.write(-account.free(credit), "expiry", credit["number"])
        credit["isWaiting"], credit["endedAt"] = False, account.now
    return ended


def _named(start: datetime, end: datetime) -> dict[str, str]:
    return {"periodStart": _wire(start), "periodEnd": _wire(end)}


def _package(account: AccountModel, message: Message) -> Package | None:
    for index, package in enumerate(account.catalog.packages):
        if message.get("packageId") == package.id or message.get("packageIndex") == index:
            return package
    return None


def _short(code: str, required: int, available: int) -> Decision:
    return code, None, {"required": required, "available": available, "shortfall": required - available}


def _insufficient(required: int, available: int) -> Decision:
    return _short("insufficient_balance", required, available)


def _of(original: str, decision: Decision) -> Decision:
    code, amount, detail = decision
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
    """Return the parts between two places when laid end to end.

    [(2, 5), (1, 3)] from 4 to 6 is [(2, 1), (1, 1)].
    """
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
