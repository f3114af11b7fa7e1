"""Numbers of machines at one time, as charts show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from gce_backend.rules.states import State

Row: TypeAlias = tuple[str, str]
"""Template and zone."""


class Level(NamedTuple):
    """The numbers of machines at one time: leased, available, and all others."""

    leased: int
    available: int
    other: int


NONE = Level(0, 0, 0)


def levels_of(counts: Mapping[Row, Mapping[State, int]]) -> dict[Row, Level]:
    """The levels of rows.

    Args:
        counts: machines by template and zone, and state.
    """
    found = {}
    for row, states in counts.items():
        leased, available = states.get(State.LEASED, 0), states.get(State.CATALOGED, 0)
        found[row] = Level(leased, available, sum(states.values()) - leased - available)
    return found


def total(levels: Iterable[Level]) -> Level:
    """The sum."""
    return Level(*map(sum, zip(NONE, *levels, strict=True)))
