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

from schemas import Command
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

_PACKAGES = (("rich", 999, "EUR"), ("brief", 999, "EUR"), ("plain", 499, "USD"), ("rich", 1, "EUR"))
_BACK = ((999, "EUR"), (333, "EUR"), (499, "USD"), (250, "USD"))


def _pay(world: RandomWorld) -> Command:
    package, amount_minor, currency = world.pick(_PACKAGES)
    return payment(amount_minor, currency, package_id=package, **world.fresh("pay"), **world.first())


def _went_back(world: RandomWorld) -> Command:
    paid, own = world.about("pay")
    amount_minor, currency = world.pick(_BACK)
    return went_back(amount_minor, currency, original_reference_id=paid, **own, **world.first())


def _disputed(world: RandomWorld) -> Command:
    paid, own = world.about("pay")
    amount_minor, currency = world.pick(_BACK)
    return disputed(amount_minor, currency, original_reference_id=paid, **own, **world.first())


def _closed(world: RandomWorld) -> Command:
    paid, own = world.about("pay")
    amount_minor, currency = world.pick(_BACK)
    result = world.pick(("won", "lost"))
    return closed(result, amount_minor, currency, original_reference_id=paid, **own)


def _failed(world: RandomWorld) -> Command:
    paid, own = world.about("pay")
    return failed(original_reference_id=paid, **own)


# -- subscriptions ----------------------------------------------------------------------------------------


def _change(world: RandomWorld) -> Command:
    return change(world.pick((*_TIERS, "gold")), **world.fresh())


def _renew(world: RandomWorld) -> Command:
    return renew(world.later((None, -_DAY, _HOUR, _DAY, 31 * _DAY)), **world.fresh())


def _cancel(world: RandomWorld) -> Command:
    return cancel(world.pick(("period_end", "now")), **world.fresh())


# -- accounts ---------------------------------------------------------------------------------------------


def _open(world: RandomWorld) -> Command:
    own = world.fresh()
    return opening(own["reference_id"], own["user_id"], world.pick((*_TIERS, "gold")))


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
    "payments": (4, (_pay, _pay, _went_back, _disputed, _closed, _failed)),
    "subscriptions": (2, (_change, _renew, _cancel)),
    "accounts": (2, (_open, _look, _any_import, _any_import)),
}
