"""The charts: stacked areas of the machines in the last hours or days, as SVG paths. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds, date
from gce_backend.web.survey.levels import NONE, Level

POINTS = 72
"""Most points of a chart: more would not be visible."""


_HOUR = 3600
_STEPS = (60, 300, 600, 1800, _HOUR, 2 * _HOUR, 4 * _HOUR, 12 * _HOUR, 24 * _HOUR)
"""Seconds between the marks of an axis."""
_MARKS = 7
"""Most marks of an axis."""
_EDGE = 0.03
"""The share of an axis at its ends that has no marks: their words would be cut off."""


class Chart(NamedTuple):
    """A chart, drawn in a box of its own units.

    Attributes:
        width: of the box.
        height: of the box.
        areas: (tone, path) of each layer, the lowest layer first.
        peak: the largest number of machines in it.
        last: the newest level.
        first_at: when it begins, Unix seconds; None when nothing has been counted yet.
        points: the samples that it draws: when, leased, available, others.
        marks: the axis: where, as percent of the width, and which time.
    """

    width: int
    height: int
    areas: tuple[tuple[str, str], ...]
    peak: int
    last: Level
    first_at: UnixSeconds | None
    points: tuple[tuple[int, int, int, int], ...] = ()
    marks: tuple[tuple[str, str], ...] = ()


def chart(times: Sequence[float], levels: Sequence[Level], *, width: int, height: int) -> Chart:
    """Draws a chart.

    Args:
        times: of the samples, Unix seconds, oldest first.
        levels: a level for each of them.
        width: of the box.
        height: of the box.
    """
    points = list(_thinned(times, levels))
    if not points:
        return Chart(width, height, (), 0, NONE, None)
    peak = max(sum(level) for level in levels)
    start, end = points[0][0], points[-1][0]
    across = [width * (at - start) / (end - start) if end > start else 0.0 for at, _ in points]
    told = tuple((round(at), *level) for at, level in points)
    if len(points) == 1:
        across, points = [0.0, float(width)], points * 2
    areas = []
    below = [0] * len(points)
    for layer, tone in enumerate(("leased", "available", "rising")):
        above = [under + level[layer] for under, (_, level) in zip(below, points, strict=True)]
        if above != below:
            areas.append((tone, _path(across, below, above, peak, height)))
        below = above
    marks = tuple(_marks(start, end))
    return Chart(width, height, tuple(areas), peak, levels[-1], start, told, marks)


def _marks(start: UnixSeconds, end: UnixSeconds) -> Iterator[tuple[str, str]]:
    """Round times between two others, in UTC."""
    long = end - start
    step = next((step for step in _STEPS if long <= step * _MARKS), _STEPS[-1])
    for number in range(int(start // step) + 1, int(end // step) + 1):
        share = (number * step - start) / long
        if _EDGE <= share <= 1 - _EDGE:
            moment = date(number * step)
            is_day = step > 4 * _HOUR and moment.hour == 0
            yield f"{100 * share:.1f}", moment.strftime("%-d %b" if is_day else "%H:%M")


def _thinned(times: Sequence[float], levels: Sequence[Level]) -> Iterator[tuple[float, Level]]:
    """At most `POINTS` samples: the highest of each stretch, and the newest."""
    every = -(-len(times) // POINTS) or 1
    for last in range((len(times) - 1) % every, len(times), every):
        newest = last == len(times) - 1
        stretch = levels[last : last + 1] if newest else levels[max(0, last - every + 1) : last + 1]
        yield times[last], max(stretch, key=sum)


def _path(
    across: Sequence[float], below: Sequence[int], above: Sequence[int], peak: int, height: int
) -> str:
    def point(x: float, machines: int) -> str:
        return f"{x:.1f},{height - (height * machines / peak):.1f}"

    top = [point(x, machines) for x, machines in zip(across, above, strict=True)]
    base = [point(x, machines) for x, machines in zip(across, below, strict=True)]
    return f"M{' L'.join([*top, *reversed(base)])}Z"
