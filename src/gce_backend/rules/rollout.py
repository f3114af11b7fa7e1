"""Made before broken: which old machines may leave the catalog now. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class RolloutLimit(NamedTuple):
    """The most machines that the group of a new revision may have now.

    Attributes:
        size: so many.
        reason: why, for people.
    """

    size: int
    reason: str


PROVING = "The first machines of the new revision must be leasable before it gets more."
SURGE = "An old machine must be gone first (max_surge)."
PAUSED = "Its roll-out is paused: it replaces no old machine."


def rollout_limit(
    canaries: int | None,
    needed: int,
    staying: int,
    *,
    max_surge: int | None,
    paused: bool,
) -> RolloutLimit | None:
    """The most machines that the group of a new revision may have now; None when that is open.

    Args:
        canaries: what is allowed until the revision has proved itself; None when it has.
        needed: machines that old and new revision need together in the zone.
        staying: VMs of the old revisions there.
        max_surge: machines beyond what is needed; None is no limit.
        paused: whether the roll-out is paused: the group only makes up for what is lacking.
    """
    limits = []
    if canaries is not None:
        limits.append(RolloutLimit(canaries, PROVING))
    if staying and paused:
        limits.append(RolloutLimit(max(0, needed - staying), PAUSED))
    elif staying and max_surge is not None:
        limits.append(RolloutLimit(max(0, needed + max_surge - staying), SURGE))
    return min(limits, default=None)


class ZoneRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A template's machines in one zone, over all of its revisions.

    Attributes:
        minimum_size: of the manager that the configuration names; 0 when it names none.
        maximum_size: machines that old and new revision may have together; 0 is no limit.
        active_target: VMs that the active revision's group has or is creating.
        coming: those of them that cannot be leased yet.
        staying: machines of the other revisions that have not begun to leave.
        available: machines that can be leased, old and new.
        leased: machines that somebody holds, old and new.
        old: machines of the other revisions in the catalog that nobody is known to hold.
        canaries: machines that the active group may have until its revision has proved itself; None
            when it has.
        paused: whether an operator has paused the roll-out.
    """

    minimum_size: int
    maximum_size: int
    active_target: int
    coming: int
    staying: int
    available: int
    leased: int
    old: int
    canaries: int | None = None
    paused: bool = False


def removable(zone: ZoneRollout, *, max_unavailable: int, exchange_share: float) -> int:
    """How many old machines that nobody holds may leave the catalog now.

    The number of available machines must not drop below that of a fleet of the minimum size, minus
    what the settings allow. Only if the maximum leaves the new revision no room, and none of its
    machines is coming, a few old ones leave first to make room. A new revision that has not proved
    itself replaces none, and gets room for its canaries alone.

    Args:
        zone: the machines.
        max_unavailable: machines by which the number to lease from may drop.
        exchange_share: share of the minimum that is exchanged at a time, at least one machine.
    """
    if zone.paused:
        return 0
    full = zone.active_target + zone.staying >= zone.maximum_size > 0
    if zone.canaries is not None:
        room = zone.canaries - zone.active_target if full and not zone.coming else 0
        return min(zone.old, max(0, room))
    if zone.minimum_size == 0:
        return zone.old
    spare = zone.available - max(0, zone.minimum_size - zone.leased - max_unavailable)
    if spare <= 0 and full and zone.active_target < zone.minimum_size and not zone.coming:
        slack = max(1, math.floor(zone.minimum_size * exchange_share))
        spare = zone.available - max(0, zone.minimum_size - zone.leased - slack)
    return min(zone.old, max(0, spare))


def drainable(usable: int, minimum_size: int, max_unavailable: int) -> int:
    """How many machines that an operator drains may leave the catalog now.

    Args:
        usable: machines that are leased or can be, with those that wait to leave.
        minimum_size: of the manager that the configuration names; 0 when it names none.
        max_unavailable: machines that may be lacking.
    """
    return max(0, usable - max(0, minimum_size - max_unavailable))


def share_out(count: int, *candidates: Sequence[str]) -> tuple[str, ...]:
    """The `count` machines that leave first: always the same ones, so that repeats collide.

    Args:
        candidates: those that may leave; of several sequences the first one's go first.
    """
    return tuple(name for names in candidates for name in sorted(names))[:count]
