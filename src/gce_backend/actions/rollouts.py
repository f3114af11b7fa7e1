"""How far a new revision's group may grow while an older revision has machines in its zone."""

from __future__ import annotations

from gce_backend.actions.canaries import canaries
from gce_backend.actions.resources import size_of, use_of
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey
from gce_backend.rules.group_sizes import needed_size
from gce_backend.rules.rollout import RolloutLimit, rollout_limit


def limit_of(context: Context, key: GroupKey) -> RolloutLimit | None:
    """The most machines that an active group may have now; None when no roll-out limits it."""
    manager = context.fleet.managers[key]
    return rollout_limit(
        canaries(context, key),
        needed_by_all(context, key),
        sum(_size(context, one) for one, _ in context.fleet.siblings(key)),
        max_surge=manager.max_surge,
        paused=is_paused(context, key),
    )


def is_paused(context: Context, key: GroupKey) -> bool:
    """Whether an operator has paused the roll-out that a group belongs to."""
    return context.fleet.control.is_rollout_paused(key.base_name)


def needed_by_all(context: Context, key: GroupKey) -> int:
    """Machines that an active group and the older revisions' groups in its zone need together."""
    use = use_of(context, key)
    held = sum(use_of(context, one).leased for one, _ in context.fleet.siblings(key))
    if use.share is not None:  # a part of a pool, which knows only of the new revision's leases
        return use.share + held
    return needed_size(context.fleet.managers[key], use._replace(leased=use.leased + held))


def _size(context: Context, key: GroupKey) -> int:
    """VMs of a group; its machines while it has not been seen."""
    size = size_of(context, key)
    if size is not None:
        return size
    return sum(not instance.is_tombstone for _, instance in context.fleet.instances_of(key))
