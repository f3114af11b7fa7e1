"""How many VMs stand beside a group's: what keeps old and new revision within one maximum."""

from __future__ import annotations

from gce_backend import lifecycle
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
    groups = context.world.groups
    return lifecycle.beside(
        entity,
        (
            (sibling, groups[key].target_size if key in groups else None)
            for key, sibling in context.fleet.siblings(manager)
        ),
    )
