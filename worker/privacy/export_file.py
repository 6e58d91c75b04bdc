"""Files with rows of the database: new ones, for their owner alone, proven after they are written."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from worker.errors import ConfigurationError, NotPossibleError


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """File as it was written: its lines, its bytes, and their SHA-256."""

    path: Path
    lines: int
    size: int
    digest: str


def write_new(path: Path, pieces: Iterable[str]) -> WrittenFile:
    """Write a new file with mode 600, and wait until it is on disk. Raises ConfigurationError."""
    lines, size, digest = 0, 0, sha256()
    with _refusals(path, "written"), open(_new(path), "wb") as file:
        for piece in pieces:
            content = piece.encode()
            file.write(content)
            digest.update(content)
            lines += content.count(b"\n")
            size += len(content)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path, lines, size, digest.hexdigest())


def proven_lines(written: WrittenFile) -> Iterator[str]:
    """Yield the lines of a file, read again.

    Raises NotPossibleError, at its end, where it isn't what was written.
    """
    lines, digest = 0, sha256()
    with _refusals(written.path, "read"), written.path.open("rb") as file:
        for line in file:
            lines += 1
            digest.update(line)
            yield line.decode()
    if (lines, digest.hexdigest()) != (written.lines, written.digest):
        raise NotPossibleError(
            f"{written.path} doesn't hold what was written to it: nothing is purged; see what happened to it"
        )


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


@contextmanager
def _refusals(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already: name a new file") from None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be {done}: {error.strerror}") from error
