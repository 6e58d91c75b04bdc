"""Trials on record: messages that may be poison go through the pipeline with nothing else under way.

The order matters: write the record; read, apply and reply to the messages; remove the record; acknowledge the
messages. A crash before the removal is counted as theirs.
"""

from collections.abc import Callable, Sequence

from worker.batches import Batch, Batches
from worker.broker import Delivery
from worker.lanes.poison import PoisonTrials, TrialGroup
from worker.pipeline import Item


class TrialRunner:
    """Tries messages over one link, group by group."""

    def __init__(self, poison: PoisonTrials, batches: Batches) -> None:
        self._poison, self._batches = poison, batches
        self._session, self._pipeline = batches.session, batches.pipeline

    def try_all(self, deliveries: Sequence[Delivery]) -> None:
        """Try ``deliveries``: apply, reply and acknowledge each group by itself, on record."""
        for group in self.groups(deliveries):
            self._try(group)

    def groups(self, deliveries: Sequence[Delivery]) -> Sequence[TrialGroup]:
        """Return the groups in which ``deliveries`` are to be tried."""
        return self._session.in_ledger(lambda: self._poison.groups(deliveries)) if deliveries else []

    def on_record(self, group: TrialGroup, attempt: Callable[[], Batch]) -> Batch:
        """Return the batch of ``attempt``; a crash meanwhile is the group's. Items it kept were not tried."""
        try:
            self._session.in_ledger(lambda: self._poison.begin(group))
            batch = attempt()
        except BaseException:
            # Whatever ends the trial here, the process lives: nothing crashed.
            self._poison.break_off(group)
            raise
        kept = [item.delivery for item in batch.items if item.kept]
        untried = {key for key, delivery in group.deliveries.items() if delivery in kept}
        self._poison.break_off(group.of(untried))
        tried = group.of(group.deliveries.keys() - untried)
        self._session.in_ledger(lambda: self._poison.end(tried))
        return batch

    def decode(self, group: TrialGroup) -> Sequence[Item]:
        """Return the items of a group: read by the pipeline, or with the failure of its message."""
        deliveries = list(group.deliveries.values())
        if not group.is_given_up:
            return self._pipeline.receive(deliveries)
        crashes, decoded = group.crashes_alone, group.may_be_read
        return [self._pipeline.give_up(one, crashes, decoded=decoded) for one in deliveries]

    def _try(self, group: TrialGroup) -> None:
        batch = self.on_record(group, lambda: self._applied_and_replied(group))
        self._batches.acknowledge(batch)

    def _applied_and_replied(self, group: TrialGroup) -> Batch:
        batch = Batch(self.decode(group))
        self._batches.apply(batch)
        self._batches.reply(batch)
        return batch
