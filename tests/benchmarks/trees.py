"""Cost of process trees, from ``/proc``: processor time and memory, ended children included."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Of what follows the name in /proc/PID/stat, see proc(5).
_PARENT = 1
_TIMES = slice(11, 15)
_RESIDENT = 21


def processor_seconds(roots: Iterable[int]) -> float:
    """Return the processor time, user and system, of the trees below ``roots`` so far."""
    return sum(sum(map(int, fields[_TIMES])) for fields in _trees(roots).values()) * _TICK_S


def resident_bytes(roots: Iterable[int]) -> int:
    """Return the resident memory of the trees below ``roots``; shared pages count in each."""
    return sum(int(fields[_RESIDENT]) for fields in _trees(roots).values()) * _PAGE_BYTES


def resident_bytes_of(process_id: int) -> int:
    """Return the resident memory of one process; 0 where it has ended."""
    fields = dict(_processes()).get(process_id)
    return 0 if fields is None else int(fields[_RESIDENT]) * _PAGE_BYTES


def members(roots: Iterable[int]) -> list[int]:
    """Return the living processes of the trees below ``roots``, with ``roots``."""
    return list(_trees(roots))


def _trees(roots: Iterable[int]) -> dict[int, list[str]]:
    processes = dict(_processes())
    children: dict[int, list[int]] = {}
    for process_id, fields in processes.items():
        children.setdefault(int(fields[_PARENT]), []).append(process_id)
    found: dict[int, list[str]] = {}
    waiting = [root for root in roots if root in processes]
    while waiting:
        process_id = waiting.pop()
        found[process_id] = processes[process_id]
        waiting += children.get(process_id, [])
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since the folder was read
            yield int(status.parent.name), status.read_text().rpartition(")")[2].split()
