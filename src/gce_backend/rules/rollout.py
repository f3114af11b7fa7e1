"""Made before broken: which old machines may leave the catalog now. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.rules.facets import is_offered
from gce_backend.rules.permits import lease_runs
from gce_backend.rules.surplus import waits_to_leave


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
    beside: int = 0,
    *,
    max_surge: int | None,
    paused: bool,
) -> RolloutLimit | None:
    """The most machines that the group of a new revision may have now; None when that is open.

    Args:
        canaries: what is allowed until the revision has proved itself; None when it has.
        needed: machines that old and new revision need together, in the zone or the pool.
        staying: VMs of the old revisions there.
        beside: VMs of the new revision in the pool's other groups.
        max_surge: machines beyond what is needed; None is no limit.
        paused: whether the roll-out is paused: the group only makes up for what is lacking.
    """
    taken = staying + beside
    limits = []
    if canaries is not None:
        limits.append(RolloutLimit(canaries, PROVING))
    if staying and paused:
        limits.append(RolloutLimit(max(0, needed - taken), PAUSED))
    elif staying and max_surge is not None:
        limits.append(RolloutLimit(max(0, needed + max_surge - taken), SURGE))
    return min(limits, default=None)


class PlaceRollout(msgspec.Struct, frozen=True, kw_only=True):
    """A template's machines in one zone, or those of a pool, over all revisions.

    Attributes:
        minimum_size: of the manager that the configuration names; 0 when it names none.
        maximum_size: machines that old and new revision may have together; 0 is no limit.
        active_target: VMs that the active revision's groups have or are creating.
        coming: those of them that cannot be leased yet.
        staying: machines of the other revisions that have not begun to leave.
        available: machines that can be leased, old and new.
        leased: machines that somebody holds, old and new, and new ones that stay apart.
        old: machines of the other revisions in the catalog that nobody is known to hold.
        canaries: machines that the active groups may have until their revision has proved itself,
            with those that stay apart; None when it has.
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


def removable(place: PlaceRollout, *, max_unavailable: int, exchange_share: float) -> int:
    """How many old machines that nobody holds may leave the catalog now.

    The number of available machines must not drop below that of a fleet of the minimum size, minus
    what the settings allow. Only if the maximum leaves the new revision no room, and none of its
    machines is coming, a few old ones leave first to make room. A new revision that has not proved
    itself replaces none, and gets room for its canaries alone.

    Args:
        place: the machines.
        max_unavailable: machines by which the number to lease from may drop.
        exchange_share: share of the minimum that is exchanged at a time, at least one machine.
    """
    if place.paused:
        return 0
    full = place.active_target + place.staying >= place.maximum_size > 0
    if place.canaries is not None:
        room = place.canaries - place.active_target if full and not place.coming else 0
        return min(place.old, max(0, room))
    if place.minimum_size == 0:
        return place.old
    spare = place.available - max(0, place.minimum_size - place.leased - max_unavailable)
    if spare <= 0 and full and place.active_target < place.minimum_size and not place.coming:
        slack = max(1, math.floor(place.minimum_size * exchange_share))
        spare = place.available - max(0, place.minimum_size - place.leased - slack)
    return min(place.old, max(0, spare))


def stays_apart(instance: Instance, now: UnixSeconds) -> bool:
    """Whether a machine is kept though it cannot be leased: it proves nothing of its revision.

    Somebody holds it and the catalog denies it, an operator has cordoned it, or it waits to leave.
    """
    if instance.is_tombstone or is_offered(instance):
        return False
    if instance.catalog is CatalogState.CATALOGED and waits_to_leave(instance):
        return True
    return lease_runs(instance, now) or instance.cordon is not None


def drainable(usable: int, minimum_size: int, max_unavailable: int) -> int:
    """How many machines that an operator drains may leave the catalog now.

    Args:
        usable: machines that are leased or can be, with those that wait to leave.
        minimum_size: of the manager that the configuration names; 0 when it names none.
        max_unavailable: machines that may be lacking.
    """
    return max(0, usable - max(0, minimum_size - max_unavailable))


def share_out(count: int, *candidates: Sequence[str]) -> tuple[str, ...]:
    """The `count` machines that leave first.

    Args:
        candidates: those that may leave; of several sequences the first one's go first.
    """
    return tuple(name for names in candidates for name in names)[:count]


def in_turn(names: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """In which order old machines leave a place: so that its zones come to have equally many.

    The order is always the same one, so that repeats collide.

    Args:
        names: the machines by zone.
        sizes: machines that each of the zones has.
    """
    left = {zone: sorted(some, reverse=True) for zone, some in names.items() if some}
    zones = [(-sizes.get(zone, 0), zone) for zone in left]
    heapq.heapify(zones)
    order = []
    while zones:
        size, zone = zones[0]
        order.append(left[zone].pop())
        if left[zone]:
            heapq.heapreplace(zones, (size + 1, zone))
        else:
            heapq.heappop(zones)
    return tuple(order)
