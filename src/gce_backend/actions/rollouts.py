"""How far a new revision's groups may grow while an older revision has machines in their place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gce_backend.actions.canaries import canaries
from gce_backend.actions.places import Place, groups_at, limits_at, place_of
from gce_backend.actions.resources import size_of, use_of
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey
from gce_backend.rules.group_sizes import Use, needed_size
from gce_backend.rules.rollout import RolloutLimit, rollout_limit


def limit_of(context: Context, key: GroupKey) -> RolloutLimit | None:
    """The most machines that an active group may have now; None when no roll-out limits it."""
    place = place_of(context, key)
    groups = groups_at(context, place)
    others = [one for one in groups if one != key and context.fleet.is_active(one)]
    return rollout_limit(
        canaries(context, key),
        needed_at(context, place, groups),
        staying(context, groups),
        vms_of(context, others),
        max_surge=max_surge(context, groups),
        paused=is_paused(context, groups),
    )


def limit_at(context: Context, place: Place, groups: Sequence[GroupKey]) -> RolloutLimit | None:
    """The most machines that the active groups of a place may have together, but for canaries."""
    return rollout_limit(
        None,
        needed_at(context, place, groups),
        staying(context, groups),
        max_surge=max_surge(context, groups),
        paused=is_paused(context, groups),
    )


def is_paused(context: Context, groups: Iterable[GroupKey]) -> bool:
    """Whether an operator has paused the roll-out that one of these groups belongs to."""
    return any(context.fleet.control.is_rollout_paused(key.base_name) for key in groups)


def max_surge(context: Context, groups: Iterable[GroupKey]) -> int | None:
    """Machines beyond what is needed during a roll-out of these groups; None is no limit."""
    own = (context.fleet.managers[key].max_surge for key in groups if context.fleet.is_active(key))
    return next((surge for surge in own if surge is not None), None)


def needed_at(context: Context, place: Place, groups: Iterable[GroupKey]) -> int:
    """Machines that all groups of a place need together, whatever room there is now."""
    limits = limits_at(context, place)
    if limits is None:
        return 0
    leased = waiting = 0
    for key in groups:
        use = use_of(context, key)
        leased += use.leased
        waiting += use.waiting if context.fleet.is_active(key) else 0
    return needed_size(limits, Use(leased, waiting))


def staying(context: Context, groups: Iterable[GroupKey]) -> int:
    """VMs of groups that are not to stay."""
    return vms_of(context, (key for key in groups if not context.fleet.is_active(key)))


def vms_of(context: Context, groups: Iterable[GroupKey]) -> int:
    """VMs of groups; for a group that has not been seen yet, its machines."""
    return sum(_vms(context, key) for key in groups)


def _vms(context: Context, key: GroupKey) -> int:
    size = size_of(context, key)
    if size is not None:
        return size
    return context.fleet.size(key)
