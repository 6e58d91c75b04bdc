"""Runs that reverse charges in this process, each in a thread of its own, as replays are."""

from worker.console.replay_threads import ReplayThreads, ThreadStop
from worker.reversing import store
from worker.reversing.run import ReverseControls, Reversing


class ReverseThreads(ReplayThreads):
    """Starts runs that reverse charges in threads and keeps their problems."""

    noun = "reverse-run"

    def work(self, number: int, actor: str, stop: ThreadStop) -> None:
        """Execute a run to its end, or until the stop."""
        resources = self.application.reverse_resources()
        run = store.get(resources.engine, number)
        controls = ReverseControls(
            stop,
            on_progress=lambda _: self._set_problem(number, None),
            on_trouble=lambda text: self._set_problem(number, text),
        )
        Reversing(resources, run, controls).to_its_end()
