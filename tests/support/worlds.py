"""Worlds by chance: seeded streams of commands of which most mean something, with time that passes.

Hypothesis draws what nobody thinks of, and most of it is refused for a hold or a payment that isn't there.
A world remembers what it has sent: its commands name holds that are open, usage that was applied and
payments that were taken. The same seed is the same world. A new concern is a table of makers more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any, TypeVar

from schemas import (
    Command,
    FreezeAccount,
    FreezingCommand,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    SubscriptionPayment,
    UnfreezeAccount,
)
from tests.support import chosen_imports as choices
from tests.support.chosen_imports import ImportChoice, LotChoice, PaymentChoice, import_of
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    closed,
    deduct,
    disputed,
    extend,
    failed,
    opening,
    payment,
    record,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
    went_back,
)
from tests.support.strategies import STARTS, Day

T = TypeVar("T")
Maker = Callable[["RandomWorld"], Command]

USERS = ("u0", "u1", "u2", "u3")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_TIERS = ("free", "pro", "empty", "steady", "saver", "keeper", "idle")
_LIVES = (1, 3_600, 7_200, 86_400, 86_400, 5 * 86_400)
_STEPS = (
    timedelta(0),
    timedelta(seconds=1),
    *[_HOUR / 2] * 4,
    *[_HOUR] * 2,
    *(n * _DAY for n in (1, 2, 14, 31)),
)


@dataclass
class RandomWorld:
    """A world so far: its chance, its time, and what it has sent, by what others may name."""

    random: Random
    now: datetime
    sent: list[Command] = field(default_factory=list)
    named: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def pick(self, choices_: Sequence[T]) -> T:
        """Return one of the choices."""
        return self.random.choice(choices_)

    def often(self, share: float) -> bool:
        """Return True in this share of all cases."""
        return self.random.random() < share

    def fresh(self, kind: str = "") -> dict[str, Any]:
        """Return a new reference of a user; with a ``kind``, later commands may name it."""
        reference, user = f"{kind or 'c'}-{next(self._numbers)}", self.pick(USERS)
        if kind:
            self.named.setdefault(kind, []).append((reference, user))
        return {"reference_id": reference, "user_id": user}

    def about(self, kind: str) -> tuple[str, dict[str, Any]]:
        """Return the name of something that was sent, and a new reference, mostly of the same user."""
        name, user = self.pick(self.named.get(kind, [])[-6:] or [(f"no-{kind}", USERS[0])])
        own = self.fresh()
        return name, own if self.often(0.05) else {**own, "user_id": user}

    def later(self, steps: Sequence[timedelta | None]) -> datetime | None:
        """Return a time after now, or none."""
        step = self.pick(steps)
        return None if step is None else self.now + step

    def deadline(self) -> dict[str, Any]:
        """Return the deadline of usage: mostly none; some is given up already, or just now."""
        until = self.later((None, None, None, None, -_HOUR, timedelta(0), _DAY))
        return {} if until is None else {"valid_until": until}

    def first(self) -> dict[str, Any]:
        """Return the tier on which a command may open its account: mostly none, perhaps one unknown."""
        return {"open_tier": self.pick((*_TIERS, "gold"))} if self.often(0.15) else {}


def day_of(seed: int, batches: int = 24) -> Day:
    """Return the batches of a world with their times."""
    random = Random(seed)
    world = RandomWorld(random, random.choice(STARTS))
    day = [(world.now, _beginnings(world))]
    for _ in range(batches):
        world.now += world.pick(_STEPS)
        day.append((world.now, [_next(world) for _ in range(random.randint(1, 6))]))
    return day


@contextmanager
def named_world(seed: int) -> Iterator[None]:
    """Name the seed of the world in a failure."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"in the world of seed {seed}")
        raise


def _beginnings(world: RandomWorld) -> list[Command]:
    """Return what brings the first accounts; other users come without one."""
    first: list[Command] = [opening("open-u0", "u0", world.pick(_TIERS))]
    if world.often(0.7):
        first.append(_import(world, reference_id="import-u1", user_id="u1"))
    world.sent += first
    return first


def _next(world: RandomWorld) -> Command:
    if world.sent and world.often(0.1):
        return _again(world)
    kinds = list(_MAKERS)
    (kind,) = world.random.choices(kinds, [_MAKERS[kind][0] for kind in kinds])
    command = world.pick(_MAKERS[kind][1])(world)
    world.sent.append(command)
    return command


def _again(world: RandomWorld) -> Command:
    """Return a command that was sent: as it was, as another attempt, or under another user."""
    command = world.pick(world.sent[-30:])
    changes: Mapping[str, Any] = world.pick(
        ({}, {"attempt": 2}, {"attempt": 3}, {"user_id": world.pick(USERS)})
    )
    if isinstance(command, FreezingCommand) and command.payment_reference_id is not None:
        changes = {
            name: value for name, value in changes.items() if name != "user_id"
        }  # it names one of both
    return command.model_copy(update=dict(changes))


# -- usage ------------------------------------------------------------------------------------------------


def _deduct(world: RandomWorld) -> Command:
    tokens = world.pick((0, 5, 20, 20, 70, 130))
    return deduct(tokens, **world.fresh("use"), **world.deadline(), **world.first())


def _record(world: RandomWorld) -> Command:
    meter, quantity = world.pick(("page", "upload", "search", "chat", "fax")), world.pick((0, 1, 3, 10, 45))
    return record(meter, quantity, **world.fresh("use"), **world.deadline(), **world.first())


def _upload(world: RandomWorld) -> Command:
    return upload(world.pick((0, 10, 40)), **world.fresh(), **world.deadline(), **world.first())


# -- holds ------------------------------------------------------------------------------------------------


def _reserve(world: RandomWorld) -> Command:
    tokens, life = world.pick((5, 20, 60)), world.pick(_LIVES)
    return reserve(tokens, ttl_seconds=life, **world.fresh("hold"), **world.deadline(), **world.first())


def _extend(world: RandomWorld) -> Command:
    hold, own = world.about("hold")
    return extend(world.pick(_LIVES), hold, **own)


def _settle(world: RandomWorld) -> Command:
    hold, own = world.about("hold")
    world.named.setdefault("use", []).append((own["reference_id"], own["user_id"]))
    excess, expired = world.pick(("refuse", "take")), world.pick(("take", "take", "refuse"))
    return settle(world.pick((0, 5, 20, 60, 90)), hold, on_excess=excess, on_expired=expired, **own)


def _release(world: RandomWorld) -> Command:
    hold, own = world.about("hold")
    return release(hold, **own)


# -- credit -----------------------------------------------------------------------------------------------


def _bonus(world: RandomWorld) -> Command:
    start = world.later((None, None, None, _HOUR, _DAY, 28 * _DAY))
    end = world.later((None, None, 2 * _HOUR, 2 * _DAY, 5 * _DAY, 31 * _DAY))
    if start is not None and end is not None and end <= start:
        start = None
    times: dict[str, Any] = {"effective_at": start, "expires_at": end}
    return bonus(world.pick((20, 70, 130)), **world.fresh(), **times, **world.first())


def _adjust(world: RandomWorld) -> Command:
    tokens = world.pick((15, 80, -25, -150))
    more = {"allow_negative": world.often(0.5)} if tokens < 0 else {}
    return adjust(tokens, **world.fresh(), **more, **world.first())


def _refund(world: RandomWorld) -> Command:
    used, own = world.about("use")
    return refund(world.pick((1, 5, 15, 20, 70)), used, **own)


# -- payments ---------------------------------------------------------------------------------------------

_PACKAGES: Sequence[tuple[str, int, str]] = (
    *[("rich", 999, "EUR"), ("brief", 999, "EUR"), ("plain", 499, "USD")] * 2,
    ("rich", 1, "EUR"),
    ("rich", 1_099, "EUR"),
    ("many", 700, "USD"),
    ("many", 650, "EUR"),
    ("many", 600, "EUR"),
    ("open", 400, "EUR"),
    ("open", 5, "EUR"),
    ("open", 400, "USD"),
)
_PARTS: Sequence[Mapping[str, int]] = (
    *[{}] * 6,
    {"tax_minor": 100, "amount_minor": 100},
    {"other_minor": 50, "amount_minor": 50},
    {"discount_minor": 100, "amount_minor": -100},
    {"list_minor": 999},
)
_MONEY = (1, 250, 333, 499, 500, 999)


def _pay(world: RandomWorld) -> Command:
    """Return a payment, perhaps one whose events came before it; most have another name beside."""
    coming = world.named.get("coming", [])
    if coming and world.often(0.8):
        reference, user = coming.pop(0)
        own = {"reference_id": reference, "user_id": user}
        world.named.setdefault("pay", []).append((reference, user))
    else:
        own = world.fresh("pay")
    name, amount_minor, currency = world.pick(_PACKAGES)
    parts = dict(world.pick(_PARTS))
    number = world.pick((None, None, None, 2))
    amount_minor = max(amount_minor * (number or 1) + parts.pop("amount_minor", 0), 0)
    if world.often(0.05):
        amount_minor, parts = 0, {"discount_minor": amount_minor * (number or 1)}
    more: dict[str, Any] = {"quantity": number, "also_known_as": _other_names(world, own["reference_id"])}
    return payment(
        amount_minor,
        currency,
        package_id=name,
        occurred_at=world.later((None, None, -_HOUR, -40 * _DAY)),
        **own,
        **parts,
        **more,
        **world.first(),
    )


def _other_names(world: RandomWorld, reference: str) -> tuple[str, ...] | None:
    if world.often(0.03) and world.named.get("pay"):
        return (world.pick(world.named["pay"])[0],)  # of another payment, or its own
    both = (f"{reference}-charge", f"{reference}-session")
    return world.pick((None, both[:1], both, both))


def _send_again(world: RandomWorld) -> Command:
    """Return a payment again, with a name more."""
    sent = [command for command in world.sent if isinstance(command, PaymentSucceeded)]
    if not sent:
        return _pay(world)
    paid = world.pick(sent[-6:])
    names = (*(paid.also_known_as or ()), f"{paid.reference_id}-charge", f"{paid.reference_id}-session")
    return paid.model_copy(update={"also_known_as": names})


def _of_payment(world: RandomWorld) -> dict[str, Any]:
    """Return the name of a payment, also of one that comes later or never, mostly without its user."""
    if world.often(0.12):
        own = world.fresh()
        name, user = own["reference_id"].replace("c", "pay"), own["user_id"]
        world.named.setdefault("coming", []).append((name, user))
    else:
        name, user = world.pick(
            world.named.get("pay", [])[-3:] + world.named.get("coming", [])[-1:] or _NOBODY
        )
    if world.often(0.03):
        name = world.pick(world.named.get("use", []) or _NOBODY)[0]
    users = (None, None, None, user, world.pick(USERS))
    reference = world.fresh()["reference_id"]
    name += world.pick((*[""] * 6, "-charge", "-session", "-invoice"))
    return {"reference_id": reference, "user_id": world.pick(users), "original_reference_id": name}


_NOBODY = [("no-pay", USERS[0])]


def _name(world: RandomWorld) -> Command:
    """Return names of a payment, also of one that comes later, in one step or in two."""
    own = _of_payment(world)
    paid = own["original_reference_id"].partition("-charge")[0].partition("-session")[0]
    names = [f"{paid}{end}" for end in ("", "-charge", "-session", "-invoice")]
    if world.often(0.03) and world.named.get("pay"):
        names = [world.pick(world.named["pay"])[0]]  # of another payment
    others = [name for name in names if name != own["original_reference_id"]]
    chosen = world.random.sample(others, world.random.randint(1, min(2, len(others)))) if others else [paid]
    return PaymentNamed(**own, also_known_as=tuple(chosen), **world.first())


def _went_back(world: RandomWorld) -> Command:
    own = _of_payment(world)
    world.named.setdefault("back", []).append((own["reference_id"], own["original_reference_id"]))
    return went_back(world.pick(_MONEY), world.pick(_CURRENCIES), **own, **world.first())


_CURRENCIES = ("EUR", "EUR", "EUR", "EUR", "USD")


def _went_back_in_all(world: RandomWorld) -> Command:
    own: dict[str, Any] = {**_of_payment(world), "occurred_at": world.later((timedelta(0), -_HOUR, -_DAY))}
    total = world.pick((0, *_MONEY))
    currency = world.pick(_CURRENCIES)
    return PaymentRefunded(refunded_total_minor=total, currency=currency, **own, **world.first())


def _refund_failed(world: RandomWorld) -> Command:
    refund_, name = world.pick(world.named.get("back", [])[-4:] or [("c-later", "no-pay")])
    own = {**_of_payment(world), "original_reference_id": name}
    return RefundFailed(refund_reference_id=refund_, **own)


def _dispute(world: RandomWorld) -> dict[str, Any]:
    own = _of_payment(world)
    name = own["original_reference_id"].partition("-charge")[0].partition("-session")[0]
    return {**own, "dispute_id": f"du-{name}" if world.often(0.8) else f"du-{own['reference_id']}"}


def _disputed(world: RandomWorld) -> Command:
    stage = world.pick((None, None, "chargeback", "inquiry"))
    own, currency = _dispute(world), world.pick(_CURRENCIES)
    return disputed(world.pick(_MONEY), currency, stage=stage, **own, **world.first())


def _closed(world: RandomWorld) -> Command:
    result = world.pick(("won", "lost", "lost", "prevented", "withdrawn"))
    own: dict[str, Any] = {**_dispute(world), "occurred_at": world.later((None, timedelta(0), -_HOUR, -_DAY))}
    return closed(result, world.pick((0, *_MONEY)), world.pick(_CURRENCIES), **own)


def _failed(world: RandomWorld) -> Command:
    return failed(**_of_payment(world), occurred_at=world.later((None, timedelta(0), -50 * _DAY)))


# -- subscriptions ----------------------------------------------------------------------------------------


def _change(world: RandomWorld) -> Command:
    own = world.fresh()
    later: dict[str, Any] = {"occurred_at": world.later((None, timedelta(0), -_HOUR, -2 * _DAY))}
    later |= {"effective_at": "period_end"} if world.often(0.15) else _paid_period(world, own)
    return change(world.pick((*_TIERS, "gold")), **own, **later)


def _renew(world: RandomWorld) -> Command:
    own = world.fresh()
    paid = _paid_period(world, own)
    start = paid.pop("period_start", world.later((None, -_DAY, _HOUR, _DAY, 31 * _DAY)))
    return renew(start, **own, **paid)


def _paid_period(world: RandomWorld, own: Mapping[str, str]) -> dict[str, Any]:
    """Return the gateway's own period, perhaps, and what was paid for it, perhaps."""
    more: dict[str, Any] = {}
    if (start := world.later((None, None, -_DAY, timedelta(0), _HOUR, 20 * _HOUR))) is not None:
        more = {"period_start": start, "period_end": start + world.pick((30, 31, 365)) * _DAY}
    if world.often(0.5):
        reference = world.fresh("pay")["reference_id"]
        world.named["pay"][-1] = (reference, own["user_id"])
        names = _other_names(world, reference)
        amount = world.pick(_MONEY)
        more["payment"] = SubscriptionPayment(
            reference_id=reference, amount_minor=amount, currency="EUR", also_known_as=names
        )
    return more


def _cancel(world: RandomWorld) -> Command:
    occurred = {"occurred_at": world.later((None, -_HOUR, -_DAY, -14 * _DAY))}
    return cancel(world.pick(("period_end", "now")), **world.fresh(), **occurred)


# -- accounts ---------------------------------------------------------------------------------------------


def _open(world: RandomWorld) -> Command:
    own = world.fresh()
    return opening(own["reference_id"], own["user_id"], world.pick((*_TIERS, "gold")))


def _freeze(world: RandomWorld) -> Command:
    """Return a freeze, or more often its end, of a user or by a payment; some come late."""
    own = _of_payment(world)
    named: dict[str, str] = {"payment_reference_id": own["original_reference_id"]}
    if world.often(0.5):
        named = {"user_id": world.fresh()["user_id"]}
    fields: dict[str, Any] = {
        "reference_id": own["reference_id"],
        "reason": "a fraud warning",
        "occurred_at": world.later((None, None, -_DAY)),
    }
    if world.often(0.3):
        return FreezeAccount(**fields, **named)
    return UnfreezeAccount(**fields, **named)


def _look(world: RandomWorld) -> Command:
    return settling(**world.fresh())


def _any_import(world: RandomWorld) -> Command:
    return _import(world, **world.fresh())


def _import(world: RandomWorld, **own: str) -> Command:
    """Return an import; its payments are new, or have a reference that is another's."""
    pick = world.pick
    more = {name: pick(choices.MORE) for name in choices.CAME_OR_WENT}
    choice = ImportChoice(
        tier=pick((*_TIERS, *_TIERS, "gold")),
        ages=(pick(choices.AGES), pick(choices.EARLIER), pick(choices.EARLIER), pick(choices.EARLIER)),
        lots=[_lot(world) for _ in range(pick((0, 1, 2, 4)))],
        payments=[_payment(world, own["user_id"]) for _ in range(pick((0, 0, 1)))],
        debt=pick(choices.DEBTS),
        quotas=[(pick((*choices.METERS, *choices.METERS, "fax")), pick(choices.USED))],
        past=pick((None, {**more, **{name: pick(choices.EITHER) for name in choices.OF_BOTH_SIGNS}})),
    )
    return import_of(choice, world.now, **own)


def _lot(world: RandomWorld) -> LotChoice:
    pick = world.pick
    return LotChoice(
        pick(choices.SOURCES), pick(choices.LEFT), pick(choices.LOT_ENDS), pick(choices.PRIORITIES)
    )


def _payment(world: RandomWorld, user: str) -> PaymentChoice:
    pick, left = world.pick, choices.LEFT_OF_BOUGHT
    reference = pick(world.named["pay"])[0] if world.often(0.1) and "pay" in world.named else None
    if reference is None:
        reference = world.fresh()["reference_id"]
        world.named.setdefault("pay", []).append((reference, user))
    return PaymentChoice(
        reference, pick(choices.MONEY), pick(choices.BOUGHT), (pick(left), pick(left)), pick(choices.ENDS)
    )


#: What is sent, by concern, with its share.
_MAKERS: Mapping[str, tuple[int, Sequence[Maker]]] = {
    "usage": (5, (_deduct, _deduct, _record, _upload)),
    "holds": (8, (_reserve, _reserve, _extend, _settle, _settle, _release)),
    "credit": (4, (_bonus, _bonus, _adjust, _refund)),
    "payments": (6, (_pay, _pay, _pay, _send_again, _failed, _name)),
    "refunds": (3, (_went_back, _went_back, _went_back_in_all, _refund_failed)),
    "disputes": (3, (_disputed, _closed)),
    "subscriptions": (2, (_change, _renew, _cancel)),
    "accounts": (3, (_open, _look, _any_import, _any_import, _freeze)),
}
