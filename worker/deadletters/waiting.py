"""Stop request for loops; the loops of this package know no signals."""

from typing import Protocol


class Stop(Protocol):
    """Stop request of a loop, with a wait that ends with it."""

    @property
    def requested(self) -> bool:
        """True from the moment the loop shall end."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop shall end."""
        ...
