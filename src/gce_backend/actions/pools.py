"""Decides the size of each group of a pool, from what all of its zones have and can."""

from __future__ import annotations

from collections.abc import Mapping

from gce_backend.actions.places import groups_at, place_of_pool
from gce_backend.actions.resources import ageing_of, leaving_of, size_of, use_of
from gce_backend.actions.rollouts import limit_at, staying
from gce_backend.engine.context import Context
from gce_backend.model.entities import InstanceGroupManager, Pool
from gce_backend.model.keys import GroupKey
from gce_backend.rules.group_sizes import Use, pool_size
from gce_backend.rules.zones import ZoneState, growth_of, spread, troubled

LOOK_SECONDS = 2.0
"""Seconds until a pool is looked at again while a zone of it does not come to rest."""


def spread_pools(context: Context) -> float | None:
    """Stores the size that each group of a pool should have now.

    Returns:
        Seconds until the next look at them; None when they are at rest.
    """
    pools: dict[tuple[str, tuple[str, ...]], list[tuple[GroupKey, Pool]]] = {}
    for key, manager in context.fleet.active_managers():
        if (pool := manager.pool) is not None:
            first = pool.kinds[0] if pool.kinds else key.base_name
            pools.setdefault((first, pool.zones), []).append((key, pool))
    seen = context.memory.seen
    seen.pool_sizes = {}
    restless = False
    for members in pools.values():
        # While a new configuration is taken up, the preferred template's sizes are those that hold.
        pool = min(members, key=lambda member: member[1].rank(member[0].base_name))[1]
        keys = [key for key, _ in members]
        states = {key: _state(context, key, context.fleet.managers[key]) for key in keys}
        if all(pool.rank(key.base_name) for key in keys):
            seen.pool_sizes |= {key: state.size for key, state in states.items()}
            continue  # its preferred template is not known yet, or is on its way out
        uses = [use_of(context, key) for key in keys]
        use = Use(
            leased=sum(one.leased for one in uses),
            waiting=sum(one.waiting for one in uses),
            ageing=sum(ageing_of(context, key, context.clock.now()) for key in keys),
        )
        place = place_of_pool(keys[0], pool)
        groups = groups_at(context, place)
        size = pool_size(pool, use, staying(context, groups) + _leaving(context, states))
        if (limit := limit_at(context, place, groups)) is not None:
            size = min(size, limit.size)
        sizes = spread(size, {str(key): state for key, state in states.items()})
        seen.pool_sizes |= {key: sizes[str(key)] for key in keys}
        restless |= any(
            (group := seen.groups.get(key)) is not None
            and (not group.stable or key in seen.zone_troubles)
            for key in keys
        )
    return LOOK_SECONDS if restless else None


def _leaving(context: Context, states: Mapping[GroupKey, ZoneState]) -> int:
    """VMs of a pool's groups beside those that it keeps."""
    return sum(max(0, (size_of(context, key) or 0) - state.size) for key, state in states.items())


def _state(context: Context, key: GroupKey, manager: InstanceGroupManager) -> ZoneState:
    seen, moment = context.memory.seen, context.clock.monotonic()
    group, leased = seen.groups.get(key), use_of(context, key).leased
    rank = manager.pool.rank(key.base_name) if manager.pool is not None else 0
    if group is None:
        return ZoneState(manager.minimum_size, leased, rank=rank)
    members = group.members.values()
    failing = sum(bool(member.error_code) and member.gce_id is None for member in members)
    made = sum(member.gce_id is not None for member in members)
    known = seen.zone_troubles.pop(key, None)
    trouble = troubled(known, moment, failing=failing > 0, made=made)
    if trouble is not None:
        seen.zone_troubles[key] = trouble
    if trouble is None and known is not None:
        context.log.info("zone.recovered", template=key.base_name, zone=key.zone)
    elif trouble is not None and known is None:
        context.log.info("zone.unable", template=key.base_name, zone=key.zone)
    leaving = leaving_of(context, key, waiting=False)
    growing = manager.resize.names if manager.resize is not None else ()
    coming = sum(name not in group.members for name in growing)
    leased = min(leased, group.target_size)  # somebody may have taken one out of its group
    size = max(leased, group.target_size + coming - leaving - failing)
    return ZoneState(size, leased, growth_of(trouble, moment), rank)
