"""Payments by hand: their events, and the tokens that these take back, counted from the start."""

from datetime import datetime, timedelta
from typing import Any

from tests.support.model_account import AccountModel, Credit, Message
from worker.catalog import Package, PaymentPolicy

_HAPPENED = {
    "payment.refunded": "refunded",
    "payment.disputed": "disputed",
    "payment.failed": "failed",
}


class Payments:
    """Every payment that was taken and every event, of all users, in order."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def bought(self, account: AccountModel, message: Message, package: Package) -> int:
        """Credits a package and counts what came before the payment; returns what that wrote off."""
        earlier = self._events_of(message["referenceId"], message["userId"])
        base = account.note("purchase", package.tokens, expires_at=_days_on(account.now, package.valid_days))
        account.fill(base, package.tokens, "purchases")
        bonus = None
        if package.bonus_tokens > 0:
            end = _days_on(account.now, package.bonus_valid_days)
            bonus = account.note(
                "purchase_bonus", package.bonus_tokens, expires_at=end, parent=base["number"]
            )
            account.fill(bonus, package.bonus_tokens, "bonus")
        self.taken.append(
            {
                "referenceId": message["referenceId"],
                "userId": message["userId"],
                "packageId": package.id,
                "amountMinor": message["amountMinor"],
                "currency": message["currency"],
                "tokens": package.tokens,
                "bonusTokens": package.bonus_tokens,
                "provider": message.get("provider"),
                "occurredAt": _time(message),
                "recordedAt": account.now,
                "lots": [base["number"]] + ([bonus["number"]] if bonus else []),
            }
        )
        if not earlier:
            return 0
        event = self._event(account, message, message["referenceId"], "succeeded")
        self._bring_up_to_date(account, self.taken[-1], event)
        uncollected: int = event["uncollected"]
        return uncollected

    def imported(self, account: AccountModel, message: Message, lot: int) -> None:
        """Lists a payment of an import with the credit that it bought; no event came before it."""
        self.taken.append(
            {
                "referenceId": message["referenceId"],
                "userId": message["userId"],
                "packageId": message["packageId"],
                "amountMinor": message["amountMinor"],
                "currency": message["currency"],
                "tokens": message["tokens"],
                "bonusTokens": message["bonusTokens"],
                "provider": message.get("provider"),
                "occurredAt": _time(message),
                "recordedAt": account.now,
                "lots": [lot],
            }
        )

    def happened(self, account: AccountModel, message: Message) -> dict[str, Any]:
        """Notes an event and, where its payment was taken already, brings that up to date."""
        name = message["originalReferenceId"]
        happened = _HAPPENED.get(message["type"]) or f"dispute_{message['result']}"
        event = self._event(account, message, name, happened)
        for payment in self.taken:
            if (payment["referenceId"], payment["userId"]) == (name, message["userId"]):
                self._bring_up_to_date(account, payment, event)
        return event

    def _event(self, account: AccountModel, message: Message, payment: str, happened: str) -> dict[str, Any]:
        is_of_money = happened not in ("succeeded", "failed")
        event = {
            "referenceId": message["referenceId"],
            "userId": message["userId"],
            "payment": payment,
            "happened": happened,
            "disputeId": message.get("disputeId"),
            "amountMinor": message["amountMinor"] if is_of_money else None,
            "currency": message["currency"] if is_of_money else None,
            "occurredAt": _time(message),
            "recordedAt": account.now,
            "collected": 0,
            "uncollected": 0,
        }
        self.events.append(event)
        return event

    def _events_of(self, payment: str, user: str) -> list[dict[str, Any]]:
        return [event for event in self.events if (event["payment"], event["userId"]) == (payment, user)]

    def _bring_up_to_date(
        self, account: AccountModel, payment: dict[str, Any], event: dict[str, Any]
    ) -> None:
        events = self._events_of(payment["referenceId"], payment["userId"])
        policy = account.catalog.payments
        # Events before the payment took nothing back.
        before = [e for e in events if e is not event and event["happened"] != "succeeded"]
        base, bonus = _to_take_back(payment, events, policy)
        base_before, bonus_before = _to_take_back(payment, before, policy)
        gone = sum(e["collected"] + e["uncollected"] for e in events)
        wanted = base + bonus - gone
        if wanted > 0:
            missing = _take_own(account, payment, wanted, [base - base_before, bonus - bonus_before])
            # Tokens of the payment's credits that expired were never used: no other credit pays for them.
            ran_out = -sum(
                movement["amount"]
                for movement in account.movements
                if movement["counter"] == "expiry" and movement["lot"] in payment["lots"]
            )
            forgiven = min(missing, max(0, ran_out - sum(e["uncollected"] for e in events)))
            missing = account.take(missing - forgiven, "reversals")
            if policy.when_spent == "debt":
                account.write(-missing, "reversals", None)
            else:
                forgiven += missing
            event["collected"], event["uncollected"] = wanted - forgiven, forgiven
        elif wanted < 0:
            forgotten = min(sum(e["uncollected"] for e in events), -wanted)
            event["uncollected"] = -forgotten
            event["collected"] = wanted + forgotten
            _give_back(account, payment, -event["collected"])


def _to_take_back(
    payment: dict[str, Any], events: list[dict[str, Any]], policy: PaymentPolicy
) -> tuple[int, int]:
    """The tokens, base and bonus, that these events take back in all."""
    paid = payment["amountMinor"]
    back = min(paid, _money_back(payment, events, policy))
    if any(_undoes(event, payment) for event in events):
        back = paid
    return payment["tokens"] * back // paid, payment["bonusTokens"] * back // paid


def _money_back(payment: dict[str, Any], events: list[dict[str, Any]], policy: PaymentPolicy) -> int:
    counted = [event for event in events if event["currency"] == payment["currency"]]
    money: int = sum(event["amountMinor"] for event in counted if event["happened"] == "refunded")
    for dispute in {event["disputeId"] for event in counted if event["disputeId"] is not None}:
        own = [event for event in counted if event["disputeId"] == dispute]
        lost = [event["amountMinor"] for event in own if event["happened"] == "dispute_lost"]
        is_won = any(event["happened"] == "dispute_won" for event in own)
        if lost:
            money += max(lost)
        elif not is_won and policy.on_dispute == "take":
            money += max(event["amountMinor"] for event in own)
    return money


def _undoes(event: dict[str, Any], payment: dict[str, Any]) -> bool:
    if event["happened"] != "failed":
        return False
    if event["occurredAt"] is None or payment["occurredAt"] is None:
        return True
    return bool(event["occurredAt"] >= payment["occurredAt"])


def _take_own(account: AccountModel, payment: dict[str, Any], wanted: int, wishes: list[int]) -> int:
    """Takes what is wanted from the payment's own credits; returns what is missing."""
    own: list[Credit] = [account.credits[number - 1] for number in payment["lots"]]
    parts = [0 for _ in own]
    missing = wanted
    # In proportion first, then whatever is left of the two.
    for limits in (wishes, [wanted] * len(own)):
        for index, credit in enumerate(own):
            part = min(account.free(credit) - parts[index], max(limits[index], 0), missing)
            parts[index] += part
            missing -= part
    for credit, part in zip(own, parts, strict=True):
        account.write(-part, "reversals", credit["number"])
    return missing


def _give_back(account: AccountModel, payment: dict[str, Any], tokens: int) -> None:
    if tokens > 0:
        bought = account.credits[payment["lots"][0] - 1]
        start, end = bought["effectiveAt"], bought["expiresAt"]
        credit = account.note("purchase", tokens, effective_at=start, expires_at=end, parent=bought["number"])
        account.fill(credit, tokens, "reversals")


def _days_on(now: datetime, days: int | None) -> datetime | None:
    return None if days is None else now + timedelta(days=days)


def _time(message: Message) -> datetime | None:
    text = message.get("occurredAt")
    return None if text is None else datetime.fromisoformat(text)
