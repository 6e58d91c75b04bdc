"""Payments by hand: their names, their events, what waits, and the tokens that follow from all that is known.

Each event looks at the whole again. Money that went back is a fraction of what was paid, and what was taken
before is read off the movements; nothing is carried along from one event to the next.
"""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from tests.support.model_account import AccountModel, Credit, Message
from worker.catalog import Package, PaymentPolicy

Payment = dict[str, Any]
Event = dict[str, Any]

#: Types about a payment: the payment knows whose it is. Those that freeze may name a user instead.
ABOUT_PAYMENTS = frozenset(
    {
        "account.freeze",
        "account.unfreeze",
        "payment.dispute_closed",
        "payment.disputed",
        "payment.failed",
        "payment.named",
        "payment.refund_failed",
        "payment.refunded",
    }
)
_REFUNDS = ("refunded", "refunded_total")
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def name_in(message: Message) -> str | None:
    """The name of the payment that a message is about."""
    name: str | None = message.get("originalReferenceId", message.get("paymentReferenceId"))
    return name if message["type"] in ABOUT_PAYMENTS else None


def names_in(message: Message) -> list[str]:
    """The names of one payment that a message lists, the first one first."""
    first = message["originalReferenceId"] if message["type"] == "payment.named" else message["referenceId"]
    return [first, *message.get("alsoKnownAs", ())]


class Payments:
    """Every payment that was taken, every event that counts or waits, and whose each name is.

    ``groups`` are names of payments that nobody knows yet. ``words`` are the times at which each user was
    frozen (True) and let go.
    """

    def __init__(self) -> None:
        self.groups: list[set[str]] = []
        self.words: dict[str, list[tuple[datetime, bool]]] = {}
        self.taken: list[Payment] = []
        self.events: list[Event] = []
        self.waiting: list[Event] = []
        self.names: dict[str, str] = {}

    def named(self, name: str) -> Payment | None:
        """The payment of that name."""
        return next((p for p in self.taken if p["referenceId"] == self.names.get(name)), None)

    def owners(self, names: list[str]) -> list[str]:
        """The first of these names of each payment that has any of them."""
        firsts: dict[str, str] = {}
        for name in names:
            if name in self.names:
                firsts.setdefault(self.names[name], name)
        return list(firsts.values())

    def call(self, payment_reference: str, names: list[str]) -> set[str]:
        """Gives a payment those names that are free, with all that are the same; returns what is new."""
        called = {name for name in names if name not in self.names}
        called |= set().union(*(group for group in self.groups if group & called))
        self.names |= dict.fromkeys(called, payment_reference)
        self.groups = [group for group in self.groups if not group & called]
        return called

    def join(self, names: list[str]) -> None:
        """Notes that those of these names that are free are of one payment."""
        free = {name for name in names if name not in self.names}
        met = [group for group in self.groups if group & free]
        others = [group for group in self.groups if not group & free]
        self.groups = [*others, free.union(*met)] if free else others

    def learn(self, message: Message, answer: dict[str, Any]) -> None:
        """Takes the names from a copy of a payment, or of names for one."""
        names = names_in(message)
        is_applied, is_payment = answer["status"] == "applied", message["type"] == "payment.succeeded"
        owners = self.owners(names)
        if is_payment and is_applied:
            self.call(message["referenceId"], names)
        elif is_payment and answer["code"] != "reference_taken" and message["referenceId"] not in self.names:
            self.join(names)
        elif not is_payment and is_applied and len(owners) < 2:
            if owners:
                self.call(self.names[owners[0]], names)
            else:
                self.join(names)

    def wait(self, message: Message, now: datetime) -> None:
        """Notes an event of a payment that nobody knows."""
        self.waiting.append(_event(message, now))

    def bought(
        self, account: AccountModel, user: str, message: Message, package: Package, tokens: tuple[int, int]
    ) -> int:
        """Credits a package and counts what came before the payment; returns what that wrote off."""
        base_tokens, bonus_tokens = tokens
        base = account.note("purchase", base_tokens, expires_at=_days_on(account.now, package.valid_days))
        account.fill(base, base_tokens, "purchases")
        lots = [base["number"]]
        if bonus_tokens > 0:
            end = _days_on(account.now, package.bonus_valid_days)
            bonus = account.note("purchase_bonus", bonus_tokens, expires_at=end, parent=base["number"])
            account.fill(bonus, bonus_tokens, "bonus")
            lots.append(bonus["number"])
        return self._paid(
            account,
            message,
            {
                "userId": user,
                "packageId": package.id,
                "tier": None,
                "tokens": base_tokens,
                "bonusTokens": bonus_tokens,
                "occurredAt": _time(message),
                "lots": lots,
            },
        )

    def subscribed(self, account: AccountModel, message: Message, tokens: int) -> int:
        """Notes the payment of a period that granted so many tokens; counts what came before it."""
        granted = [c for c in account.credits if c["source"] == "allocation" and c["parent"] is None]
        return self._paid(
            account,
            message["payment"],
            {
                "userId": message["userId"],
                "packageId": None,
                "tier": account.tier,
                "tokens": tokens,
                "bonusTokens": 0,
                "occurredAt": _time(message),
                "lots": [granted[-1]["number"]] if tokens else [],
            },
        )

    def _paid(self, account: AccountModel, money: Message, goods: dict[str, Any]) -> int:
        payment = {
            "referenceId": money["referenceId"],
            "amountMinor": money["amountMinor"],
            "currency": money["currency"],
            "provider": money.get("provider"),
            "recordedAt": account.now,
            **goods,
        }
        self.taken.append(payment)
        names = [money["referenceId"], *money.get("alsoKnownAs", ())]
        return self.take_in(account, payment, self.call(payment["referenceId"], names))

    def imported(self, account: AccountModel, message: Message, lot: int) -> None:
        """Lists a payment of an import with the credit that it bought; what waits for it waits on."""
        self.taken.append(
            {
                "referenceId": message["referenceId"],
                "userId": message["userId"],
                "packageId": message["packageId"],
                "tier": None,
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
        self.call(message["referenceId"], [message["referenceId"]])

    def look_for_waiting(self, account: AccountModel, user: str) -> None:
        """Lets what waits for a payment of the user count, although its payment is there already."""
        for name in sorted({event["payment"] for event in self.waiting}):
            payment = self.named(name)
            if payment is None or payment["userId"] != user:
                continue
            names = {name for name, owner in self.names.items() if owner == payment["referenceId"]}
            if self._fitting(payment, names):
                self.take_in(account, payment, names)
                return

    def happened(self, account: AccountModel, payment: Payment, message: Message) -> tuple[Event, int]:
        """Counts an event; returns it, and the money that it adds to what has gone back."""
        policy = account.catalog.payments
        before = _gone(payment, self._of(payment), policy)
        event = self._add(payment, _event(message, account.now), message)
        self._bring_up_to_date(account, payment, event)
        more = (_gone(payment, self._of(payment), policy) - before) * payment["amountMinor"]
        return event, int(more)

    def is_mixed(self, payment: Payment) -> bool:
        """True where refunds came one by one and as totals."""
        kinds = {e["happened"] for e in self._of(payment) if e["currency"] == payment["currency"]}
        return kinds.issuperset(_REFUNDS)

    def _of(self, payment: Payment) -> list[Event]:
        return [event for event in self.events if event["payment"] == payment["referenceId"]]

    def _add(self, payment: Payment, event: Event, message: Message) -> Event:
        event |= {
            "payment": payment["referenceId"],
            "userId": payment["userId"],
            "postedBy": message["referenceId"],
        }
        self.events.append(event)
        return event

    def _fitting(self, payment: Payment, names: set[str]) -> list[Event]:
        own = [event for event in self.waiting if event["payment"] in names]
        return [e for e in own if e["happened"] not in _REFUNDS or e["currency"] == payment["currency"]]

    def take_in(self, account: AccountModel, payment: Payment, names: set[str]) -> int:
        """Counts what waits for a payment under these names; returns what that wrote off."""
        taken = self._fitting(payment, names)
        if not taken:
            return 0
        for event in taken:
            self.waiting.remove(event)
            self._add(payment, event, account.message)
            if event["happened"] in ("frozen", "unfrozen"):
                at = event["occurredAt"] or event["recordedAt"]
                self.words.setdefault(payment["userId"], []).append((at, event["happened"] == "frozen"))
        moved = self._add(payment, _event({**account.message, "type": ""}, account.now), account.message)
        self._bring_up_to_date(account, payment, moved)
        uncollected: int = moved["uncollected"]
        return max(uncollected, 0)

    # -- the tokens ---------------------------------------------------------------------------------------

    def _bring_up_to_date(self, account: AccountModel, payment: Payment, event: Event) -> None:
        events, policy = self._of(payment), account.catalog.payments
        groups = _groups(account, payment)
        own = [credit for _, lots in groups for credit in lots]
        self._let_go(account, events)
        collected, uncollected = _total(events, "collected"), _total(events, "uncollected")
        wishes, lapsed = _wishes(account, payment, groups, events)
        wanted = sum(wishes)
        # What earlier events wanted in vain is given up: this one wants only what it adds.
        earlier = [one for one in events if one["postedBy"] != account.message["referenceId"]]
        given_up_at = sum(_wishes(account, payment, groups, earlier)[0])
        goal = wanted
        if wanted > collected:
            goal = collected + max(wanted - max(given_up_at, collected), 0)
        taken = _balanced(self._taken_so_far(account, events), [credit["number"] for credit in own])
        for credit in own:
            if goal and credit["isWaiting"]:  # it was paid ahead
                account.take_effect(credit, account.now)
        reached = _take_again(account, [lots for _, lots in groups], wishes, goal, taken)
        if policy.when_spent == "debt":
            account.write(reached - goal, "reversals", None)
            reached = goal
        event["collected"] = reached - collected
        event["uncollected"] = wanted + lapsed - reached - uncollected
        if policy.on_dispute == "hold" and _is_disputed(events):
            _hold(account, own, event["referenceId"], policy)

    def _let_go(self, account: AccountModel, events: list[Event]) -> None:
        for hold in account.holds:
            is_own = hold["isDispute"] and hold["reference"] in [e["referenceId"] for e in events]
            if is_own and hold["state"] == "open":
                account.close(hold, "released", account.now)

    def _taken_so_far(self, account: AccountModel, events: list[Event]) -> dict[int | None, int]:
        """The tokens that the payment's events have taken of each lot, in the order of the first takings."""
        posted_by = {event["postedBy"] for event in events}
        taken: dict[int | None, int] = {}
        for movement in account.movements:
            if movement["counter"] == "reversals" and movement["referenceId"] in posted_by:
                taken[movement["lot"]] = taken.get(movement["lot"], 0) - movement["amount"]
        return taken


def _balanced(taken: dict[int | None, int], own: list[int]) -> dict[int | None, int]:
    """The same in all, with no lot below zero: what it was given beyond that had been taken elsewhere.

    That was as debt, or else of other lots, or of the payment's own.
    """
    others = [number for number in taken if number is not None and number not in own]
    elsewhere = [None, *others[::-1], *own[::-1]]
    balanced = dict(taken)
    for number in taken:
        while balanced[number] < 0:
            other = next(other for other in elsewhere if balanced.get(other, 0) > 0)
            balanced[other] -= 1
            balanced[number] += 1
    return balanced


def _groups(account: AccountModel, payment: Payment) -> list[tuple[int, list[Credit]]]:
    """The tokens that were bought and the credits that have them: of a period what rolled over as well."""
    own = [account.credits[number - 1] for number in payment["lots"]]
    if payment["tier"] is None:
        return [(credit["granted"], [credit]) for credit in own]
    for credit in account.credits:
        if credit["source"] == "allocation" and credit["parent"] in [one["number"] for one in own]:
            own.append(credit)
    return [(payment["tokens"], own)]


def _take_again(
    account: AccountModel,
    groups: list[list[Credit]],
    wishes: list[int],
    goal: int,
    taken: dict[int | None, int],
) -> int:
    """Moves tokens until ``goal`` are taken as if nothing had been before, or no lot has any more."""
    missing = goal
    own = [credit for lots in groups for credit in lots]
    parts = {credit["number"]: 0 for credit in own}
    for limits in (wishes, [goal] * len(groups)):
        for lots, wished in zip(groups, limits, strict=True):
            limit = wished
            for credit in lots:
                number = credit["number"]
                there = account.free(credit) + taken.get(number, 0) - parts[number]
                part = min(there, limit, missing)
                parts[number] += part
                limit -= part
                missing -= part
    # Other lots keep what was taken of them, the first ones the longest; the debt goes back before them.
    others = {number: sum_ for number, sum_ in taken.items() if number not in parts and number is not None}
    for number, sum_ in others.items():
        parts[number] = min(sum_, missing)
        missing -= parts[number]
    owed = taken.get(None, 0)
    still_owed = min(owed, missing)
    missing -= still_owed
    for number, part in parts.items():
        account.write(taken.get(number, 0) - part, "reversals", number)
    _give_back_debt(account, own, owed - still_owed)
    return goal - account.take(missing, "reversals")


def _give_back_debt(account: AccountModel, own: list[Credit], tokens: int) -> None:
    repaid = min(tokens, account.debt())
    account.write(repaid, "reversals", None)
    tokens -= repaid
    for credit in own:
        waiting = credit["granted"] if credit["isWaiting"] else 0
        part = min(tokens, credit["granted"] - account.remaining(credit) - waiting)
        account.write(part, "reversals", credit["number"])
        tokens -= part
    if tokens > 0:
        account.fill(account.note("purchase", tokens), tokens, "reversals")


def _hold(account: AccountModel, own: list[Credit], reference: str, policy: PaymentPolicy) -> None:
    parts = [(credit["number"], account.free(credit)) for credit in own if account.free(credit) > 0]
    if parts:
        account.holds.append(
            {
                "reference": reference,
                "amount": sum(amount for _, amount in parts),
                "parts": parts,
                "state": "open",
                "captured": 0,
                "openedAt": account.now,
                "expiresAt": account.now + timedelta(days=policy.dispute_hold_days),
                "closedAt": None,
                "isDispute": True,
            }
        )


def _wishes(
    account: AccountModel, payment: Payment, groups: list[tuple[int, list[Credit]]], events: list[Event]
) -> tuple[list[int], int]:
    """Tokens asked for of each group of lots, and those that are not, because they expired."""
    policy = account.catalog.payments
    back = _gone(payment, events, policy)
    wishes, lapsed_in_all = [], 0
    for granted, lots in groups:
        wish, lapsed = int(granted * back), 0
        for credit in lots:
            ends = [end for end in (credit["expiresAt"], credit["endedAt"]) if end is not None]
            ran_out = -sum(
                movement["amount"]
                for movement in account.movements
                if movement["counter"] == "expiry" and movement["lot"] == credit["number"]
            )
            before = _gone(payment, _known_by(events, min(ends)), policy) if ends else back
            if back > before:
                lapsed += int(ran_out * (back - before) / (1 - before))
        lapsed = min(lapsed, wish)
        wishes.append(wish - lapsed)
        lapsed_in_all += lapsed
    return wishes, lapsed_in_all


def _known_by(events: list[Event], moment: datetime) -> list[Event]:
    """Everything that is known now of the refunds and disputes that had been heard of by then."""
    heard = [_matter(event) for event in events if event["recordedAt"] < moment]
    return [event for event in events if _matter(event) in heard]


def _matter(event: Event) -> tuple[str, str]:
    if event["disputeId"] is not None:
        return "dispute", event["disputeId"]
    return "refund", event["refundReference"] or event["referenceId"]


# -- the money --------------------------------------------------------------------------------------------


def _gone(payment: Payment, events: list[Event], policy: PaymentPolicy) -> Fraction:
    """The part of the payment that has gone back."""
    paid: int = payment["amountMinor"]
    if any(_undoes(event, payment) for event in events):
        return Fraction(1)
    if paid == 0:
        return Fraction(0)
    disputes = {event["disputeId"] for event in events if event["disputeId"] is not None}
    money = _refunded(payment, events)
    for dispute in disputes:
        money += _disputed(payment, [e for e in events if e["disputeId"] == dispute], policy)
    return min(Fraction(money, paid), Fraction(1))


def _refunded(payment: Payment, events: list[Event]) -> int:
    failed = [event["refundReference"] for event in events if event["happened"] == "refund_failed"]
    same = [event for event in events if event["currency"] == payment["currency"]]
    singles = [e for e in same if e["happened"] == "refunded" and e["referenceId"] not in failed]
    totals = [(e["occurredAt"], e["amountMinor"]) for e in same if e["happened"] == "refunded_total"]
    latest = sorted(totals)[-1][1] if totals else 0
    return max(_total(singles, "amountMinor"), latest)


def _disputed(payment: Payment, events: list[Event], policy: PaymentPolicy) -> int:
    closings = [
        (e["occurredAt"] or _BEFORE_ALL, e["happened"] == "dispute_lost", _money(payment, e))
        for e in events
        if e["happened"].startswith("dispute_")
    ]
    if closings:
        _, is_lost, amount = sorted(closings)[-1]
        return amount if is_lost else 0
    openings = [_money(payment, event) for event in events if event["happened"] == "disputed"]
    return max(openings, default=0) if policy.on_dispute == "take" else 0


def _money(payment: Payment, event: Event) -> int:
    """The money that a dispute names; in another currency its part of the payment is unknown: it is all."""
    amount: int = (event if event["currency"] == payment["currency"] else payment)["amountMinor"]
    return amount


def _is_disputed(events: list[Event]) -> bool:
    opened = {event["disputeId"] for event in events if event["happened"] == "disputed"}
    closed = {event["disputeId"] for event in events if event["happened"].startswith("dispute_")}
    return bool(opened - closed)


def _undoes(event: Event, payment: Payment) -> bool:
    if event["happened"] != "failed":
        return False
    if event["occurredAt"] is None or payment["occurredAt"] is None:
        return True
    return bool(event["occurredAt"] >= payment["occurredAt"])


# -- an event ---------------------------------------------------------------------------------------------


def _event(message: Message, now: datetime) -> Event:
    happened = _happened(message)
    is_money = happened not in ("succeeded", "failed", "refund_failed", "frozen", "unfrozen")
    return {
        "referenceId": message["referenceId"],
        "payment": message.get("originalReferenceId", message.get("paymentReferenceId")),
        "userId": message.get("userId"),
        "postedBy": None,
        "happened": happened,
        "disputeId": message.get("disputeId"),
        "refundReference": message.get("refundReferenceId"),
        "amountMinor": message.get("refundedTotalMinor", message.get("amountMinor")) if is_money else None,
        "currency": message["currency"] if is_money else None,
        "occurredAt": _time(message),
        "recordedAt": now,
        "collected": 0,
        "uncollected": 0,
    }


def _happened(message: Message) -> str:
    match message["type"]:
        case "payment.refunded":
            return "refunded_total" if "refundedTotalMinor" in message else "refunded"
        case "payment.disputed":
            return "inquired" if message.get("stage") == "inquiry" else "disputed"
        case "payment.dispute_closed":
            return f"dispute_{message['result']}"
        case "payment.refund_failed":
            return "refund_failed"
        case "payment.failed":
            return "failed"
        case "account.freeze":
            return "frozen"
        case "account.unfreeze":
            return "unfrozen"
    return "succeeded"


def _total(events: list[Event], name: str) -> int:
    return sum(event[name] for event in events)


def _days_on(now: datetime, days: int | None) -> datetime | None:
    return None if days is None else now + timedelta(days=days)


def _time(message: Message) -> datetime | None:
    text = message.get("occurredAt")
    return None if text is None else datetime.fromisoformat(text)
