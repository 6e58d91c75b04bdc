"""Control of the lanes over one link: pause one that passed a limit, try its messages, resume it."""

from collections.abc import Mapping, Sequence

from worker.batches import Batch, Batches
from worker.broker import Delivery
from worker.broker.partitions import without_partition
from worker.errors import LimitExceededError
from worker.lanes.operator_pauses import OperatorPausedLanes
from worker.lanes.pausing import Lanes
from worker.lanes.poison import TrialGroup
from worker.lanes.trials import TrialRunner
from worker.messages.dead_letter_limit import LimitExceeded, PauseCode
from worker.pipeline import Item

_NO_QUEUE = "the queue for messages of a paused type is missing: run `billing-worker topology declare`"


class LaneControl:
    """Acts on what ``lanes`` knows, between batches, with nothing in flight.

    ``exits_on_limit`` raises LimitExceededError where a lane would be paused.
    """

    def __init__(self, lanes: Lanes, trials: TrialRunner, batches: Batches, *, exits_on_limit: bool) -> None:
        self._lanes, self._trials, self._batches = lanes, trials, batches
        self._link, self._session, self._pipeline = batches.link, batches.session, batches.pipeline
        self._operator: OperatorPausedLanes = lanes.operator
        self._exits_on_limit = exits_on_limit

    def without_paused(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of lanes that go on; a paused lane's message is the one it tries.

        Those of a type that an operator has paused are held, and acknowledged.
        """
        if self._operator.types:
            held = {item.delivery: type_ for item in items if (type_ := self._held_type(item))}
            self._hold(held)
            items = [item for item in items if item.delivery not in held]
        if not self._lanes.paused:
            return items
        for item in items:
            if self._lanes.is_paused(item.queue):
                self._lanes.add_probe(item)
        return [item for item in items if not self._lanes.is_paused(item.queue)]

    def try_on_record(self, deliveries: Sequence[Delivery]) -> None:
        """Try messages that may be poison; one of a paused lane waits for its turn there."""
        if self._operator.types:
            held = {one: type_ for one in deliveries if (type_ := self._held_type_by_key(one))}
            self._hold(held)
            deliveries = [one for one in deliveries if one not in held]
        paused = [delivery for delivery in deliveries if self._lanes.is_paused(delivery.queue)]
        for item in self._pipeline.receive(paused):
            self._lanes.add_probe(item)
        self._trials.try_all([one for one in deliveries if not self._lanes.is_paused(one.queue)])

    def attend(self) -> None:
        """Pause lanes over their limit, resume those an operator released, try messages of the others.

        The pauses of operators come first: of their lanes nothing is tried.
        """
        if self._operator.needs_attention:
            for queue in self._operator.attend(self._lanes.on(self._link), self._lanes.prefetch_of):
                self._lanes.forget_probes(queue)
        for exceeded in self._lanes.exceeded():
            self._pause(exceeded)
        if self._lanes.must_sync:
            for queue in self._session.in_ledger(self._lanes.sync):
                self._trials.try_all(
                    [item.delivery for item in self._lanes.resume_released(self._link, queue)]
                )
        while (probe := self._lanes.next_probe()) is not None:
            if (type_ := self._held_type(probe)) is not None:
                self._hold({probe.delivery: type_})
                self._lanes.remove_probe(probe)
            else:
                self._try_probe(probe)

    def _held_type(self, item: Item) -> str | None:
        """Return the type of an item that is to be held; None for one that its lane takes, or refuses."""
        type_ = self._operator.held_type(item)
        is_judged = item.message is not None
        return type_ if type_ is None or is_judged else self._unread(item.delivery, type_)

    def _held_type_by_key(self, delivery: Delivery) -> str | None:
        type_ = self._operator.held_type_by_key(delivery)
        return None if type_ is None else self._unread(delivery, type_)

    def _unread(self, delivery: Delivery, type_: str) -> str | None:
        return type_ if self._pipeline.may_hold_unread(delivery, type_) else None

    def _hold(self, held: Mapping[Delivery, str]) -> None:
        """Hold deliveries of paused types and acknowledge them; where that can't be, their lane pauses."""
        if not held:
            return
        lost = self._session.with_broker(lambda: self._pipeline.hold(self._link, held))
        for delivery in lost:
            self._operator.pause_instead(without_partition(delivery.queue), _NO_QUEUE)
        self._link.acknowledge([delivery for delivery in held if delivery not in lost])

    def _pause(self, exceeded: LimitExceeded) -> None:
        if exceeded.code is PauseCode.CONFIG_SUSPECT and self._session.in_ledger(self._lanes.is_accepted):
            self._lanes.go_on(self._link, exceeded.queue)
        elif self._exits_on_limit:
            raise LimitExceededError(f"stopped: {exceeded.queue}: {exceeded.text}")
        else:
            self._lanes.pause(self._link, exceeded)

    def _try_probe(self, probe: Item) -> None:
        """Try a paused lane's message, on record: its lane goes on where it is applied, or tries the next."""
        (group,) = self._trials.groups([probe.delivery])
        is_refused = group.is_given_up or probe.failure is not None
        batch = self._trials.on_record(group, lambda: self._attempt(group, probe))
        if probe.kept:
            self._lanes.postpone(probe)
            return
        self._batches.acknowledge(batch)
        self._lanes.remove_probe(probe)
        if is_refused:
            return  # a refusal says nothing of the worker
        if probe.failure is not None:  # the last of its tries met the fault too: it is a dead letter
            self._lanes.postpone(probe)
        else:
            self._lanes.resume(self._link, probe.queue, "a message was applied again")

    def _attempt(self, group: TrialGroup, probe: Item) -> Batch:
        """Apply the message by itself and reply; keep it where it meets a fault and has tries left."""
        if group.is_given_up:
            (given_up,) = self._trials.decode(group)
            probe.failure = given_up.failure
        batch = Batch([probe])
        is_applied = self._session.in_ledger(lambda: self._pipeline.try_alone(probe))
        if is_applied or probe.failure is not None:
            self._batches.reply(batch)
        else:
            probe.kept = True
        return batch
