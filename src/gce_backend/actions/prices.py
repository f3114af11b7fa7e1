"""Learns about what a machine of each group costs, for metrics and pages."""

from __future__ import annotations

from gce_backend.base.errors import RemoteError
from gce_backend.engine.context import Context
from gce_backend.rules.cost import hourly_price, is_listed


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
