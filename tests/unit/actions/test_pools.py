"""actions.pools: a pool's sizes hold over all its zones, evenly."""

from __future__ import annotations

from pathlib import Path

from support.fleet_harness import template, world
from support.pools import ZONES, by_zone, pool, running


async def test_a_lowered_pool_shrinks_evenly_and_a_raised_one_grows_evenly(tmp_path: Path) -> None:
    """No zone has two machines more than another, and the maximum holds over all."""
    async with world(tmp_path, managers=pool(3, 9)) as w:
        await w.until(lambda: running(w, 3))
        w.write_config(template(), pool(9, 9))
        await w.until(lambda: running(w, 9))
        assert await by_zone(w, "cataloged") == dict.fromkeys(ZONES, 3)
        w.write_config(template(), pool(5, 9))
        await w.until(lambda: running(w, 5))
        found = await by_zone(w, "cataloged")
        assert sorted(found.values()) == [1, 2, 2]
        w.write_config(template(machine_type="e2-medium"), pool(5, 9))
        most = 0
        for _ in range(120):
            groups = await w.groups()
            most = max(most, sum(group["targetSize"] for group in groups.values()))
            await w.pass_time(1)
        assert most <= 9
        await w.until(lambda: running(w, 5))
