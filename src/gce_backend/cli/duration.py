"""Durations as values of options."""

from __future__ import annotations

from typing import Any

import click

from gce_backend.base.dates import length_of_time


class Duration(click.ParamType[float]):
    """A duration in seconds: `90`, `45s`, `15m`, `1h30m`, `2d`.

    Args:
        least: the shortest duration that is accepted, in seconds.
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
        seconds = length_of_time(text)
        if seconds is None:
            self.fail(f"{text!r} is not a duration; write e.g. 90s, 15m, 1h30m, 2d", param, ctx)
        if seconds < self._least:
            self.fail(f"{text!r} is too short: {self._least:g}s at least", param, ctx)
        return seconds
