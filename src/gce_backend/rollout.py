"""Made before broken: which old machines may leave the catalog now. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Zone(msgspec.Struct, frozen=True):
    """A template's machines in one zone, over all of its revisions.

    Attributes:
        minimum_size: of the active manager; 0 when the configuration names none.
        maximum_size: of the active manager; 0 is no limit.
        active_target: VMs that the active revision's group has or is creating.
        drained_target: VMs that the other groups have.
        available: machines in the catalog that nobody holds, old and new.
        leased: machines in the catalog that somebody holds, old and new.
    """

    minimum_size: int
    maximum_size: int
    active_target: int
    drained_target: int
    available: int
    leased: int


def removable(zone: Zone, *, max_unavailable: int, exchange_share: float) -> int:
    """How many old machines that nobody holds may leave the catalog now.

    The number to lease from is not to drop below what a fleet of the minimum size would have, less
    what the settings allow. Where the maximum leaves the new revision no room, a few leave so that
    as many may come.

    Args:
        zone: the machines.
        max_unavailable: machines by which the number to lease from may drop.
        exchange_share: share of the minimum that is exchanged at a time, at least one machine.
    """
    if zone.minimum_size == 0:
        return zone.available
    slack = max_unavailable
    full = zone.active_target + zone.drained_target >= zone.maximum_size > 0
    if full and zone.active_target < zone.minimum_size:
        slack = max(slack, 1, math.floor(zone.minimum_size * exchange_share))
    needed = max(0, zone.minimum_size - zone.leased - slack)
    return max(0, zone.available - needed)


def share_out(count: int, candidates: Sequence[str]) -> tuple[str, ...]:
    """The `count` machines that leave first: always the same ones, so that repeats collide."""
    return tuple(sorted(candidates)[:count])
