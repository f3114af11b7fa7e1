"""Several zones as one pool: the others make what one cannot, and it comes back without a storm."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import World, template, world
from support.outside import abandon
from support.pools import ZONES, by_zone, pool, running

CREATE = "compute.instanceGroupManagers.createInstances"
ROLLING = Settings(deletion=DeletionSettings(permitted_count=500))
"""Caps that let the whole pool be exchanged within their window."""


async def leasable(w: World) -> int:
    """How many machines the Machine Provider would lease out."""
    return sum(state == "AVAILABLE" for state in (await w.catalog()).values())


async def filled(w: World, number: int) -> set[str]:
    """Waits until so many machines can be leased, and all VMs are told of; their names."""

    async def reached() -> bool:
        return await leasable(w) == number and await running(w, number)

    await w.until(reached, within=120)
    return set(await w.vms())


async def rolled(w: World, old: set[str], number: int, maximum: int, spare: int = 0) -> None:
    """Waits until a new revision has replaced `old`; never more than `spare` are lacking."""

    async def replaced() -> bool:
        vms = await w.vms()
        assert len(vms) <= maximum
        assert await leasable(w) >= number - spare
        return not old & vms.keys() and await running(w, number)

    await w.until(replaced, within=2 * 3600, every=0.5)


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


@pytest.mark.parametrize(
    ("maximum", "fields", "spare"),
    [
        (9, {}, 1),
        (10, {}, 0),
        (12, {"max_surge": 1}, 0),
        (12, {"max_surge": 0, "max_unavailable": 2}, 2),
        (9, {"max_unavailable": 4}, 4),
    ],
)
async def test_a_pool_is_rolled_as_one(
    tmp_path: Path, maximum: int, fields: dict[str, int], spare: int
) -> None:
    """Its limits hold over all zones: none is full by itself, and none waits for another's room."""
    managers = pool(9, maximum, spare_size=0, **fields)
    async with world(tmp_path, managers=managers, settings=ROLLING, options=CloudOptions()) as w:
        old = await filled(w, 9)
        w.write_config(template(machine_type="e2-medium"), managers)
        await rolled(w, old, 9, maximum, spare)
        assert await by_zone(w, "cataloged") == dict.fromkeys(ZONES, 3)


@pytest.mark.parametrize("maximum", [9, 12])
async def test_a_lopsided_pool_is_rolled_to_even_zones(tmp_path: Path, maximum: int) -> None:
    """A stockout had put its machines into two zones: while it rolls, all zones get their part."""
    managers = pool(9, maximum, spare_size=0)
    async with world(tmp_path, managers=managers, settings=ROLLING, options=CloudOptions()) as w:
        stockout = Fault(kind="stockout", zone=ZONES[0], times=None)
        w.cloud.faults.add(stockout)
        old = await filled(w, 9)
        assert (await by_zone(w, "cataloged"))[ZONES[0]] == 0
        w.cloud.faults.clear()
        w.write_config(template(machine_type="e2-medium"), managers)
        await rolled(w, old, 9, maximum, spare=1 if maximum == 9 else 0)
        assert await by_zone(w, "cataloged") == dict.fromkeys(ZONES, 3)


async def test_a_leased_machine_that_left_its_group_makes_no_pool_grow_above_its_maximum(
    tmp_path: Path,
) -> None:
    """The pool was made smaller meanwhile: it has too many, of which somebody abandons one."""
    large = pool(6, 6, spare_size=0)
    async with world(tmp_path, managers=large, settings=ROLLING, options=CloudOptions()) as w:
        old = await filled(w, 6)
        held = [await w.lease(f"r{number}", duration=100_000) for number in range(6)]
        w.write_config(template(), pool(3, 3, spare_size=0))
        await w.pass_time(60)
        await abandon(w, held[0])
        await w.pass_time(900)
        assert set(await w.vms()) == old


@pytest.mark.parametrize("maximum", [6, 7])
async def test_old_machines_of_a_pool_are_replaced_within_its_limits(
    tmp_path: Path, maximum: int
) -> None:
    """At its maximum one leaves first; with room for one, none is lacking."""
    managers = pool(6, maximum, spare_size=0, max_age_seconds=3600)
    async with world(tmp_path, managers=managers, settings=ROLLING, options=CloudOptions()) as w:
        old = await filled(w, 6)
        await rolled(w, old, 6, maximum, spare=1 if maximum == 6 else 0)
