"""Learns about what a machine of each group costs, and counts idle time, for metrics and pages."""

from __future__ import annotations

from gce_backend.base.errors import RemoteError
from gce_backend.engine.context import Context
from gce_backend.model.keys import GroupKey
from gce_backend.rules.cost import hourly_price, is_listed
from gce_backend.rules.facets import Facet
from gce_backend.rules.permits import lease_runs

HOUR = 3600.0


async def learn_prices(context: Context) -> None:
    """Stores the price of each group's machine type, once; one without a price is left out."""
    prices, known = context.settings.cost.prices, context.memory.hourly_prices
    for key, manager in context.fleet.managers.items():
        revision = context.fleet.revisions.get(key.revision)
        if revision is None or manager.url is None:
            continue
        machine_type = revision.template.machine_type
        if machine_type in known or not revision.has_fields:
            continue
        shape = None
        if not is_listed(machine_type, prices):
            try:
                shape = await context.sizes.shape(revision.template, key.zone)
            except RemoteError:
                continue  # the catalog job reports it
        known[machine_type] = hourly_price(machine_type, shape, prices)


def count_idle(context: Context) -> None:
    """Counts the time since the last look for the machines that could be leased then."""
    seen, moment = context.memory.seen, context.clock.monotonic()
    for key, revision in context.fleet.active_revisions():
        price = context.memory.hourly_prices.get(revision.template.machine_type)
        for group, _ in context.fleet.managers_of(key):
            since, number = seen.idle.get(group, (moment, 0))
            seconds = number * (moment - since)
            cost = None if price is None else price * seconds / HOUR
            context.metrics.idle(group.base_name, group.zone, seconds, cost)
            seen.idle[group] = (moment, _idle(context, group))


def _idle(context: Context, group: GroupKey) -> int:
    """How many machines are in the catalog, not leased, and nothing befalls them."""
    now, fleet = context.clock.now(), context.fleet
    others = [
        instance
        for _, instance in fleet.having(
            Facet.LEAVING, Facet.TROUBLED, Facet.UNCATALOGED, group=group
        )
        if not instance.is_tombstone
    ]
    leased = fleet.leased(group, now) - sum(lease_runs(one, now) for one in others)
    return fleet.size(group) - len(others) - leased
