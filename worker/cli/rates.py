"""Rates as people write them: 50/s, 600/min, 0.5."""

import re

import click

_FORM = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|m|h))?")
_SECONDS = {None: 1, "s": 1, "min": 60, "m": 60, "h": 3600}


class _Rate(click.ParamType[float, str]):
    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _FORM.fullmatch(value.strip())
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} must be like 50/s, 600/min or 0.5", param, ctx)
        return float(match[1]) / _SECONDS[match[2]]


#: Type of an option: a number a second.
RATE = _Rate()
