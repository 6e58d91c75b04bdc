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
from tests.support.model_rules import Answer, Judgement, Judgements, Rules, allocate, came_to_nothing
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
    "credit.adjust": ("allowNegative", "expiresAt", "tokens"),
    "credit.bonus": ("effectiveAt", "expiresAt", "priority", "tokens"),
    "credit.refund": ("originalReferenceId", "tokens"),
    "payment.dispute_closed": ("amountMinor", "currency", "disputeId", "originalReferenceId", "result"),
    "payment.disputed": ("amountMinor", "currency", "disputeId", "originalReferenceId"),
    "payment.failed": ("originalReferenceId",),
    "payment.import": (),  # never a message: only what names the reference of an imported payment
    "payment.refunded": ("amountMinor", "currency", "originalReferenceId"),
    "payment.succeeded": ("amountMinor", "currency", "packageId", "packageIndex"),
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
#: Types that open a missing account, and take the tier for that as content.
OPENING = frozenset(
    {
        "credit.adjust",
        "credit.bonus",
        "payment.dispute_closed",
        "payment.disputed",
        "payment.failed",
        "payment.refunded",
        "payment.succeeded",
        "usage.deduct",
        "usage.free_upload",
        "usage.record",
        "usage.reserve",
    }
)
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
        "userId",
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
        self._rules = Rules(self._judgements)
        #: Each notice in order, with the reference and the user it is about.
        self.notices: list[dict[str, Any]] = []

    # -- what one may ask ---------------------------------------------------------------------------------

    def apply(self, command: Command, now: datetime) -> Answer:
        """The reply to ``command``, without what ``predicted`` leaves out. Absent fields are left out too."""
        message: Message = {"attempt": 1, **json.loads(command.to_json())}
        past = self._judgements.setdefault(message["referenceId"], [])
        mine = [judgement for judgement in past if _is_of_one(message, judgement[0])]
        if mine and mine[-1] is not past[-1]:
            return _answer_of_loser(message, mine, past[-1])
        is_taking = bool(past) and not mine and _may_take(message, past[-1])
        most = 1_000 + (past[-1][0]["attempt"] if past else 0)
        if message["attempt"] > most and (mine or is_taking or not past):
            return _conflict("attempt", f"at most {most}", str(message["attempt"]))
        if is_taking or not past:
            return self._judged(message, now, past)
        latest, answer = past[-1]
        if mine and answer["status"] == "rejected" and message["attempt"] > latest["attempt"]:
            return self._judged(message, now, past)
        return _compared(message, *_of_attempt(message, mine) if mine else past[-1])

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

    # -- the judgement ------------------------------------------------------------------------------------

    def _judged(self, message: Message, now: datetime, past: list[Judgement]) -> Answer:
        answer = self._judge(message, now)
        past.append((message, answer))
        return dict(answer)

    def _judge(self, message: Message, now: datetime) -> Answer:
        if message["userId"] not in self._accounts:
            if message["type"] == "account.open":
                return self._open(message, now)
            if message["type"] == "account.import":
                return self._import(message, now)
            return self._judge_first(message, now)
        return self._judge_with_account(message, now)

    def _judge_first(self, message: Message, now: datetime) -> Answer:
        """The user is new: the message opens the account, whatever else becomes of it."""
        name = message.get("openTier", self.catalog.auto_open) if message["type"] in OPENING else None
        if name is None:
            return {"status": "rejected", "code": "account_not_found", "duplicate": False}
        if name not in self.catalog.tiers:
            return {"status": "rejected", "code": "unknown_tier", "duplicate": False, "tier": name}
        account = self._accounts[message["userId"]] = AccountModel(self.catalog, name, message, now)
        account.granted_until, account.granted_start = now, None  # nothing is granted yet
        return {**self._judge_with_account(message, now), "openedTier": name}

    def _judge_with_account(self, message: Message, now: datetime) -> Answer:
        user = message["userId"]
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
        self._keep(account, notices)
        return _reply(account, "applied", code, {"amount": amount, **detail}, before)

    def _keep(self, account: AccountModel, notices: list[dict[str, Any]]) -> None:
        user, reference_id = account.message["userId"], account.message["referenceId"]
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
        self._keep(account, [])
        return _reply(account, "applied", "account_opened", {"amount": tier.monthly_tokens, "tier": name}, 0)

    def _import(self, message: Message, now: datetime) -> Answer:
        refused = model_imports.refusal(self.catalog, message, self._is_taken)
        if refused is not None:
            code, detail = refused
            return {"status": "rejected", "code": code, "duplicate": False, **detail}
        as_of = model_imports.imported(self.catalog, message, now, self._rules.payments)
        account = as_of.taken_up(self.catalog, message, now)
        self._keep(account, account.finish())
        for payment in model_imports.payments_of(message):
            answer = {"status": "applied", "code": "payment_imported"}
            self._judgements.setdefault(payment["referenceId"], []).append((payment, answer))
        # Where the import moves nothing itself, all that is due comes before it.
        own = [m for m in account.movements if m["referenceId"] == message["referenceId"] and not m["dueAt"]]
        before = own[0]["balanceBefore"] if own else account.balance()
        return _reply(account, "applied", "account_imported", model_imports.answer_of(message), before)

    def _is_taken(self, payment: Message) -> bool:
        """True where the reference of a payment to be imported names an operation that keeps it."""
        past = self._judgements.get(payment["referenceId"], [])
        return bool(past) and not _may_take(payment, past[-1])


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
    """True where both have the same type and user."""
    return all(message[name] == other[name] for name in ("type", "userId"))


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
    for name in ("type", "userId", *content):
        stored, received = _as_content(latest, name), _as_content(message, name)
        if stored != received:
            return _conflict(name, stored, received)
    return {**answer, "duplicate": True}


def _conflict(field: str, expected: str, received: str) -> Answer:
    return {
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
    return datetime.fromisoformat(value).isoformat() if name in _TIMES else value
