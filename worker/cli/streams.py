"""Standard streams of a process: missing, full, or without a reader."""

import errno
import io
import os
import sys
from pathlib import Path

_IS_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


def prepare_streams() -> None:
    """Open streams that are missing, and let all of them show any text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # In this order each takes its own number, and no file or socket of ours can.
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as long as the process
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode still shows all text


def is_of_output(error: OSError) -> bool:
    """Return True where a stream took no more; errors of files name the file."""
    return error.filename is None and error.errno in _IS_FULL


def drop_unwritten() -> None:
    """Drop what a stream can't take any more; Python would try again at its end, and fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
