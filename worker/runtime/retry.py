"""Retry policy for contention: where another worker was faster, try again after short growing pauses."""

from collections.abc import Callable
from dataclasses import dataclass
from time import sleep
from typing import TypeVar

from worker.errors import ContentionError, LedgerUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContentionRetry:
    """Retry policy: ``tries`` in all, with pauses of ``step_s``, twice ``step_s`` and so on between them.

    ``text`` names the obstacle, for the error of the last try. ``on_contention`` is called before each pause.
    """

    tries: int
    step_s: float
    text: str
    pause: Callable[[float], None] = sleep
    on_contention: Callable[[], None] = lambda: None

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of ``work``.

        Raises LedgerUnavailableError where the last try is contended too.
        """
        for tried in range(1, self.tries):
            try:
                return work()
            except ContentionError:
                self.on_contention()
                self.pause(self.step_s * tried)
        try:
            return work()
        except ContentionError as error:
            raise LedgerUnavailableError(f"{self.text}: {error}") from error
