"""The ledger as one would keep it by hand: message after message, a list of judgements, an account a user.

Written from the rules of the design and, on purpose, unlike ``worker/core``: it reads what is on the wire,
knows no batches, caches nothing and looks everything up in plain lists. The worker's replies
and rows must be those of the model.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from schemas import Command
from tests.support import model_imports
from tests.support.model_account import AccountModel, Message, Movement
from tests.support.model_payments import ABOUT_PAYMENTS, name_in, names_in
from tests.support.model_rules import (
    Answer,
    Judgement,
    Judgements,
    Rules,
    allocate,
    came_to_nothing,
    named_money,
    package_named,
)
from worker.catalog import Catalog

#: Fields that move the ledger, by type. Others (free text, provider, attempt, …) may differ in a duplicate.
CONTENT: Mapping[str, tuple[str, ...]] = {
    "account.import": (
        "anchor",
        "asOf",
        "debt",
        "lots",
        "openedAt",
        "payments",
        "quotas",
        "tier",
        "totals",
    ),
    "account.open": ("tier",),
    "account.settle": (),
    "account.freeze": ("paymentReferenceId", "reason", "userId"),
    "account.unfreeze": ("paymentReferenceId", "reason", "userId"),
    "credit.adjust": ("allowNegative", "expiresAt", "tokens"),
    "credit.bonus": ("effectiveAt", "expiresAt", "priority", "tokens"),
    "credit.refund": ("freeQuantity", "originalReferenceId", "tokens"),
    "payment.dispute_closed": ("amountMinor", "currency", "disputeId", "originalReferenceId", "result"),
    "payment.disputed": ("amountMinor", "currency", "disputeId", "originalReferenceId", "stage"),
    "payment.failed": ("originalReferenceId",),
    "payment.import": (),  # never a message: only what names the reference of an imported payment
    "payment.named": ("alsoKnownAs", "originalReferenceId"),
    "payment.refund_failed": ("originalReferenceId", "refundReferenceId"),
    "payment.refunded": ("amountMinor", "currency", "originalReferenceId", "refundedTotalMinor"),
    "payment.succeeded": (
        "amountMinor",
        "currency",
        "discountMinor",
        "listMinor",
        "otherMinor",
        "packageId",
        "packageIndex",
        "quantity",
        "taxMinor",
    ),
    "subscription.cancel": ("at",),
    "subscription.change": ("effectiveAt", "payment", "periodEnd", "periodStart", "tier"),
    "subscription.renew": ("payment", "periodEnd", "periodStart"),
    "usage.deduct": ("feature", "tokens"),
    "usage.extend": ("originalReferenceId", "ttlSeconds"),
    "usage.free_upload": ("bytes",),
    "usage.record": ("feature", "meter", "quantity"),
    "usage.release": ("originalReferenceId",),
    "usage.reserve": ("tokens", "ttlSeconds"),
    "usage.settle": ("feature", "onExcess", "onExpired", "originalReferenceId", "tokens"),
}
#: Types that take a tier for a missing account as content; those about a payment open none.
OPENING = frozenset(
    {
        "credit.adjust",
        "credit.bonus",
        "payment.dispute_closed",
        "payment.disputed",
        "payment.failed",
        "payment.named",
        "payment.refund_failed",
        "payment.refunded",
        "payment.succeeded",
        "usage.deduct",
        "usage.free_upload",
        "usage.record",
        "usage.reserve",
    }
)
_PAYMENTS = ("payment.succeeded", "payment.import")
_TIMES = frozenset(
    {"anchor", "asOf", "effectiveAt", "expiresAt", "openedAt", "paidAt", "periodStart", "periodEnd"}
)

#: Parts of a reply that the model doesn't predict: words, identities, the ledger's own numbering.
_NOT_PREDICTED = frozenset(
    {
        "schemaVersion",
        "message",
        "type",
        "referenceId",
        "attempt",
        "transactionId",
        "unit",
        "recordedAt",
    }
)


def predicted(reply: Mapping[str, Any]) -> Answer:
    """Part of a reply (as decoded JSON) that the model answers too; the two must be equal."""
    return {name: value for name, value in reply.items() if name not in _NOT_PREDICTED}


class Model:
    """One ledger. ``apply`` takes messages in the order in which they reach it.

    ``catalog`` may be exchanged between two messages, as between two starts of the worker.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._accounts: dict[str, AccountModel] = {}
        self._judgements: Judgements = {}
        #: Time of the latest judgement under each reference.
        self._judged_at: dict[str, datetime] = {}
        self._rules = Rules(self._judgements)
        #: Each notice in order, with the reference and the user it is about.
        self.notices: list[dict[str, Any]] = []

    # -- what one may ask ---------------------------------------------------------------------------------

    def apply(self, command: Command, now: datetime) -> Answer:
        """The reply to ``command``, without what ``predicted`` leaves out. Absent fields are left out too."""
        message = self._with_package_id({"attempt": 1, **json.loads(command.to_json())})
        answer = self._answer(message, now)
        if message["type"] in ("payment.succeeded", "payment.named") and answer["duplicate"]:
            self._rules.payments.learn(message, answer)
        return answer

    def _with_package_id(self, message: Message) -> Message:
        """A package at a place of the catalog has the id there as well."""
        is_placed = "packageIndex" in message and "packageId" not in message
        package = package_named(self.catalog, message) if is_placed else None
        return message if package is None else {**message, "packageId": package.id}

    def _answer(self, message: Message, now: datetime) -> Answer:
        past = self._judgements.setdefault(message["referenceId"], [])
        mine = [judgement for judgement in past if _is_of_one(message, judgement[0])]
        if mine and mine[-1] is not past[-1]:
            return _answer_of_loser(message, mine, past[-1])
        is_taking = bool(past) and not mine and _may_take(message, past[-1])
        most = 1_000 + (past[-1][0]["attempt"] if past else 0)
        if message["attempt"] > most and (mine or is_taking or not past):
            return _conflict(message, "attempt", f"at most {most}", str(message["attempt"]))
        if is_taking or not past:
            return self._judged(message, now, past)
        latest, answer = past[-1]
        if mine and answer["status"] == "rejected" and message["attempt"] > latest["attempt"]:
            return self._judged(message, now, past)
        if not mine:
            return self._compared(message, latest, answer)
        own = self._compared(message, *_of_attempt(message, mine))
        if own["duplicate"] and answer["status"] == "applied":  # a later attempt may have applied the same
            anew = self._compared(message, latest, answer)
            return anew if anew["duplicate"] else own
        return own

    def _compared(self, message: Message, earlier: Message, answer: dict[str, Any]) -> dict[str, Any]:
        return _compared(message, self._with_package_id(earlier), answer)

    def balances(self) -> dict[str, int]:
        """Balance of every user who has an account, as of the last posting."""
        return {user: account.balance() for user, account in self._accounts.items()}

    def history(self, user: str) -> list[Movement]:
        """Every movement of the user's tokens, oldest first; empty where there is no account."""
        return [dict(movement) for movement in self._movements(user)]

    def sums(self, user: str) -> dict[str, int]:
        """Total that was moved, by counter-account; tokens that go out are counted upwards."""
        outwards = ("usage", "expiry", "reversals")
        counters = ("allocation", "purchases", "bonus", "refunds", "adjustments", *outwards)
        account = self._accounts.get(user)
        moved = {counter: account.moved(counter) if account else 0 for counter in counters}
        return {counter: -sum_ if counter in outwards else sum_ for counter, sum_ in moved.items()}

    def lots(self, user: str) -> list[dict[str, Any]]:
        """Every credit the user ever had, in order, with what is left of it."""
        return self._accounts[user].lots() if user in self._accounts else []

    def holds(self, user: str) -> list[dict[str, Any]]:
        """Every hold of the user, in order, and what became of it."""
        return [dict(hold) for hold in self._accounts[user].holds] if user in self._accounts else []

    def held(self, user: str) -> int:
        """Tokens of the user's balance that open holds keep."""
        return self._accounts[user].held() if user in self._accounts else 0

    def debt(self, user: str) -> int:
        """Debt of the user."""
        return self._accounts[user].debt() if user in self._accounts else 0

    def tier(self, user: str) -> str | None:
        """The user's tier, or None where there is no account."""
        return self._accounts[user].tier if user in self._accounts else None

    def subscription(self, user: str) -> dict[str, Any]:
        """Last granted period, tokens granted for the last one, and the subscription's end."""
        account = self._accounts[user]
        return {
            "grantedFrom": account.granted_start,
            "grantedUntil": account.granted_until,
            "periodGranted": account.period_granted,
            "endsAt": account.ends_at,
            "nextTier": account.next_tier,
        }

    def warned(self, user: str) -> set[str]:
        """The marks that the balance is below, and of which a notice went out."""
        return set(self._accounts[user].warned)

    def next_due(self, user: str) -> datetime | None:
        """Time when something is due on the account next, as of the last posting."""
        return self._accounts[user].next_due()

    def view(self, user: str, now: datetime) -> dict[str, Any]:
        """The account as it would be if all that is due at ``now`` were posted; asking posts nothing."""
        account = self._accounts[user].taken_up(self.catalog, {}, now)
        return {
            "balance": account.balance(),
            "held": account.held(),
            "available": account.available(),
            "debt": account.debt(),
            "lots": account.lots(),
        }

    def used(self, user: str, quota: str, now: datetime) -> int:
        """Amount counted against a quota in the user's period of ``now``."""
        return (
            self._accounts[user].taken_up(self.catalog, {}, now).used(quota) if user in self._accounts else 0
        )

    def quotas(self, user: str) -> dict[tuple[str, date], int]:
        """Amounts counted, by quota and first day of the period."""
        counted = self._accounts[user].counted
        found = sorted({(name, start.date()) for name, start, _ in counted})
        return {key: sum(amount for n, at, amount in counted if (n, at.date()) == key) for key in found}

    def uploaded(self, user: str, now: datetime) -> int:
        """The bytes counted in the user's period of ``now``."""
        return self.used(user, "free_upload", now)

    @property
    def payments(self) -> list[dict[str, Any]]:
        """Each payment that was taken, in order."""
        return self._rules.payments.taken

    @property
    def payment_events(self) -> list[dict[str, Any]]:
        """Each thing that happened to a payment, in order."""
        return self._rules.payments.events

    @property
    def waiting_events(self) -> list[dict[str, Any]]:
        """Each event that waits for its payment."""
        return self._rules.payments.waiting

    @property
    def names_alike(self) -> list[list[str]]:
        """Names of payments that nobody knows yet, of each payment together."""
        return sorted(sorted(group) for group in self._rules.payments.groups if len(group) > 1)

    @property
    def payment_names(self) -> dict[str, str]:
        """The payment of each name."""
        return self._rules.payments.names

    # -- the judgement ------------------------------------------------------------------------------------

    def _judged(self, message: Message, now: datetime, past: list[Judgement]) -> Answer:
        opened = set(self._accounts)
        judged = self._judge(message, now)
        user = judged.pop("userId", message.get("userId"))
        if past and _is_of_one(message, past[-1][0]):
            user = past[-1][1].get("userId")
        answer = judged if user is None else {**judged, "userId": user}
        past.append((message, answer))
        self._judged_at[message["referenceId"]] = now
        for user in self._accounts.keys() - opened:
            self._judge_earlier_payments(user, now)
        return dict(answer)

    def _judge_earlier_payments(self, user: str, now: datetime) -> None:
        """Judges the payments anew that came before the user had an account, in the order they came."""
        for _, name in sorted((at, name) for name, at in self._judged_at.items()):
            past = self._judgements[name]
            message, answer = past[-1]
            is_payment = (message["type"], message.get("userId")) == ("payment.succeeded", user)
            if is_payment and answer["code"] == "account_not_found":
                again = {**message, "attempt": message["attempt"] + 1}
                if "packageId" in again:
                    again.pop("packageIndex", None)
                self._judged(again, now, past)

    def _judge(self, message: Message, now: datetime) -> Answer:
        if message["type"] == "payment.named":
            return self._judge_names(message, now)
        if name_in(message) is not None:
            return self._judge_about_payment(message, now)
        if message["userId"] not in self._accounts:
            if message["type"] == "account.open":
                return self._open(message, now)
            if message["type"] == "account.import":
                return self._import(message, now)
            return self._judge_first(message, now)
        return self._judge_with_account(message, now, message["userId"])

    def _judge_about_payment(self, message: Message, now: datetime) -> Answer:
        """The payment says whose account it is; until it comes, the message waits and belongs to nobody."""
        name = name_in(message)
        assert name is not None
        payment = self._rules.payments.named(name)
        own = self._own(message)
        # A reference that is judged anew stays whose it was; the payment takes the event in later.
        if payment is not None and own and own[-1][1].get("userId") != payment["userId"]:
            payment = None
        if payment is not None:
            answer = self._judge_with_account(message, now, payment["userId"])
            return {**answer, "userId": payment["userId"]}
        if self._is_other(name):
            return _no_payment(name)
        user = own[-1][1].get("userId") if own else message.get("userId")
        self._rules.payments.wait({**message, "userId": user}, now)
        waits = {"status": "applied", "code": "payment_awaited", "duplicate": False, "amount": 0}
        return {**waits, **named_money(message)}

    def _own(self, message: Message) -> list[Judgement]:
        past = self._judgements[message["referenceId"]]
        return [judged for judged in past if _is_of_one(message, judged[0])]

    def _is_other(self, name: str) -> bool:
        """True for the reference of an operation that moved something and is no payment."""
        past = [j for j in self._judgements.get(name, []) if j[0]["type"] not in _PAYMENTS]
        return bool(past) and past[-1][1]["status"] == "applied" and not came_to_nothing(*past[-1])

    def _judge_names(self, message: Message, now: datetime) -> Answer:
        """Names of one payment, also of one that nobody knows yet."""
        payments, names = self._rules.payments, names_in(message)
        owners = payments.owners(names)
        if len(owners) > 1:
            taken = {"originalReferenceId": owners[1]}
            return {"status": "rejected", "code": "reference_taken", "duplicate": False, **taken}
        if names[0] not in payments.names and self._is_other(names[0]):
            return _no_payment(names[0])
        payment, own = payments.named(owners[0]) if owners else None, self._own(message)
        if payment is not None and (not own or own[-1][1].get("userId") == payment["userId"]):
            answer = self._judge_with_account(message, now, payment["userId"])
            return {**answer, "userId": payment["userId"]}
        if payment is not None:
            payments.call(payment["referenceId"], names)
        else:
            payments.join(names)
        named = {"amount": 0, "originalReferenceId": names[0]}
        return {"status": "applied", "code": "payment_named", "duplicate": False, **named}

    def _judge_first(self, message: Message, now: datetime) -> Answer:
        """The user is new: the message opens the account, whatever else becomes of it."""
        name = message.get("openTier", self.catalog.auto_open) if message["type"] in OPENING else None
        if name is None:
            return {"status": "rejected", "code": "account_not_found", "duplicate": False}
        if name not in self.catalog.tiers:
            return {"status": "rejected", "code": "unknown_tier", "duplicate": False, "tier": name}
        account = self._accounts[message["userId"]] = AccountModel(self.catalog, name, message, now)
        account.granted_until, account.granted_start = now, None  # nothing is granted yet
        return {**self._judge_with_account(message, now, message["userId"]), "openedTier": name}

    def _judge_with_account(self, message: Message, now: datetime, user: str) -> Answer:
        account = self._accounts[user].taken_up(self.catalog, message, now)
        before = account.balance()
        code, amount, detail = self._rules.judge(account, message)
        if amount is None:
            refused = _reply(account, "rejected", code, detail, before)
            return {name: value for name, value in refused.items() if name != "expired"}
        answer = _reply(account, "applied", code, {"amount": amount, **detail}, before)
        if came_to_nothing(message, answer):
            # The entries that fell due are not kept, so the reply does not report them either.
            return {name: value for name, value in answer.items() if name not in ("expired", "sequence")}
        notices = account.finish()
        self._keep(account, user, notices)
        return _reply(account, "applied", code, {"amount": amount, **detail}, before)

    def _keep(self, account: AccountModel, user: str, notices: list[dict[str, Any]]) -> None:
        reference_id = account.message["referenceId"]
        self._accounts[user] = account
        self.notices += [{"userId": user, "referenceId": reference_id, **notice} for notice in notices]

    def _movements(self, user: str) -> list[Movement]:
        return self._accounts[user].movements if user in self._accounts else []

    def _open(self, message: Message, now: datetime) -> Answer:
        name = message["tier"]
        tier = self.catalog.tiers.get(name)
        if tier is None:
            return {"status": "rejected", "code": "unknown_tier", "duplicate": False, "tier": name}
        account = AccountModel(self.catalog, name, message, now)
        account.period_granted = tier.monthly_tokens
        allocate(account, tier.monthly_tokens, account.granted_until)
        for mark in ("low", "depleted"):
            account.look_at_mark(mark)
        self._keep(account, message["userId"], [])
        return _reply(account, "applied", "account_opened", {"amount": tier.monthly_tokens, "tier": name}, 0)

    def _import(self, message: Message, now: datetime) -> Answer:
        refused = model_imports.refusal(self.catalog, message, self._is_taken)
        if refused is not None:
            code, detail = refused
            return {"status": "rejected", "code": code, "duplicate": False, **detail}
        as_of = model_imports.imported(self.catalog, message, now, self._rules.payments)
        account = as_of.taken_up(self.catalog, message, now)
        self._keep(account, message["userId"], account.finish())
        for payment in model_imports.payments_of(message):
            answer = {"status": "applied", "code": "payment_imported", "userId": payment["userId"]}
            self._judgements.setdefault(payment["referenceId"], []).append((payment, answer))
        # Where the import moves nothing itself, all that is due comes before it.
        own = [m for m in account.movements if m["referenceId"] == message["referenceId"] and not m["dueAt"]]
        before = own[0]["balanceBefore"] if own else account.balance()
        return _reply(account, "applied", "account_imported", model_imports.answer_of(message), before)

    def _is_taken(self, payment: Message) -> bool:
        """True where the reference of a payment to be imported names an operation that keeps it."""
        past = self._judgements.get(payment["referenceId"], [])
        is_judged = bool(past) and not _may_take(payment, past[-1])
        return is_judged or self._rules.payments.named(payment["referenceId"]) is not None


def _no_payment(name: str) -> Answer:
    named = {"originalReferenceId": name}
    return {"status": "rejected", "code": "original_not_found", "duplicate": False, **named}


def _reply(account: AccountModel, status: str, code: str, detail: dict[str, Any], before: int) -> Answer:
    answer = {"status": status, "code": code, "duplicate": False, **detail, "balanceBefore": before}
    answer["balanceAfter"] = account.balance()
    of_this = [m for m in account.movements if m["referenceId"] == account.message["referenceId"]]
    if status == "applied" and of_this:
        answer["sequence"] = of_this[-1]["sequence"]
    figures = {
        "held": account.held(),
        "debt": account.debt(),
        "expired": -sum(m["amount"] for m in of_this if m["counter"] == "expiry" and m["dueAt"] is not None),
    }
    return {**answer, **{name: figure for name, figure in figures.items() if figure > 0}}


def _is_of_one(message: Message, other: Message) -> bool:
    """True where both have the same type and user; of a payment's events the payment knows the user."""
    is_same_user = message["type"] in ABOUT_PAYMENTS or message.get("userId") == other.get("userId")
    return bool(message["type"] == other["type"] and is_same_user)


def _may_take(message: Message, latest: Judgement) -> bool:
    """True where the message may take the reference over from usage that came to nothing."""
    return not message["type"].startswith("usage.") and came_to_nothing(*latest)


def _answer_of_loser(message: Message, mine: list[Judgement], owner: Judgement) -> Answer:
    """Old answer to a message that lost its reference; a conflict with the owner for any other."""
    if message["attempt"] <= mine[-1][0]["attempt"]:
        answer = _compared(message, *_of_attempt(message, mine))
        if answer["duplicate"]:
            return answer
    return _compared(message, *owner)


def _of_attempt(message: Message, mine: list[Judgement]) -> Judgement:
    """The judgement of the message's own attempt, or else the latest."""
    same = [judgement for judgement in mine if judgement[0]["attempt"] == message["attempt"]]
    return same[-1] if same else mine[-1]


def _compared(message: Message, latest: Message, answer: Answer) -> Answer:
    """The answer to a message that repeats another one, or the first difference."""
    kind = latest["type"]
    content = sorted((*CONTENT[kind], *(["openTier"] if kind in OPENING else [])))
    owner = ("type",) if kind in ABOUT_PAYMENTS else ("type", "userId")
    # By their places where both have one, else by the ids that were there.
    both = "packageIndex" in latest and "packageIndex" in message
    unread = "packageId" if both else "packageIndex"
    for name in (*owner, *(name for name in content if name != unread)):
        stored, received = _as_content(latest, name), _as_content(message, name)
        if stored != received:
            return _conflict(message, name, stored, received)
    return {**answer, "duplicate": True}


def _conflict(message: Message, field: str, expected: str, received: str) -> Answer:
    user = {"userId": message["userId"]} if "userId" in message else {}
    return {
        **user,
        "status": "rejected",
        "code": "reference_conflict",
        "duplicate": False,
        "field": field,
        "expected": expected,
        "received": received,
    }


def _as_content(message: Message, name: str) -> str:
    """A field as a conflict shows it."""
    if name not in message:
        return "absent"
    value = message[name]
    if (name, value) == ("onExpired", "take"):
        return "absent"  # commands are stored that are older than the field
    return str(_plain(value, name))


def _plain(value: Any, name: str) -> Any:
    """A value with its parts in the order of their names, and each time in full."""
    if isinstance(value, list):
        return [_plain(part, name) for part in value]
    if isinstance(value, dict):
        return {part: _plain(value[part], part) for part in sorted(value)}
    is_time = name in _TIMES and value not in ("now", "period_end")  # a change may name one of the two
    return datetime.fromisoformat(value).isoformat() if is_time else value
