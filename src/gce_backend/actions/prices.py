"""Learns about what a machine of each group costs, and counts idle time, for metrics and pages."""

from __future__ import annotations

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import RemoteError
from gce_backend.engine.context import Context
from gce_backend.model.entities import CatalogState, Instance
from gce_backend.rules.cost import hourly_price, is_listed
from gce_backend.rules.surplus import is_idle

HOUR = 3600.0


async def learn_prices(context: Context) -> None:
    """Stores the price of each group's machine type, once; one without a price is left out."""
    prices, known = context.settings.cost.prices, context.memory.hourly_prices
    for key, manager in context.fleet.managers.items():
        revision = context.fleet.revisions.get(key.revision)
        if revision is None or manager.url is None:
            continue
        machine_type = revision.template.machine_type
        if machine_type in known:
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
    seen, moment, now = context.memory.seen, context.clock.monotonic(), context.clock.now()
    for key, revision in context.fleet.active_revisions():
        price = context.memory.hourly_prices.get(revision.template.machine_type)
        for group, _ in context.fleet.managers_of(key):
            since, number = seen.idle.get(group, (moment, 0))
            seconds = number * (moment - since)
            cost = None if price is None else price * seconds / HOUR
            context.metrics.idle(group.base_name, group.zone, seconds, cost)
            machines = context.fleet.instances_of(group)
            idle = sum(_is_idle(instance, now) for _, instance in machines)
            seen.idle[group] = (moment, idle)


def _is_idle(instance: Instance, now: UnixSeconds) -> bool:
    cataloged = instance.catalog is CatalogState.CATALOGED
    return cataloged and is_idle(instance, now)
