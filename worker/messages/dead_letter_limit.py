"""The limits above which a lane pauses, because the fault is probably ours.

A *fault* is an unexpected error of the worker's that a message met. Too many of them in a row, with no
message applied between them, pause the lane they came from. A *refusal* (malformed, wrong sender, reference
conflict) is most often one producer's fault and pauses nothing, with one exception: a process that runs with
a version, a catalog or settings that no worker has run with before watches its first messages, and a lane of
which more than half are refused is paused until somebody resumes it.

Messages are counted, not time: there is no clock here.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from schemas import DeadLetterReason

#: Number of messages that a process with a new configuration watches.
WATCHED = 1_000
#: Smallest number of a lane's messages of which a share means something.
_SHARE_AT_LEAST = 20


class PauseCode(StrEnum):
    """Code of the reason why a lane is paused."""

    CONSECUTIVE_FAULTS = "consecutive_faults"
    CONFIG_SUSPECT = "config_suspect"
    SCHEMA_UNUSABLE = "schema_unusable"
    OPERATOR = "operator"
    OPERATOR_TYPE = "operator_type"


class FaultStep(StrEnum):
    """Step at which a message met a fault: applying it, or writing its reply."""

    APPLY = "apply"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Limit that a lane has passed, with a text for operators."""

    queue: str
    code: PauseCode
    text: str


class DeadLetterLimit:
    """Counts of one process, lane by lane.

    ``most`` is how many faults in a row become dead letters (0: any number). ``is_new_config`` starts the
    watch over refusals (``is_watching``). Faults are counted by the thread that applies, refusals by the one
    that replies.
    """

    def __init__(self, most: int = 100, *, is_new_config: bool = False) -> None:
        self._most = most
        # Two threads: one applies, the other writes replies of the batch before.
        self._faults: dict[FaultStep, Counter[str]] = {step: Counter() for step in FaultStep}
        self.is_watching = is_new_config
        self._seen: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._codes: Counter[DeadLetterReason] = Counter()
        self._suspicions: dict[str, LimitExceeded] = {}

    # -- faults -------------------------------------------------------------------------------------------

    @property
    def most_faults(self) -> int:
        """The largest number of faults in a row, of all lanes."""
        # The thread that applies may count a lane's first fault meanwhile.
        return max((faults for counts in self._faults.values() for faults in [*counts.values()]), default=0)

    def faults(self, queue: str) -> int:
        """Return how many messages of a lane met a fault at one step since one passed it."""
        return max(self._faults[step][queue] for step in FaultStep)

    def add_fault(self, queue: str, step: FaultStep = FaultStep.APPLY) -> None:
        """Count one more message of a lane that met a fault."""
        self._faults[step][queue] += 1

    def reset(self, queue: str, step: FaultStep = FaultStep.APPLY) -> None:
        """Begin anew: a message of the lane passed the step."""
        if self._faults[step][queue]:
            self._faults[step][queue] = 0

    def reset_all(self, queue: str) -> None:
        """Begin anew with a lane: a message went through, or an operator resumed it."""
        for step in FaultStep:
            self.reset(queue, step)

    def is_over(self, queue: str, step: FaultStep | None = None) -> bool:
        """Return True for a lane that passed a limit; with ``step``, the limit of faults there."""
        if step is not None:
            return 0 < self._most <= self._faults[step][queue]
        return 0 < self._most <= self.faults(queue) or queue in self._suspicions

    # -- refusals under a new configuration ---------------------------------------------------------------

    def add_message(self, queue: str, refusal: DeadLetterReason | None) -> bool:
        """Count one message of a lane, with the reason code of its refusal; False where it must be kept."""
        if not self.is_watching:
            return True
        if queue in self._suspicions:
            return refusal is None
        self._seen[queue] += 1
        if refusal is not None:
            self._refused[queue] += 1
            self._codes[refusal] += 1
            if self._refused[queue] * 2 > WATCHED:
                self._suspicions[queue] = self._suspicion(queue)
                return False
        if self._seen.total() >= WATCHED:
            self._close_watch()
        return True

    def watch(self) -> None:
        """Watch over refusals from now on: the configuration is new."""
        self.accept_config()
        for counts in (self._seen, self._refused, self._codes):
            counts.clear()
        self.is_watching = True

    def accept_config(self) -> None:
        """End the watch: an operator takes the configuration as right."""
        self.is_watching = False
        self._suspicions.clear()

    def _close_watch(self) -> None:
        for queue, seen in self._seen.items():
            if seen >= _SHARE_AT_LEAST and self._refused[queue] * 2 > seen:
                self._suspicions[queue] = self._suspicion(queue)
        self.is_watching = bool(self._suspicions)

    def _suspicion(self, queue: str) -> LimitExceeded:
        (commonest, _), *_ = self._codes.most_common(1)
        return LimitExceeded(
            queue,
            PauseCode.CONFIG_SUSPECT,
            f"{self._refused[queue]} of the first {self._seen[queue]} messages under a new version, catalog "
            f"or settings were refused, most of them for {commonest}: is the change right? Look at "
            "`billing-worker dead-letters groups`, then `billing-worker resume`",
        )

    # -- both ---------------------------------------------------------------------------------------------

    def exceeded(self, queue: str) -> LimitExceeded | None:
        """Return the limit that a lane has passed; None where it has passed none."""
        if queue in self._suspicions:
            return self._suspicions[queue]
        if not self.is_over(queue):
            return None
        return LimitExceeded(
            queue,
            PauseCode.CONSECUTIVE_FAULTS,
            f"{self.faults(queue)} messages in a row met a fault of the worker's; what waits stays in its "
            "queue, and one message is tried at growing intervals. Look at `billing-worker dead-letters "
            "groups`, mend the cause; it goes on by itself, or at `billing-worker resume`",
        )
