"""Poison messages: how one is recognised, which messages are tried together, and when one is given up.

The broker's delivery count only says that a message came back: a lost connection, a kill from outside or a
neighbour does that as well. It proves nothing, so a message that came back often is tried on record: the
record is written before the messages are read and removed after their replies are sent. A worker that dies in
between leaves the record, and the messages in it are tried in smaller groups next time, in the end alone.
Only crashes while a message was tried alone prove that it is poison.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from worker.broker import Delivery
from worker.errors import TransientError
from worker.ledger.trials import Trial, Trying
from worker.messages.policy import GIVE_UP_AFTER, TRIAL_AFTER

#: A group that crashed is tried in groups of this part of its size.
SHRINK = 8


class TrialRecord(Protocol):
    """Durable record of trials; see ``worker.ledger.trials``."""

    def of(self, keys: Sequence[str]) -> dict[str, Trial]:
        """Return the records that crashes left of these messages."""
        ...

    def begin(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        """Record that these messages are tried together."""
        ...

    def end(self, keys: Sequence[str]) -> None:
        """Forget these messages."""
        ...

    def withdraw(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        """Put the record back as it was."""
        ...

    def smallest(self, now: datetime) -> int | None:
        """Return the size of the smallest group that crashed lately."""
        ...


def may_be_poison(delivery: Delivery) -> bool:
    """Return True for a message that came back so often that it is tried on record."""
    return delivery.delivery_count >= TRIAL_AFTER


def key_of(delivery: Delivery) -> str:
    """Return the key of a message, of its bytes and its place: the same each time it is delivered."""
    digest = hashlib.sha256()
    names = (delivery.queue, delivery.exchange, delivery.routing_key, *_ids(delivery))
    for name in names:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(delivery.unreadable or b"")
    digest.update(delivery.body)
    return digest.hexdigest()


def _ids(delivery: Delivery) -> tuple[str, str]:
    return delivery.text("message_id") or "", delivery.text("correlation_id") or ""


@dataclass(frozen=True, slots=True)
class TrialGroup:
    """Messages that are tried together, by their keys; ``known`` holds the records of earlier crashes."""

    deliveries: Mapping[str, Delivery]
    known: Mapping[str, Trial]

    @property
    def crashes_alone(self) -> int:
        """Number of crashes while this message was tried alone; 0 for a group of several."""
        if len(self.deliveries) > 1:
            return 0
        return sum(trial.alone for trial in self.known.values())

    @property
    def is_given_up(self) -> bool:
        """True for one message that crashed workers alone too often."""
        return self.crashes_alone >= GIVE_UP_AFTER

    @property
    def may_be_read(self) -> bool:
        """True unless decoding it may have crashed a worker."""
        return self.crashes_alone <= GIVE_UP_AFTER

    def of(self, keys: Iterable[str]) -> "TrialGroup":
        """Return the part of the group with these keys."""
        return _group({key: self.deliveries[key] for key in keys}, self.known)


class PoisonTrials:
    """Forms the groups of messages that may be poison, and keeps the record of their trials.

    All methods wait for the record's database; all but ``break_off`` raise its TransientError.
    """

    def __init__(self, record: TrialRecord, clock: Callable[[], datetime]) -> None:
        self._record, self._clock = record, clock
        self._broken_off: list[TrialGroup] = []

    def first_prefetch(self, most: int) -> int:
        """Return the prefetch of a new link: ``most``, or fewer after a recent crash.

        Should the poison message come again, few others count a delivery when it crashes this worker too.
        """
        smallest = self._record.smallest(self._clock())
        return most if smallest is None else min(most, _smaller(smallest))

    def groups(self, deliveries: Sequence[Delivery]) -> list[TrialGroup]:
        """Return groups to try, in the order of arrival: copies apart, and what crashed in smaller ones."""
        self._withdraw_broken_off()
        keyed = [(key_of(delivery), delivery) for delivery in deliveries]
        known = self._crashed(keyed)
        groups: list[TrialGroup] = []
        members: dict[str, Delivery] = {}
        most = len(keyed)
        for key, delivery in keyed:
            own_most = _smaller(known[key].together) if key in known else len(keyed)
            if members and (key in members or own_most != most or len(members) >= most):
                groups.append(_group(members, known))
                members = {}
            members[key], most = delivery, own_most
        return [*groups, _group(members, known)] if members else groups

    def _crashed(self, keyed: Sequence[tuple[str, Delivery]]) -> dict[str, Trial]:
        """Return the records that crashes left of these messages; the trial of a copy elsewhere is none."""
        counts: dict[str, int] = {}
        for key, delivery in keyed:
            counts[key] = max(counts.get(key, 0), delivery.delivery_count)
        found = self._record.of(list(counts))
        return {key: trial for key, trial in found.items() if trial.delivery_count < counts[key]}

    def begin(self, group: TrialGroup) -> None:
        """Put the group on record: from now on a crash counts as its own."""
        self._record.begin(_trying(group), group.known, self._clock())

    def end(self, group: TrialGroup) -> None:
        """Take the group off the record after its replies are sent."""
        self._record.end(list(group.deliveries))

    def break_off(self, group: TrialGroup) -> None:
        """Put the record back as it was before the trial: something else ended it, and nothing crashed.

        In an outage of the database that is done before the next trial; nothing is raised.
        """
        if not group.deliveries:
            return
        self._broken_off.append(group)
        try:
            self._withdraw_broken_off()
        except TransientError:
            return

    def _withdraw_broken_off(self) -> None:
        while self._broken_off:
            group = self._broken_off[0]
            self._record.withdraw(_trying(group), group.known, self._clock())
            self._broken_off.pop(0)


def _trying(group: TrialGroup) -> dict[str, Trying]:
    return {key: Trying(one.queue, one.delivery_count) for key, one in group.deliveries.items()}


def _smaller(together: int) -> int:
    return max(together // SHRINK, 1)


def _group(members: Mapping[str, Delivery], known: Mapping[str, Trial]) -> TrialGroup:
    return TrialGroup(dict(members), {key: known[key] for key in members if key in known})
