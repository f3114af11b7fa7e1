"""The size of a group: from its limits, its leases and its waiting requests. Pure.

A manager without a maximum keeps its minimum: its group cannot grow without limit. With a maximum,
the group follows demand, within the room that other revisions leave.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from gce_backend.model.entities import (
    InstanceGroupManager,
    Pool,
)
from gce_backend.model.observed import Member

SUFFIX_LETTERS = string.ascii_lowercase + string.digits
SUFFIX_LENGTH = 4
"""Characters in a member's name after its group's base instance name and a dash."""
GROWTH_STEP = 100
"""Machines above its minimum by which a group grows at a time."""


class Use(NamedTuple):
    """What is asked of a group.

    Attributes:
        leased: machines of it that somebody holds.
        waiting: requests that its machines are to serve and no lease serves yet.
        share: the size that it should have as a part of a pool; None when it is in none.
        ageing: machines of it that stay only until others have come in their place; 0 in a pool,
            whose size includes them.
    """

    leased: int = 0
    waiting: int = 0
    share: int | None = None
    ageing: int = 0


UNUSED = Use()


def beside(
    manager: InstanceGroupManager, siblings: Iterable[tuple[InstanceGroupManager, int | None]]
) -> int | None:
    """VMs of the other revisions' groups in a group's zone.

    Args:
        manager: the group that wants to grow.
        siblings: these groups, each with its target size; None for a group not seen yet.

    Returns:
        None when the number matters and one of these groups has not been seen yet.
    """
    if not manager.maximum_size:
        return 0
    total = 0
    for sibling, size in siblings:
        if size is not None:
            total += size
        elif sibling.url is not None or sibling.in_flight is not None:
            return None
    return total


def room(maximum_size: int, others: int) -> int | None:
    """Machines that a group may have beside the other revisions' groups in its zone.

    Args:
        maximum_size: the manager's maximum; 0 is no limit.
        others: VMs that the other revisions' groups have or are creating there.

    Returns:
        None when there is no limit.
    """
    return max(0, maximum_size - others) if maximum_size else None


def needed_size(limits: InstanceGroupManager | Pool, use: Use) -> int:
    """The size that a group or a pool should have if no other revision takes room.

    It lies between minimum and maximum. Without a spare_size, a tenth of the leased machines is
    kept free, rounded up.
    """
    if use.share is not None:
        return use.share
    if not limits.maximum_size:
        return limits.minimum_size
    if limits.spare_size is None:
        demand = max(use.leased + use.waiting, -(-use.leased * 11 // 10))
    else:
        demand = use.leased + use.waiting + limits.spare_size
    return min(max(limits.minimum_size, demand), limits.maximum_size)


def pool_size(pool: Pool, use: Use, others: int) -> int:
    """The size that a pool should have now, over all its zones.

    It includes those that replace machines of age, while these are there.

    Args:
        pool: its limits.
        use: what is asked of all its groups.
        others: VMs in its zones that count for its maximum and are not to stay: of other
            revisions, or on their way out.
    """
    needed, limit = needed_size(pool, use) + use.ageing, room(pool.maximum_size, others)
    return needed if limit is None else min(needed, limit)


def wanted_size(manager: InstanceGroupManager, others: int, use: Use) -> int:
    """The size that a group should have now: what it needs, as far as there is room.

    It includes those that replace machines of age, while these are there.
    """
    needed = needed_size(manager, use) + use.ageing
    limit = room(manager.maximum_size, others)
    return needed if limit is None else min(needed, limit)


def growth(manager: InstanceGroupManager, target_size: int, others: int, use: Use) -> int:
    """By how many machines a group grows now: to its minimum, and above it step by step.

    It never shrinks a group, because Compute would delete arbitrary members.

    Args:
        manager: an active manager.
        target_size: the group's present target size.
        others: VMs of the other revisions' groups in that zone.
        use: what is asked of the group.
    """
    wanted = wanted_size(manager, others, use)
    return max(0, min(wanted, max(manager.minimum_size, target_size + GROWTH_STEP)) - target_size)


def replaced(
    manager: InstanceGroupManager, target_size: int, leaving: int, others: int, use: Use
) -> int:
    """How many new members replace those that leave a group.

    Args:
        manager: an active manager.
        target_size: the group's present target size.
        leaving: the number of members that are deleted.
        others: VMs of the other revisions' groups in that zone.
        use: what is asked of the group.
    """
    lacking = wanted_size(manager, others, use) - (target_size - leaving)
    return min(leaving, max(0, lacking))


def given_up(
    members: Iterable[Member], target_size: int, wanted: int, deleting: Collection[str]
) -> frozenset[str]:
    """The members that a group cannot create and no longer needs.

    Compute would create them as soon as there is quota, or capacity in the zone. None of them has
    ever been a VM. Existing VMs are not chosen here: `surplus` says which of them leave.

    Args:
        members: the members in a complete list.
        target_size: the group's target size.
        wanted: the smallest size that it should have.
        deleting: names of members whose deletion has begun: they are chosen first.
    """
    excess = target_size - wanted
    if excess <= 0:
        return frozenset()
    failing = [member.name for member in members if member.cannot_be_made]
    failing.sort(key=lambda name: (name not in deleting, name))
    return frozenset(failing[:excess])


def new_member_names(
    base_instance_name: str, count: int, is_taken: Callable[[str], bool], rng: random.Random
) -> tuple[str, ...]:
    """Names for new members of a group, in Compute's form.

    Args:
        base_instance_name: their prefix.
        is_taken: whether a name is to be avoided: of a member, or of a machine that is gone.
        rng: chooses the names.
    """
    names: dict[str, None] = {}
    while len(names) < count:
        name = f"{base_instance_name}-{''.join(rng.choices(SUFFIX_LETTERS, k=SUFFIX_LENGTH))}"
        if not is_taken(name):
            names[name] = None
    return tuple(names)
