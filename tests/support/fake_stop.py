"""Stop of a loop that comes after a number of waits, none of which takes time."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class FakeStop:
    """Stop that comes after ``waits_left`` waits, none of which takes time; ``on_wait`` is called in each."""

    waits_left: int = 1000
    requested: bool = False
    waited_s: list[float] = field(default_factory=list)
    on_wait: Callable[[], object] = lambda: None

    def wait(self, seconds: float) -> None:
        """Record the wait and count it."""
        self.waited_s.append(seconds)
        self.waits_left -= 1
        self.on_wait()
        self.requested |= self.waits_left <= 0
