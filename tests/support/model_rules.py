"""Effect of each message on the account of its user, written down a second time and in another way.

A rule is given the account with all that is due posted; it writes in it, or says why not.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.support.model_account import AccountModel, Credit, Message
from tests.support.model_payments import Payments, name_in, names_in
from worker.catalog import Catalog, Package, PricingRule

Answer = dict[str, Any]
#: A message that was judged, and its answer.
Judgement = tuple[Message, Answer]
#: By reference: each message that was judged.
Judgements = dict[str, list[Judgement]]
#: A code, an amount (None: rejected), and what else the reply says.
Decision = tuple[str, int | None, dict[str, Any]]


#: Types that a frozen account takes none of.
_STOPPED = ("usage.deduct", "usage.free_upload", "usage.record", "usage.reserve", "usage.extend")


class Rules:
    """The rules, and what they remember beside the account: refunds of usage, and payments."""

    def __init__(self, judgements: Judgements) -> None:
        self._judgements = judgements
        #: References of usages that were given back, with the tokens.
        self._given_back: list[tuple[str, int]] = []
        #: The same with free units, and the quota and period that each usage counted in.
        self._freed: list[tuple[str, int]] = []
        self._counted_in: dict[str, tuple[str, datetime]] = {}
        self.payments = Payments()

    def judge(self, account: AccountModel, message: Message) -> Decision:
        """Judge the message: its code, its amount (None: rejected), and what else the reply says."""
        until = message.get("validUntil")
        if until is not None and datetime.fromisoformat(until) < account.now:
            return "too_late", None, {"validUntil": until}
        if message["type"] in _STOPPED and self._is_frozen(message["userId"]):
            return "account_frozen", None, {}
        return self._by_type[message["type"]](self, account, message)

    def _applied(self, reference_id: str) -> tuple[Message, Answer] | None:
        """The message of that reference and its answer, if it was applied."""
        past = self._judgements.get(reference_id, [])
        return past[-1] if past and past[-1][1]["status"] == "applied" else None

    # -- accounts -----------------------------------------------------------------------------------------

    def _exists(self, account: AccountModel, _message: Message) -> Decision:
        return "account_exists", None, {"tier": account.tier}

    def _freeze(self, account: AccountModel, message: Message) -> Decision:
        name = message.get("paymentReferenceId")
        payment = None if name is None else self.payments.named(name)
        user: str = message["userId"] if payment is None else payment["userId"]
        word = (_time(message, "occurredAt") or account.now, message["type"] == "account.freeze")
        self.payments.words.setdefault(user, []).append(word)
        detail = {} if name is None else {"paymentReferenceId": name}
        return "freeze_began" if self._is_frozen(user) else "freeze_ended", 0, detail

    def _is_frozen(self, user: str) -> bool:
        """True where the latest word is a freeze; of two at one time it is."""
        words = self.payments.words.get(user)
        return bool(words) and max(words or ())[1]

    def _settle_account(self, account: AccountModel, message: Message) -> Decision:
        self.payments.look_for_waiting(account, message["userId"])
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
        self._counted_in[message["referenceId"]] = ("free_upload", account.period()[0])
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
                "isDispute": False,
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
            self._counted_in[message["referenceId"]] = (quota, account.period()[0])
        account.take(tokens, "usage", feature=message.get("feature", meter))
        return "usage_recorded", tokens, {**metered, "used": used + free, "limit": limit}

    # -- credit -------------------------------------------------------------------------------------------

    def _refund(self, account: AccountModel, message: Message) -> Decision:
        tokens, name = message["tokens"], message.get("originalReferenceId")
        if name is None:
            is_of_nothing = not tokens or message.get("freeQuantity")
            if account.catalog.refunds.unbound == "refuse" or is_of_nothing:
                return "original_required", None, {}
            account.fill(account.note("refund", tokens), tokens, "refunds")
            return "tokens_refunded", tokens, {}
        past = self._judgements.get(name)
        if not past or past[-1][1].get("userId") != message["userId"]:
            return "original_not_found", None, {"originalReferenceId": name}
        original = self._applied(name)
        kinds = ("usage.deduct", "usage.settle", "usage.record", "usage.free_upload")
        if original is None or original[0]["type"] not in kinds:
            return "original_not_refundable", None, {"originalReferenceId": name}
        taken = [
            (movement["lot"], -movement["amount"])
            for movement in account.movements
            if movement["referenceId"] == name and movement["counter"] == "usage"
        ]
        back = sum(amount for reference_id, amount in self._given_back if reference_id == name)
        left = sum(amount for _, amount in taken) - back
        is_upload = original[0]["type"] == "usage.free_upload"
        used = original[1]["amount"] if is_upload else original[1].get("freeQuantity", 0)
        still_used = used - sum(units for reference_id, units in self._freed if reference_id == name)
        asked = message.get("freeQuantity")
        if asked is not None and asked > still_used:
            code, _, figures = _of(name, _short("refund_exceeds_original", asked, still_used))
            return code, None, {**figures, "field": "freeQuantity"}
        quota = self._counted_in.get(name)
        is_present = quota is not None and quota[1].date() == account.period()[0].date()  # as in used()
        free = still_used if is_present else 0
        if tokens > left and (asked is not None or free == 0):
            return _of(name, _short("refund_exceeds_original", tokens, left))
        tokens = min(tokens, left)
        if asked is not None:
            free = min(asked, free)
        elif tokens < left:
            free = 0
        if tokens == 0 and free == 0:
            return "original_not_refundable", None, {"originalReferenceId": name}
        self._given_back.append((name, tokens))
        self._freed.append((name, free))
        if free and quota is not None:
            account.counted.append((*quota, -free))
        freed = {"freeQuantity": free} if used else {}
        # Tokens taken last go back first; a refund begins where the one before it ended. What was taken from
        # each lot goes back by itself, to the debt before the lot.
        for lot, amount in _stretch(taken[::-1], back, back + tokens):
            repaid = min(account.debt(), amount)
            account.write(repaid, "refunds", None)
            account.write(amount - repaid, "refunds", lot)
        return "tokens_refunded", tokens, {"originalReferenceId": name, **freed}

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
        if (taken := self._taken_name(message.get("payment", {}))) is not None:
            return taken
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
        if named is not None and not _is_granted(account, named):
            previous = account.tier
            at = _begin(account, named, tier.monthly_tokens)
            if at > now:
                code, _, detail = _change_later(account, name, at)
                detail = {**detail, **_named(*named)}
                return self._paid(account, message, (code, tier.monthly_tokens, detail))
            account.tier, account.next_tier, account.ends_at = name, None, None
            detail = {"tier": name, "previousTier": previous, **_named(*named)}
            return self._paid(account, message, ("subscription_changed", tier.monthly_tokens, detail))
        if not is_paid:
            account.granted_start, account.granted_until = account.period_of(now)
            account.period_granted = 0
        elif "payment" in message and account.has_ended() and (account.granted_start or now) <= now:
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
            return self._paid(account, message, (code, extra, detail))
        previous, account.tier = account.tier, name
        account.ends_at = account.next_tier = None
        allocate(account, extra, account.granted_until)
        until = _wire(account.granted_until)
        detail = {"tier": name, "previousTier": previous, "periodEnd": until}
        return self._paid(account, message, ("subscription_changed", extra, detail))

    def _renew(self, account: AccountModel, message: Message) -> Decision:
        if account.ends_at is not None:
            return "subscription_not_active", None, {}
        if (taken := self._taken_name(message.get("payment", {}))) is not None:
            return taken
        now, named = account.now, _gateways(message)
        if named is None:
            code, start, end = _own_period(account, _time(message, "periodStart"))
        else:
            start, end = named
            is_open = start - _DAY <= now < end
            code = "" if is_open else "period_out_of_range"
            code = "period_already_granted" if _is_granted(account, named) else code
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
        decision = code, tier.monthly_tokens, {"tier": name, **_named(start, end)}
        return self._paid(account, message, decision)

    def _paid(self, account: AccountModel, message: Message, decision: Decision) -> Decision:
        """Notes the payment of what was granted, where the message has one."""
        code, tokens, detail = decision
        if "payment" not in message:
            return decision
        written_off = self.payments.subscribed(account, message, tokens or 0)
        return code, tokens, {**detail, **({"uncollected": written_off} if written_off else {})}

    def _taken_name(self, payment: Message) -> Decision | None:
        """The refusal of a payment with a name that another one has."""
        for name in (payment.get("referenceId"), *payment.get("alsoKnownAs", ())):
            if name in self.payments.names:
                return "reference_taken", None, {"originalReferenceId": name}
        return None

    def _is_taken_up_since(self, moment: datetime, cancellation: Message) -> bool:
        """True where a change or a renewal occurred then or later, as both say."""
        for past in self._judgements.values():
            for message, answer in past:
                is_own = (answer["status"], answer.get("userId")) == ("applied", cancellation["userId"])
                if not is_own or message["type"] not in ("subscription.change", "subscription.renew"):
                    continue
                is_for_later = message.get("effectiveAt") == "period_end"
                at = _time(message, "occurredAt")
                is_since = at is not None and at >= moment
                if is_since and not (is_for_later and cancellation["at"] == "now"):
                    return True
        return False

    def _cancel(self, account: AccountModel, message: Message) -> Decision:
        now, is_at_once = account.now, message["at"] == "now"
        if (said := _time(message, "occurredAt")) is not None and self._is_taken_up_since(said, message):
            of_before = [
                credit
                for credit in account.credits
                if (credit["source"], credit["endedAt"]) == ("allocation", None)
                and credit["effectiveAt"] <= said
                and (credit["expiresAt"] is None or now < credit["expiresAt"])
                and credit["expiresAt"] != account.granted_until
            ]
            ended = _end_at_once(account, of_before) if is_at_once else 0
            return "cancellation_late", ended, {}
        if account.ends_at is not None and (account.has_ended() or not is_at_once):
            return "subscription_not_active", None, {}
        account.next_tier, start = None, account.granted_start
        allocations = [c for c in account.credits if c["source"] == "allocation" and c["endedAt"] is None]
        allocations = [c for c in allocations if c["expiresAt"] is None or c["expiresAt"] > now]
        if not is_at_once:
            account.ends_at = max(account.granted_until, now)
            return "subscription_canceled", 0, {"periodEnd": _wire(account.ends_at)}
        if start is not None and start > now:
            before, _ = account.period_of(now)
            ended = _end_at_once(account, [c for c in allocations if c["effectiveAt"] >= start])
            if account.named and account.named[-1][0] == start:
                account.named[-1:] = [(before, start)]
            account.ends_at = account.granted_until = start
            account.granted_start = before
            left = [c for c in allocations if c["expiresAt"] == start and c["parent"] is None]
            account.period_granted = sum(credit["granted"] for credit in left)
            return "subscription_canceled", ended, {"periodEnd": _wire(start)}
        ended = _end_at_once(account, allocations)
        tier, account.ends_at = account.plan(), now
        is_free = tier is not None and tier.auto_renew
        if now < account.granted_until:
            account.period_granted = max(0, account.period_granted - ended) if is_free else 0
        return "subscription_canceled", ended, {"periodEnd": _wire(now)}

    # -- payments -----------------------------------------------------------------------------------------

    def _purchase(self, account: AccountModel, message: Message) -> Decision:
        if (taken := self._taken_name(message)) is not None:
            return taken
        package = package_named(account.catalog, message)
        if package is None:
            named = message.get("packageId") or f"#{message['packageIndex']}"
            return "unknown_package", None, {"packageId": named}
        prices = _prices(package, message, account.now)
        paid, currency = _list_price(message), message["currency"]
        tokens = _bought(package, message)
        expected = " or ".join(f"{price} {name}" for name, price in prices.items())
        if package.rates:
            expected = " or ".join(f"an amount in {name}" for name in sorted(package.rates))
        elif currency in prices:
            expected = f"{prices[currency]} {currency}"
        figures = {"expected": expected, "received": f"{paid} {currency}"}
        policy = account.catalog.payments
        is_good = _is_price(package, prices.get(currency), paid, currency, policy.price_check)
        if tokens[0] == 0 or (not is_good and policy.on_mismatch == "reject"):
            return "amount_mismatch", None, {"packageId": package.id, **figures}
        written_off = self.payments.bought(account, message["userId"], message, package, tokens)
        detail: dict[str, Any] = {"packageId": package.id, "baseTokens": tokens[0], "bonusTokens": tokens[1]}
        if written_off:
            detail["uncollected"] = written_off
        if paid != message["amountMinor"]:
            detail["listMinor"] = paid
        if is_good:
            return "tokens_purchased", sum(tokens), detail
        return "purchase_flagged", sum(tokens), {**detail, **figures}

    def _named(self, account: AccountModel, message: Message) -> Decision:
        names = names_in(message)
        payment = self.payments.named(self.payments.owners(names)[0])
        assert payment is not None
        called = self.payments.call(payment["referenceId"], names)
        written_off = self.payments.take_in(account, payment, called)
        detail = {"originalReferenceId": names[0], "paymentReferenceId": payment["referenceId"]}
        return "payment_named", 0, {**detail, **({"uncollected": written_off} if written_off else {})}

    def _went_back(self, account: AccountModel, message: Message) -> Decision:
        payment = self.payments.named(message["originalReferenceId"])
        if payment is None:
            raise AssertionError("a payment that nobody knows")
        detail = named_money(message)
        if message["type"] == "payment.refunded" and message["currency"] != payment["currency"]:
            price = f"{payment['amountMinor']} {payment['currency']}"
            amount = message.get("amountMinor", message.get("refundedTotalMinor"))
            received = f"{amount} {message['currency']}"
            name = {"originalReferenceId": message["originalReferenceId"]}
            return "currency_mismatch", None, {**name, "expected": price, "received": received}
        event, money = self.payments.happened(account, payment, message)
        happened = event["happened"]
        if event["currency"] == payment["currency"]:
            counted = payment["amountMinor"] if happened == "refunded_total" else money
            is_shown = happened in ("refunded", "refunded_total", "dispute_lost")
            if is_shown and counted < detail["amountMinor"]:
                detail["countedMinor"] = counted
        if event["uncollected"] > 0:
            detail["uncollected"] = event["uncollected"]
        codes = {
            "refunded": "payment_refunded",
            "refunded_total": "payment_refunded",
            "inquired": "inquiry_opened",
            "disputed": "payment_disputed",
            "failed": "payment_failed",
        }
        code = codes.get(str(happened), str(happened))
        if code == "payment_refunded" and self.payments.is_mixed(payment):
            code = "refund_style_mixed"
        return code, abs(event["collected"]), detail

    _by_type: Mapping[str, Callable[["Rules", AccountModel, Message], Decision]] = {
        "account.freeze": _freeze,
        "account.import": _exists,
        "account.open": _exists,
        "account.settle": _settle_account,
        "account.unfreeze": _freeze,
        "credit.adjust": _adjust,
        "credit.bonus": _bonus,
        "credit.refund": _refund,
        "payment.dispute_closed": _went_back,
        "payment.disputed": _went_back,
        "payment.failed": _went_back,
        "payment.named": _named,
        "payment.refund_failed": _went_back,
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


def _is_granted(account: AccountModel, named: tuple[datetime, datetime]) -> bool:
    """True for a gateway's period that begins no later than the last one, or is the account's own."""
    (start, end), last = named, account.granted_start
    if last is None:
        return False
    if account.is_gateways():
        return start <= last
    return start < last + _DAY and end < account.granted_until + 4 * _DAY


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


def package_named(catalog: Catalog, message: Message) -> Package | None:
    """The package of that id, or at that place."""
    for index, package in enumerate(catalog.packages):
        if message.get("packageId") == package.id or message.get("packageIndex") == index:
            return package
    return None


def named_money(message: Message) -> dict[str, Any]:
    """The parts of an event that its reply repeats: the name of the payment, and the money."""
    amount = message.get("amountMinor", message.get("refundedTotalMinor"))
    money = {} if amount is None else {"amountMinor": amount}
    if "paymentReferenceId" in message:
        money = {"paymentReferenceId": message["paymentReferenceId"]}
    return {"originalReferenceId": name_in(message), **money}


def _list_price(message: Message) -> int:
    if "listMinor" in message:
        listed: int = message["listMinor"]
        return listed
    parts = [message["amountMinor"], message.get("discountMinor", 0)]
    parts += [-message.get(name, 0) for name in ("taxMinor", "otherMinor")]
    return sum(parts)


def _prices(package: Package, message: Message, now: datetime) -> dict[str, int]:
    """The prices of as many of the package when it was paid, by currency in order."""
    when = _time(message, "occurredAt") or now
    valid = [change for change in package.changes if change.valid_from <= when]
    prices = dict(package.prices)
    if package.price_minor is not None and package.currency is not None:
        prices = {package.currency: package.price_minor}
    if valid:
        prices = dict(sorted(valid, key=lambda change: change.valid_from)[-1].prices)
    return {name: prices[name] * message.get("quantity", 1) for name in sorted(prices)}


def _is_price(package: Package, price: int | None, paid: int, currency: str, check: str) -> bool:
    if package.rates:
        return currency in package.rates
    if check == "off":
        return True
    return price is not None and (paid == price or (check == "at_least" and paid > price))


def _bought(package: Package, message: Message) -> tuple[int, int]:
    if package.rates:
        rate = package.rates.get(message["currency"])
        paid = max(_list_price(message), 0)
        return (0 if rate is None else math.floor(Fraction(paid * rate.tokens, rate.per_minor))), 0
    number = message.get("quantity", 1)
    return package.tokens * number, package.bonus_tokens * number


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
