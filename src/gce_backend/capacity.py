"""How many VMs stand beside a group's: what keeps old and new revision within one maximum."""

from __future__ import annotations

from gce_backend.context import Context
from gce_backend.models import InstanceGroupManager, Key


def beside(context: Context, manager: Key, entity: InstanceGroupManager) -> int | None:
    """VMs of the other revisions' groups of the same template and zone.

    Args:
        context: the job's context.
        manager: the group that wants to grow.
        entity: its entity.

    Returns:
        None when it matters and is not known: one of those groups has not been seen yet.
    """
    if not entity.maximum_size:
        return 0
    total = 0
    for key, sibling in context.fleet.siblings(manager):
        group = context.world.groups.get(key)
        if group is not None:
            total += group.target_size
        elif sibling.url is not None or sibling.in_flight is not None:
            return None
    return total
