"""How a pool's machines are spread over zones and machine types, and which cannot be made. Pure.

Machines stay where they are. New ones go to the zone with the fewest, so that a pool is even again
as its machines are replaced. A zone that cannot make machines keeps those that it has, and its part
goes to the others at once. After a pause it may try one machine; when that comes, any number again.

An alternative machine type gets a machine only while no zone can make one of a type that is
preferred to it. Machines of it stay until they are replaced, or are too many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

FIRST_PAUSE = 60.0
LONGEST_PAUSE = 600.0
"""Seconds until a zone that could not make machines tries one: at first, and at most."""


class ZoneState(NamedTuple):
    """A pool's group in a zone.

    Attributes:
        size: its machines, without those on their way out and those that cannot be made.
        leased: those of them that somebody holds.
        growth: machines by which it may grow now; None is any number.
        rank: how much its machine type is preferred; 0 is the most.
    """

    size: int
    leased: int
    growth: int | None = None
    rank: int = 0


class ZoneTrouble(msgspec.Struct, frozen=True):
    """That a zone cannot make machines.

    Attributes:
        until: when it may try one, monotonic seconds.
        pause: seconds of this pause.
        made: VMs that its group had; with more of them, the trouble is over.
    """

    until: float
    pause: float
    made: int


def split(total: int, zones: Iterable[str]) -> dict[str, int]:
    """A pool's number in even parts; the first zones have one more where it does not come out."""
    names = tuple(zones)
    base, more = divmod(total, len(names))
    return {name: base + (place < more) for place, name in enumerate(names)}


def spread(total: int, zones: Mapping[str, ZoneState]) -> dict[str, int]:
    """The size that each zone's group should have.

    Args:
        total: machines of the pool.
        zones: the groups, by a name that orders equals. One keeps its leased machines.

    Returns:
        Their sizes. All together they are `total`, unless the zones cannot grow so far or more
        machines than that are leased.
    """
    sizes = {name: zone.size for name, zone in zones.items()}
    left = total - sum(sizes.values())
    while left > 0:
        able = [
            name
            for name, zone in zones.items()
            if zone.growth is None or sizes[name] < zone.size + zone.growth
        ]
        if not able:
            break
        sizes[min(able, key=lambda name: (zones[name].rank, sizes[name], name))] += 1
        left -= 1
    while left < 0:
        idle = [name for name, zone in zones.items() if sizes[name] > zone.leased]
        if not idle:
            break
        sizes[max(idle, key=lambda name: (zones[name].rank, sizes[name], name))] -= 1
        left += 1
    return sizes


def growth_of(trouble: ZoneTrouble | None, moment: float) -> int | None:
    """Machines by which a zone's group may grow now; None is any number.

    Args:
        moment: the present time in monotonic seconds.
    """
    if trouble is None:
        return None
    return 1 if moment >= trouble.until else 0


def troubled(
    trouble: ZoneTrouble | None, moment: float, *, failing: bool, made: int
) -> ZoneTrouble | None:
    """What is known of a zone after a look at its group; None when it can make machines.

    Args:
        trouble: what was known before.
        moment: the present time in monotonic seconds.
        failing: whether members of the group cannot be created.
        made: members that have a VM.
    """
    if failing:
        if trouble is None:
            return ZoneTrouble(moment + FIRST_PAUSE, FIRST_PAUSE, made)
        if moment < trouble.until:
            return trouble
        pause = min(2 * trouble.pause, LONGEST_PAUSE)
        return ZoneTrouble(moment + pause, pause, made)
    if trouble is None or made > trouble.made:
        return None
    return msgspec.structs.replace(trouble, made=made)
