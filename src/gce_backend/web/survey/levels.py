"""Numbers of machines at one time, as charts show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Row: TypeAlias = tuple[str, str]
"""Template and zone."""


class Level(NamedTuple):
    """The numbers of machines at one time: leased, available, and all others."""

    leased: int
    available: int
    other: int


NONE = Level(0, 0, 0)


def total(levels: Iterable[Level]) -> Level:
    """The sum."""
    return Level(*map(sum, zip(NONE, *levels, strict=True)))
