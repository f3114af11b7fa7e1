"""actions.demand: a lease that has just begun is not counted beside the request that it serves."""

from __future__ import annotations

from pathlib import Path

from gce_backend.actions.demand import share_demand
from gce_backend.actions.resources import use_of
from gce_backend.model.observed import RequestedMachines
from gce_backend.rules.group_sizes import Use
from support.fleet_harness import manager, world


async def test_a_request_that_has_just_become_a_lease_counts_once(tmp_path: Path) -> None:
    """For a second; an answer that still names it then is believed."""
    async with world(tmp_path, managers=manager(minimum=2, maximum=9)) as w:
        await w.until_states(cataloged=2)
        await w.inject("machine_provider.demand.get", status=503, times=None)
        await w.pass_time(60)  # the call that was under way has ended
        context = w.daemon.context
        assert context is not None
        demand = context.memory.demand
        demand.requests = (RequestedMachines({"os_family": "LINUX"}, 1),)
        demand.since = context.clock.now()
        assert await share_demand(context) is None
        [key] = context.fleet.managers
        assert use_of(context, key) == Use(0, 1)
        await w.lease()
        assert use_of(context, key) == Use(1, 0), "also before the requests are shared out again"
        assert await share_demand(context) == 1.0
        assert use_of(context, key) == Use(1, 0)
        await w.pass_time(1.5)
        assert await share_demand(context) is None
        assert use_of(context, key) == Use(1, 1)
