"""Several zones as one pool: the others make what one cannot, and it comes back without a storm."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from support.fleet_harness import world
from support.pools import ZONES, by_zone, pool, running

CREATE = "compute.instanceGroupManagers.createInstances"


async def test_the_other_zones_carry_a_pool_through_a_stockout(tmp_path: Path) -> None:
    """Within 10 s and the boot time; after it, machines come back one by one, with few calls."""
    async with world(tmp_path, managers=pool(9, 12, spare_size=0), options=CloudOptions()) as w:
        await w.until(lambda: running(w, 9))
        assert await by_zone(w, "cataloged") == dict.fromkeys(ZONES, 3)
        held = [await w.lease(f"r{number}", duration=100_000) for number in range(9)]
        w.cloud.faults.add(Fault(kind="stockout", zone=ZONES[0], times=None))
        here = {one["name"] for one in await w.machines() if one["zone"] == ZONES[0]}
        await w.reset_calls()
        for number, name in enumerate(held):
            if name in here:
                await w.release(f"r{number}")
        await w.until(lambda: running(w, 6))
        took = await w.until(lambda: running(w, 9), within=120, every=0.25)
        assert took <= 10 + CloudOptions().boot_seconds
        assert await by_zone(w, "cataloged", "leased") == {ZONES[1]: 5, ZONES[2]: 4}
        await w.pass_time(1800)
        assert await running(w, 9)
        assert (await w.calls())[CREATE] <= 12
        w.cloud.faults.clear()
        await w.reset_calls()
        for number, name in enumerate(held):
            if name not in here:
                await w.release(f"r{number}")
        await w.pass_time(120)
        await w.until(lambda: running(w, 9), within=120)
        for turn in range(3):
            for number in range(3):
                await w.lease(f"s{turn}-{number}", duration=60)
            await w.pass_time(300)
        await w.until(lambda: running(w, 9), within=120)
        back = await by_zone(w, "cataloged", "leased")
        assert back[ZONES[0]] >= 1
        assert (await w.calls())[CREATE] <= 30
