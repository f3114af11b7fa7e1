"""VMs that stop, are suspended or preempted, or lose their host: fault 45."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import ZONE, World, manager, world
from support.outside import cataloged, ids, whole

SELDOM = {"import-config": "* * * * *"}

Stop = Callable[[World, str], Awaitable[object]]


async def stop(w: World, name: str) -> None:
    """Somebody stops a VM."""
    await w.compute("POST", f"zones/{ZONE}/instances/{name}/stop")


async def suspend(w: World, name: str) -> None:
    """Somebody suspends a VM."""
    await w.compute("POST", f"zones/{ZONE}/instances/{name}/suspend")


async def power_off(w: World, name: str) -> None:
    """A VM's guest shuts down."""
    await w.call("POST", f"/_localcloud/vms/{name}/power-off")


async def preempt(w: World, name: str) -> None:
    """Compute takes a VM back."""
    await w.call("POST", f"/_localcloud/vms/{name}/preempt")


@pytest.mark.parametrize("way", [stop, suspend, power_off, preempt])
async def test_hole_09_a_free_vm_that_stops_leaves_the_catalog_and_is_replaced(
    tmp_path: Path, way: Stop
) -> None:
    """Within a minute it cannot be leased any more, and is told of as stopped."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        await w.pass_time(120)
        await way(w, name)

        async def out() -> bool:
            return name not in await w.catalog()

        assert await w.until(out) < 75
        assert await w.is_in(name, "stopped")
        [told] = (await w.get(f"/api/explain?name={name}"))["found"]
        assert "does not run" in told["reason"]
        assert "stopped" in {event["after"] for event in told["events"]}
        await w.until(whole(w, 3, without={name}))
        # Nobody asks why: only a Spot VM is taken back by Compute itself.
        assert (await w.calls())["compute.zoneOperations.list"] == 0


async def test_hole_09_a_leased_vm_that_stops_is_kept_and_told_of(tmp_path: Path) -> None:
    """Somebody may want its disk; the operator reads of it; after the lease it goes."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = await w.lease()
        await w.pass_time(120)
        await power_off(w, name)
        await w.until(lambda: w.is_in(name, "stopped"))
        await w.pass_time(900)
        assert (await ids(w))[name] == before[name]
        assert (await w.catalog())[name] == "LEASED"
        [problem] = [
            p for p in (await w.get("/api/status"))["problems"] if p["reason"] == "Stopped"
        ]
        assert problem["examples"] == [name]
        [told] = (await w.get(f"/api/explain?name={name}"))["found"]
        assert "Somebody holds it" in told["reason"]
        await w.release()
        await w.until(whole(w, 3, without={name}))


async def test_hole_09_a_vm_that_comes_back_in_time_is_the_same_vm(tmp_path: Path) -> None:
    """It leaves the catalog, runs again, and is cataloged again; it is not destroyed."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = min(before)
        await w.pass_time(120)
        await stop(w, name)
        await w.until(lambda: w.is_in(name, "stopped"))
        await w.compute("POST", f"zones/{ZONE}/instances/{name}/start")
        await w.until(whole(w, 3, without=set()))
        await w.pass_time(600)
        assert await ids(w) == before


async def test_hole_09_a_vm_that_stops_before_it_was_cataloged_is_replaced(
    tmp_path: Path,
) -> None:
    """It is not starting for ever."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions()) as w:
        await w.inject("machine_provider.catalog.add_machines", status=503, times=None)
        await w.until_states(running=3)
        name = min(await w.vms())
        await w.pass_time(120)
        await power_off(w, name)
        await w.until(lambda: w.is_in(name, "stopped"))
        await w.clear_faults()
        await w.until(whole(w, 3, without={name}))


async def test_hole_09_a_vm_that_never_comes_to_run_is_told_of(tmp_path: Path) -> None:
    """Where boot_seconds keeps it; one that is drained by hand is replaced."""
    slow = msgspec.structs.replace(CloudOptions(), boot_seconds=1e7)
    managers = manager(boot_seconds=-1)
    async with world(tmp_path, managers=managers, crons=SELDOM, options=slow) as w:
        await w.until_states(creating=3)
        await w.pass_time(600)
        assert not (await w.get("/api/status"))["problems"]
        await w.pass_time(400)
        [problem] = (await w.get("/api/status"))["problems"]
        assert problem["reason"] == "NotRunning"
        assert "15 minutes" in problem["message"]
        w.cloud.options = CloudOptions()
        for machine in await w.machines():
            assert await w.act("/api/drain", {"name": machine["name"]}) == 200
        await w.until_states(cataloged=3)
        await w.pass_time(60)
        assert not (await w.get("/api/status"))["problems"]
