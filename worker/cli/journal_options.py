"""Options of the journal: whether to declare it, and its limits as people write them."""

import re
from functools import wraps
from typing import Any

import click

from worker.broker import JournalLimits
from worker.cli.options import Command

_DEFAULT = JournalLimits()
_AGE = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SIZE = re.compile(r"(\d{1,6})(MB|GB|TB)")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_LEAST_SEGMENTS = 2


class _Age(click.ParamType[int, str]):
    name = "age"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds."""
        if isinstance(value, int):
            return value
        match = _AGE.fullmatch(value.strip())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} must be like 7d, 36h, 90m or 30s", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


class _Size(click.ParamType[int, str]):
    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} must be like 500MB, 20GB or 1TB", param, ctx)
        return int(match[1]) * _BYTES[match[2]]


_OPTIONS = (
    click.option("--journal", "has_journal", is_flag=True, help="Declare the journal of commands as well."),
    click.option(
        "--journal-age",
        "max_age_s",
        type=_Age(),
        default=_DEFAULT.max_age_s,
        show_default="7d",
        help="Keep commands for so long; a restore can't go back further.",
    ),
    click.option(
        "--journal-size",
        "max_bytes",
        type=_Size(),
        default=_DEFAULT.max_bytes,
        show_default="20GB",
        help="Keep no more than this; a command takes its size and about 200 bytes.",
    ),
    click.option(
        "--journal-segment",
        "segment_bytes",
        type=_Size(),
        default=_DEFAULT.segment_bytes,
        show_default="100MB",
        help="Size of the files that the broker drops whole, once all in one is beyond a limit.",
    ),
)


def with_journal(command: Command) -> Command:
    """Give a command the options of the journal, and ``journal``: its limits, None without --journal."""

    @wraps(command)
    def run(
        *arguments: Any, has_journal: bool, max_age_s: int, max_bytes: int, segment_bytes: int, **others: Any
    ) -> Any:
        limits = JournalLimits(max_age_s, max_bytes, segment_bytes)
        if not has_journal and limits != _DEFAULT:
            raise click.UsageError("limits of the journal need --journal")
        if max_bytes < _LEAST_SEGMENTS * segment_bytes:
            raise click.UsageError(
                "--journal-size must hold two segments at least: the broker drops whole ones; "
                "name a smaller --journal-segment"
            )
        return command(*arguments, journal=limits if has_journal else None, **others)

    wrapped: Command = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
