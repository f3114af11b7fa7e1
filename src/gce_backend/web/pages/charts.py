"""The small charts: stacked areas of the machines in the last hours, as SVG paths. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds
from gce_backend.web.survey.samples import Level

POINTS = 72
"""Most points of a chart: more would not be visible."""


class Chart(NamedTuple):
    """A chart, drawn in a box of its own units.

    Attributes:
        width: of the box.
        height: of the box.
        areas: (tone, path) of each layer, the lowest layer first.
        peak: the largest number of machines in it.
        last: the newest level.
        first_at: when it begins, Unix seconds; None when nothing has been counted yet.
    """

    width: int
    height: int
    areas: tuple[tuple[str, str], ...]
    peak: int
    last: Level
    first_at: UnixSeconds | None


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
        return Chart(width, height, (), 0, Level(0, 0, 0), None)
    peak = max(sum(level) for level in levels)
    start, end = points[0][0], points[-1][0]
    across = [width * (at - start) / (end - start) if end > start else 0.0 for at, _ in points]
    if len(points) == 1:
        across, points = [0.0, float(width)], points * 2
    areas = []
    below = [0] * len(points)
    for layer, tone in enumerate(("leased", "available", "rising")):
        above = [under + level[layer] for under, (_, level) in zip(below, points, strict=True)]
        if above != below:
            areas.append((tone, _path(across, below, above, peak, height)))
        below = above
    return Chart(width, height, tuple(areas), peak, levels[-1], start)


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
