"""Ordinary traffic of a demo day: usage, payments, holds and credits, copies and reused references."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from worker.demo.commands import CommandFactory
from worker.demo.scenario import DemoMessage
from worker.demo.schedule import Schedule
from worker.demo.users import DemoUsers

#: Weights of the kinds of messages; most holds and all refunds have a second message, not counted here.
KIND_WEIGHTS = {
    "deduct": 46,
    "metered": 12,
    "hold": 11,
    "free upload": 8,
    "purchase": 7,
    "bonus": 5,
    "batch": 5,
    "refund": 4,
    "adjustment": 2,
}
CAPTURED_SHARE, RELEASED_SHARE = 0.8, 0.13  # of the holds; the others stay open
_IN_PAIRS = {"hold", "refund"}


class DayTraffic:
    """Source of ordinary messages for a schedule."""

    def __init__(
        self, rng: random.Random, users: DemoUsers, commands: CommandFactory, schedule: Schedule
    ) -> None:
        self._rng, self._users, self._make, self._schedule = rng, users, commands, schedule

    def fill(self, count: int) -> None:
        """Add one message of each kind at least, then more by weight, up to ``count`` in the schedule."""
        adders = self._adders()
        first = list(KIND_WEIGHTS)
        while (left := count - len(self._schedule)) > 0:
            chosen = self._rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
            kind = first.pop() if first else chosen
            adders["deduct" if left == 1 and kind in _IN_PAIRS else kind]()

    def deliver_again(self, count: int) -> None:
        """Add copies of messages, soon after or in the evening, as a broker may deliver them."""
        valid = [(at, copy) for at, copy in self._schedule.by_day if not copy.kind.startswith("malformed")]
        for at, message in self._rng.choices(valid, k=count):
            copy = replace(message, kind="delivered again")
            if self._rng.random() < 0.5:
                self._schedule.place_by_day(at + timedelta(seconds=self._rng.randrange(1, 600)), copy)
            else:
                self._schedule.place_in_the_evening(copy)

    def reuse_references(self, count: int) -> None:
        """Add other amounts under references that have an outcome, as a faulty producer does."""
        deductions = [message for _, message in self._schedule.by_day if message.kind == "deduct"]
        for message in self._rng.sample(deductions, k=count):
            self._schedule.place_in_the_evening(self._with_another_amount(message))

    def _with_another_amount(self, message: DemoMessage) -> DemoMessage:
        fields = json.loads(message.body)
        fields["tokens"] += 1
        message_id = self._make.reference("changed")
        body = json.dumps(fields).encode()
        return replace(message, kind="reused reference", message_id=message_id, body=body)

    def _adders(self) -> dict[str, Callable[[], None]]:
        make, users, add = self._make, self._users, self._schedule.add_by_day
        return {
            "deduct": lambda: add("deduct", make.deduct(users.anyone())),
            "metered": lambda: add("metered", make.record(users.anyone())),
            "hold": self._hold,
            "free upload": lambda: add("free upload", make.free_upload(users.anyone())),
            "purchase": lambda: add("purchase", make.purchase(users.payer())),
            "bonus": lambda: add("bonus", make.bonus(users.payer())),
            "batch": lambda: add("batch", make.batch(users.anyone())),
            "refund": self._refund,
            "adjustment": self._adjustment,
        }

    def _hold(self) -> None:
        """Add a hold; most are captured or released in the evening."""
        hold = self._make.reserve(self._users.payer())
        self._schedule.add_by_day("hold", hold)
        chance = self._rng.random()
        if chance < CAPTURED_SHARE:
            self._schedule.add_in_the_evening("capture", self._make.capture(hold))
        elif chance < CAPTURED_SHARE + RELEASED_SHARE:
            self._schedule.add_in_the_evening("release", self._make.release(hold))

    def _refund(self) -> None:
        original = self._make.deduct(self._users.payer())
        self._schedule.add_by_day("deduct", original)
        self._schedule.add_in_the_evening("refund", self._make.refund(original))

    def _adjustment(self) -> None:
        tokens = (-300, -50, 200, 1_000)
        command = self._make.adjust(self._users.payer(), self._rng.choice(tokens))
        self._schedule.add_by_day("adjustment", command)
