"""What was discarded can be fetched back: which letters they were is remembered for a while."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_urlsafe

_KEPT = 200


@dataclass(frozen=True, slots=True)
class Undo:
    """The letters that somebody discarded, and what that was called."""

    actor: str
    numbers: tuple[int, ...]
    text: str


class Undos:
    """The latest of them, by a key that can't be guessed. In memory: ``restore`` is there after a restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Undo] = OrderedDict()

    def remember(self, actor: str, numbers: Sequence[int], text: str) -> str:
        """The key under which ``get`` finds it."""
        key = token_urlsafe(12)
        with self._lock:
            self._kept[key] = Undo(actor, tuple(numbers), text)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> Undo | None:
        """What was remembered under ``key``; None where that was long ago."""
        with self._lock:
            return self._kept.get(key)

    def forget(self, key: str) -> None:
        """It was undone."""
        with self._lock:
            self._kept.pop(key, None)
