"""How large a group is to be: its minimum, within the room that other revisions leave. Pure."""

from __future__ import annotations

import random
import string
from collections.abc import Collection, Iterable

from gce_backend.model.entities import (
    InstanceGroupManager,
)
from gce_backend.model.observed import Member

SUFFIX_LETTERS = string.ascii_lowercase + string.digits
SUFFIX_LENGTH = 4
"""Characters that a member's name has beyond its group's base instance name and a dash."""


def beside(
    manager: InstanceGroupManager, siblings: Iterable[tuple[InstanceGroupManager, int | None]]
) -> int | None:
    """VMs of the other revisions' groups in a group's zone.

    Args:
        manager: the group that wants to grow.
        siblings: those groups, each with its target size; None where it was not seen.

    Returns:
        None when it matters and is not known: one of those groups has not been seen yet.
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
        maximum_size: of the manager; 0 is no limit.
        others: VMs that the other revisions' groups have or are creating there.

    Returns:
        None when there is no limit.
    """
    return max(0, maximum_size - others) if maximum_size else None


def wanted_size(manager: InstanceGroupManager, others: int) -> int:
    """The size that a group is to have at least now: its minimum, as far as there is room."""
    limit = room(manager.maximum_size, others)
    return manager.minimum_size if limit is None else min(manager.minimum_size, limit)


def raised_size(manager: InstanceGroupManager, target_size: int, others: int) -> int | None:
    """The size to which a group is to be raised; None when it is large enough.

    It never lowers: Compute would pick arbitrary victims.

    Args:
        manager: an active manager.
        target_size: the group's present target size.
        others: VMs of the other revisions' groups in that zone.
    """
    size = wanted_size(manager, others)
    return size if size > target_size else None


def replaced(manager: InstanceGroupManager, target_size: int, leaving: int, others: int) -> int:
    """Of the members that leave a group, how many others take their place.

    Args:
        manager: an active manager.
        target_size: the group's present target size.
        leaving: members that are deleted.
        others: VMs of the other revisions' groups in that zone.
    """
    lacking = wanted_size(manager, others) - (target_size - leaving)
    return min(leaving, max(0, lacking))


def given_up(
    members: Iterable[Member], target_size: int, wanted: int, deleting: Collection[str]
) -> frozenset[str]:
    """The members that a group cannot make, and that are no longer wanted.

    They would be made as soon as there is quota, or room in the zone. None of them has ever been a
    VM. Those that exist are never chosen: a group is not made smaller.

    Args:
        members: of a complete list.
        target_size: the group's.
        wanted: the size that it is to have at least.
        deleting: names of members whose deletion has begun: they are chosen first.
    """
    excess = target_size - wanted
    if excess <= 0:
        return frozenset()
    failing = [
        member.name
        for member in members
        if member.gce_id is None and member.error_code and member.action.startswith("CREATING")
    ]
    failing.sort(key=lambda name: (name not in deleting, name))
    return frozenset(failing[:excess])


def new_member_names(
    base_instance_name: str, count: int, taken: Collection[str], rng: random.Random
) -> tuple[str, ...]:
    """Names for new members of a group, made as Compute makes them.

    Args:
        base_instance_name: what they begin with.
        taken: names that are not to be used: of members, and of machines that are gone.
        rng: chooses.
    """
    names: dict[str, None] = {}
    while len(names) < count:
        name = f"{base_instance_name}-{''.join(rng.choices(SUFFIX_LETTERS, k=SUFFIX_LENGTH))}"
        if name not in taken:
            names[name] = None
    return tuple(names)
