"""Runner of replays: takes the lease of one, and runs it."""

import logging
from collections.abc import Callable
from datetime import datetime

from worker.deadletters.models import Replay, ReplayState
from worker.deadletters.replay import store as replays
from worker.deadletters.replay.links import RunLinks
from worker.deadletters.replay.run import STOP_REQUESTED, ReplayRun, RunControls, RunnerResources
from worker.errors import NotPossibleError
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)


class ReplayRunner:
    """Runs replays, one after the other, in whichever thread it is called."""

    def __init__(self, resources: RunnerResources) -> None:
        self._with = resources

    def run(
        self,
        replay_id: int,
        actor: str,
        *,
        stop: Stop,
        on_progress: Callable[[Replay], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        patience_s: float = 60.0,
    ) -> Replay:
        """Run the replay until it ends, stops by itself or pauses; returns its state then.

        A killed runner's lease is waited for. Raises NotFoundError; NotPossibleError where the replay has
        ended or is being run; BrokerUnavailableError or ConfigurationError where the first link can't be
        opened, and the lease isn't taken. A later outage of either server is waited out.
        """
        controls = RunControls(stop, on_progress or _nobody, on_trouble or log.warning)
        links = RunLinks(self._with.connect, self._with.drain)
        try:
            links.open()
            self._take_lease(replay_id, actor, controls)
            if stop.requested:
                return self._rest(replay_id, STOP_REQUESTED)
            return ReplayRun(self._with, links, replay_id, controls, patience_s).to_its_end()
        finally:
            links.close()

    def _take_lease(self, replay_id: int, actor: str, controls: RunControls) -> None:
        """Wait for an abandoned lease: it expires unless somebody renews it."""
        seen: datetime | None = None
        while True:
            now = self._with.clock()
            until = replays.lease(self._with.engine, now, replay_id, self._with.name, actor)
            if until is None:
                return
            if seen is None:
                controls.on_trouble(
                    f"replay {replay_id} is leased until {until:%H:%M:%S}Z: waiting, if its runner is gone"
                )
            elif until > seen:
                raise NotPossibleError(
                    f"replay {replay_id} is being run by another process: see "
                    f"`billing-worker dead-letters replay show {replay_id}`, or pause it there"
                )
            seen = until
            controls.stop.wait(min(max((until - now).total_seconds(), 0.0) + 0.05, 0.5))
            if controls.stop.requested:
                raise NotPossibleError(f"replay {replay_id} was not gone on with: it is leased by another")

    def _rest(self, replay_id: int, reason: str) -> Replay:
        w = self._with
        replays.end_run(w.engine, w.clock(), replay_id, w.name, ReplayState.PAUSED, reason)
        return replays.get(w.engine, replay_id)


def _nobody(_replay: Replay) -> None:
    """Ignore progress."""
