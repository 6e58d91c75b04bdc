"""Files that hold secrets or rights: read again when they change, written whole or not at all."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """Content of the file at ``path``, which is parsed again whenever it has changed.

    ``check`` gets the file's status before it is read, and raises where the file must not be used.
    """

    def __init__(
        self, path: Path, parse: Callable[[str], T], check: Callable[[os.stat_result], None]
    ) -> None:
        self._path, self._parse, self._check = path, parse, check
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int, int] | None = None
        self._content: T | None = None

    def read(self) -> T:
        """Return the content as it is now.

        Raises OSError, UnicodeDecodeError, and what ``parse`` and ``check`` raise; at each call until the
        file is mended.
        """
        with self._lock:
            about = self._path.stat()
            seen = (about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino)
            if self._content is None or seen != self._seen:
                self._content = None
                self._check(about)
                self._content = self._parse(self._path.read_text(encoding="utf-8"))
                self._seen = seen
            return self._content


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the file whole or not at all, readable for its owner alone from the first moment on.

    Raises OSError.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    fresh.replace(path)
