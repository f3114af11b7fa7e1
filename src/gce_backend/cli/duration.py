"""Lengths of time as an option's value."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+[smhd])+|\d+(?:\.\d+)?")


class Duration(click.ParamType[float]):
    """A length of time in seconds: `90`, `45s`, `15m`, `1h30m`, `2d`.

    Args:
        least: seconds below which none is accepted.
    """

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds, from text."""
        if isinstance(value, float):
            return value
        text = str(value)
        if not _DURATION.fullmatch(text):
            self.fail(f"{text!r} is not a duration; write e.g. 90s, 15m, 1h30m, 2d", param, ctx)
        parts = re.findall(r"(\d+)([smhd])", text)
        seconds = float(sum(int(n) * _UNITS[unit] for n, unit in parts)) if parts else float(text)
        if seconds < self._least:
            self.fail(f"{text!r} is too short: {self._least:g}s at least", param, ctx)
        return seconds
