"""Whether so many messages become dead letters that the fault must be ours: then the worker stops.

A bad deploy, or a schema that refuses what everybody sends, would empty the queues into the dead letters.
What waits in its queue is applied by the next good worker without anybody's doing; what is a dead letter has
been answered ``failed``, and somebody must send it again. So the worker stops at a limit, in the manner of
Arroyo's ``DlqLimit`` (most in a row, largest share), with two differences for the sake of who may bring it
about:

- A *fault* is ours: a bug that a message met, or a message that brings workers down. Only faults count in a
  row, and only a message that the ledger settled ends the row: nothing else proves that the worker works.
- A *refusal* (malformed, a wrong route or sender, a reference that names something else) may be ours too, but
  is most often one producer's fault, and one bad producer must not stop everybody's billing, whatever it
  sends. So the share is taken without the sender who is refused most, as far as the broker vouches for
  senders (``user_id``): such names can't be made up. Where it vouches for nobody, nobody is left out. A
  schema that refuses everybody is seen by what is refused of the others; and until a process has settled one
  message nobody is left out of a whole window: nothing says that the new schema takes anything.

Counted is by messages, not by time: there is no clock here. A new process begins with nothing counted.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from worker.errors import BillingError


class FloodError(BillingError):
    """The worker has stopped at a flood of dead letters; what waits is in its queue."""


@dataclass(frozen=True, slots=True)
class FloodLimit:
    """How many faults in a row, and what share of the last ``window`` messages, are let through.

    Zero switches a limit off. The share (of 1) is looked at when there are more than ``least`` letters in the
    window, more than ``least_beyond`` of them from others than the sender refused most: a few letters on a
    quiet queue are no flood.
    """

    in_a_row: int = 100
    share: float = 0.5
    window: int = 1_000
    least: int = 100
    least_beyond: int = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One message that is to become a dead letter: why, whether that is our fault, and who sent it.

    ``sender`` is whom the broker vouches for; None where it vouches for nobody.
    """

    code: str
    sender: str | None = None
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """That it is a flood: which limit is passed, in words, and what of the last messages were letters."""

    passed: str
    letters: int
    messages: int
    commonest: str

    def __str__(self) -> str:
        share = self.letters / self.messages
        return (
            f"a flood of dead letters: {self.passed}; of the last {self.messages} messages {self.letters} "
            f"({share:.0%}) could not be applied, most of them for the reason {self.commonest}. The fault is "
            "probably ours. No more messages are taken, what waits stays in its queue. "
            "Look at `billing-worker dead-letters groups`, mend the cause, then start the worker again"
        )


class Row:
    """Faults with no success between them; over at more than ``most``, never where that is 0."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.faults = 0

    @property
    def is_over(self) -> bool:
        """Whether there are too many."""
        return 0 < self._most < self.faults

    def grow(self) -> None:
        """One more fault."""
        self.faults += 1

    def end(self) -> None:
        """A success."""
        self.faults = 0


class Flood:
    """Counts what becomes of one worker's messages; once there is a verdict, it stands."""

    def __init__(self, limit: FloodLimit | None = None) -> None:
        self.limit = FloodLimit() if limit is None else limit
        self.verdict: Verdict | None = None
        self._row = Row(self.limit.in_a_row)
        self._seen = 0
        self._has_settled = False
        self._letters: deque[tuple[int, Finding]] = deque()  # with the number of their message, from 1
        self._refused: Counter[str] = Counter()  # of the refused, by sender

    @property
    def in_a_row(self) -> int:
        """Faults since the last message that the ledger settled."""
        return self._row.faults

    def admits(self, findings: Sequence[Finding | None]) -> bool:
        """Whether the letters of a batch may be sent: all of them, or none.

        ``findings`` has an entry a message, in order; None for one that the ledger settled. So what has been
        sent is never more than the limit, and a batch that would pass it keeps its letters.
        """
        if not any(findings):
            self._count_settled(len(findings))
            return True
        if self.verdict is None:
            for finding in findings:
                self._count(finding)
                self.verdict = self._judged()
                if self.verdict is not None:
                    break
        return self.verdict is None

    def _count_settled(self, messages: int) -> None:
        if messages:
            self._has_settled = True
            self._seen += messages
            self._row.end()
            self._forget()

    def _count(self, finding: Finding | None) -> None:
        if finding is None:
            self._count_settled(1)
            return
        self._seen += 1
        self._letters.append((self._seen, finding))
        if finding.is_fault:
            self._row.grow()
        elif finding.sender is not None:
            self._refused[finding.sender] += 1
        self._forget()

    def _forget(self) -> None:
        """Leave out what is no longer among the last messages."""
        while self._letters and self._letters[0][0] <= self._seen - self.limit.window:
            _, finding = self._letters.popleft()
            if not finding.is_fault and finding.sender is not None:
                self._refused[finding.sender] -= 1

    def _judged(self) -> Verdict | None:
        if self._row.is_over:
            return self._verdict(
                f"{self._row.faults} faults in a row, and {self.limit.in_a_row} are the limit "
                "(BILLING_FLOOD_IN_A_ROW)"
            )
        if self._is_too_large_a_share():
            return self._verdict(f"more than {self.limit.share:.0%} are the limit (BILLING_FLOOD_SHARE)")
        return None

    def _is_too_large_a_share(self) -> bool:
        if not self.limit.share or len(self._letters) <= self.limit.least:
            return False
        if not self._has_settled and len(self._letters) >= self.limit.window:
            return True
        loudest = max(self._refused.values(), default=0)
        letters = len(self._letters) - loudest
        return letters > self.limit.least_beyond and letters > self.limit.share * (self._messages - loudest)

    @property
    def _messages(self) -> int:
        return min(self._seen, self.limit.window)

    def _verdict(self, passed: str) -> Verdict:
        codes = Counter(finding.code for _, finding in self._letters)
        return Verdict(passed, len(self._letters), self._messages, codes.most_common(1)[0][0])
