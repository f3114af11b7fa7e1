"""Shares the waiting requests out over the groups, by what is known of them now."""

from __future__ import annotations

from gce_backend.actions.resources import leaving_of
from gce_backend.base.errors import RemoteError
from gce_backend.engine.context import Context
from gce_backend.model.entities import InstanceGroupManager
from gce_backend.model.keys import GroupKey
from gce_backend.model.machine_token import Dimension
from gce_backend.rules.catalog_entry import dimensions
from gce_backend.rules.demand import HOSTNAME, Supply, share
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import lease_runs

SETTLE_SECONDS = 1.0
"""Seconds after a lease in which the demand may still count the request that it serves."""


async def share_demand(context: Context) -> float | None:
    """Stores which group is to serve how many waiting requests.

    Returns:
        Seconds until the answer may be another because leases settle; None when it is settled.
    """
    demand = context.memory.demand
    if not demand.requests:
        demand.shares, demand.unserved = {}, 0
        return None
    keys: dict[str, GroupKey] = {}
    groups: dict[str, Supply] = {}
    leases: dict[str, tuple[int, int]] = {}
    for key, manager in context.fleet.active_managers():
        if not manager.maximum_size or context.is_paused(key):
            continue
        try:
            kind = await kind_of(context, key)
        except RemoteError:
            continue  # the catalog job reports it
        keys[str(key)] = key
        groups[str(key)], leases[str(key)] = _supply(context, key, manager, kind)
    found = share(demand.requests, groups)
    demand.unserved = found.unserved
    demand.shares = {
        keys[name]: (number, leases[name][0] - leases[name][1])
        for name, number in found.by_group.items()
    }
    return SETTLE_SECONDS if any(recent for _, recent in leases.values()) else None


async def kind_of(context: Context, key: GroupKey) -> dict[str, Dimension]:
    """The dimensions of a group's machines, without a host name.

    Raises:
        RemoteError: Compute Engine does not say how large they are.
    """
    template = context.fleet.revision_of(key).template
    shape = await context.sizes.shape(template, key.zone)
    found = dimensions(template, "", shape, await context.sizes.disk_gb(template))
    del found[HOSTNAME]
    return found


def _supply(
    context: Context, key: GroupKey, manager: InstanceGroupManager, kind: dict[str, Dimension]
) -> tuple[Supply, tuple[int, int]]:
    """What a group can serve, its leases, and how many of them the demand may not know yet."""
    now, seen_at = context.clock.now(), context.memory.demand.since
    leased = recent = 0
    for _, instance in context.fleet.having(Facet.LEASED, group=key):
        if instance.lease is not None and lease_runs(instance, now):
            leased += 1
            since = instance.lease.since
            recent += since >= seen_at and context.clock.elapsed(since) < SETTLE_SECONDS
    group = context.memory.seen.groups.get(key)
    size = (
        group.target_size - leaving_of(context, key) if group is not None else manager.minimum_size
    )
    failing = sum(bool(member.error_code) for member in group.members.values()) if group else 0
    most = manager.maximum_size - leased
    ready = min(max(0, size - failing - leased), most)
    return Supply(kind, ready + recent, 0 if failing else max(0, most - ready)), (leased, recent)
