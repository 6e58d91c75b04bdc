"""Run of a scenario: send each phase, collect replies and notices, then dead letters and the audit."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Link
from worker.cli.application import reply_sender_of
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.store.filters import DeadLetterFilter
from worker.demo.collector import Collector
from worker.demo.processes import STOP_S, DemoProcess, started_producer, started_worker
from worker.demo.producer import line_for
from worker.demo.progress import DemoProgress, demo_progress
from worker.demo.result import DemoResult
from worker.demo.scenario import DemoMessage, Scenario
from worker.demo.signals import DeferredEnd, deferred_end
from worker.demo.stored_notices import stored_notices
from worker.errors import BrokerUnavailableError
from worker.ledger.audit import audit
from worker.ledger.migrations import migrate

_PATIENCE_S = 60.0


class DemoQueues(NamedTuple):
    """Queues that a demo reads: the replies to its messages, and every notice."""

    replies: str
    notices: str


def run_scenario(application: Application, scenario: Scenario, folder: Path) -> DemoResult:
    """Run all phases; return the content of the ledger after the worker has stopped."""
    run = uuid4().hex[:12]
    phases = with_correlation_ids(run, (phase.messages for phase in scenario.phases))
    collector = Collector({id_: message for phase in phases for id_, message in phase.items()})
    own = f"{BILLING.replies.name}.{reply_sender_of(application)}"
    queues = DemoQueues(f"{own}.demo-{run}", f"billing.notices.demo-{run}")
    with (
        _links_and_processes(application, folder, queues) as (link, worker, producer),
        demo_progress(collector) as progress,
        deferred_end() as end,
    ):
        runner = ScenarioRunner(worker, producer, link, queues, collector, progress, end)
        for phase, messages in zip(scenario.phases, phases, strict=True):
            progress.begin(phase.name)
            if (expiry := collector.last_expiry(phase.expired_holds)) is not None:
                runner.wait_until(expiry)
            if not runner.run_phase(messages):
                break
        runner.end()
    collector.add_dead_letters(_dead_letters(application))
    report = audit(application.engine, catalog=application.catalog)
    stored = stored_notices(application.engine, collector.references())
    return DemoResult(collector, report, stored, runner.exit_codes(), runner.seconds())


class ScenarioRunner:
    """Runner of phases: hands messages to the producer, and collects until each has its reply."""

    def __init__(
        self,
        worker: DemoProcess,
        producer: DemoProcess,
        link: Link,
        queues: DemoQueues,
        collector: Collector,
        progress: DemoProgress,
        end: DeferredEnd,
    ) -> None:
        self._worker, self._producer, self._link, self._queues = worker, producer, link, queues
        self._collector, self._progress, self._end = collector, progress, end
        self._first_reply_at: float | None = None
        self._last_reply_at = 0.0

    def seconds(self) -> float:
        """Return the seconds from the first reply to the last."""
        return 0.0 if self._first_reply_at is None else self._last_reply_at - self._first_reply_at

    def exit_codes(self) -> dict[str, int | None]:
        """Return the exit codes by name; None while a process runs."""
        return {process.name: process.popen.returncode for process in (self._worker, self._producer)}

    def wait_until(self, moment: datetime) -> None:
        """Collect until ``moment`` has passed."""
        while utc_now() <= moment:
            self._collect_for_progress()

    def run_phase(self, messages: dict[str, DemoMessage]) -> bool:
        """Send ``messages`` and wait for their replies; False where some are missing.

        Gives up after a minute in which nothing arrives.
        """
        self._send(messages)
        arrived_at = monotonic()
        while not messages.keys() <= self._collector.replies.keys():
            if self._collect_for_progress():
                arrived_at = monotonic()
            elif monotonic() - arrived_at > _PATIENCE_S:
                return False
            else:
                self._worker.require_alive()
                self._producer.require_alive()
        return True

    def end(self) -> None:
        """End the processes in order, and collect the rest: notices follow the replies."""
        self._producer.end()
        self._worker.end()
        while self._collect():
            pass

    def _collect_for_progress(self) -> bool:
        arrived = self._collect()
        self._progress.update()
        self._end.exit_if_requested()
        return arrived

    def _collect(self) -> bool:
        """Read once; return True where anything has arrived."""
        deliveries = self._link.receive(100, 0.2)
        replies = [delivery for delivery in deliveries if delivery.queue == self._queues.replies]
        self._collector.add_replies(replies)
        notices = (delivery for delivery in deliveries if delivery.queue == self._queues.notices)
        self._collector.add_notices(notices)
        self._link.acknowledge(deliveries)
        self._link.keep_alive()
        if replies:
            self._last_reply_at = monotonic()
            self._first_reply_at = self._first_reply_at or self._last_reply_at
        return bool(deliveries)

    def _send(self, messages: dict[str, DemoMessage]) -> None:
        pipe = self._producer.popen.stdin
        assert pipe is not None  # noqa: S101 - it was started with one
        try:
            pipe.write(line_for(list(messages.items()), self._queues.replies))
            pipe.flush()
        except BrokenPipeError:
            self._producer.popen.wait(STOP_S)
            self._producer.require_alive()


@contextmanager
def _links_and_processes(
    application: Application, folder: Path, queues: DemoQueues
) -> Iterator[tuple[Link, DemoProcess, DemoProcess]]:
    """Migrate the ledger and declare the topology; yield a link to the queues, a worker and a producer."""
    settings = application.settings
    migrate(application.engine)
    with (
        _link_to(application, queues) as link,
        started_worker(settings, folder) as worker,
        started_producer(settings, folder) as producer,
    ):
        yield link, worker, producer


@contextmanager
def _link_to(application: Application, queues: DemoQueues) -> Iterator[Link]:
    link = application.link()
    try:
        link.declare(BILLING)
        link.declare_temporary(queues.replies)
        link.listen(queues.notices)
    finally:
        link.close()
    link = application.link(consume=list(queues))
    try:
        yield link
    finally:
        with suppress(BrokerUnavailableError):
            for queue in queues:
                link.delete(queue)
        link.close()


def _dead_letters(application: Application) -> Iterator[StoredDeadLetter]:
    """Yield all dead letters, after a drain of those that wait."""
    service = application.service()
    link = application.link(consume=[BILLING.dead.name])
    try:
        service.drain(link)
    finally:
        link.close()
    yield from service.every_dead_letter(DeadLetterFilter(status=tuple(DeadLetterStatus)))


def with_correlation_ids(run: str, phases: Iterable[Iterable[DemoMessage]]) -> list[dict[str, DemoMessage]]:
    """Return the messages of each phase by a correlation id of their own."""
    number = iter(range(1, sys.maxsize))
    return [{f"{run}-{next(number):06}": message for message in phase} for phase in phases]
