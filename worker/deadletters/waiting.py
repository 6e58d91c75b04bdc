"""What ends a wait: the loops of this package know no signals."""

from typing import Protocol


class Stop(Protocol):
    """Whether a loop shall end, and a wait that ends with it."""

    @property
    def requested(self) -> bool:
        """True from the moment the loop shall end."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop shall end."""
        ...
