"""Somebody takes a VM out of its group: nothing that may be in use is destroyed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import ZONE, World, world

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
CALM = msgspec.structs.replace(CloudOptions().instant(), dispatch_seconds=5.0)
SELDOM = {"import-config": "* * * * *"}
"""For long tests: what does not matter here is seldom looked at."""


async def abandon(w: World, name: str) -> None:
    """Somebody takes a VM out of the only group."""
    [group] = await w.groups()
    zone, _, group_name = group.partition("/")
    path = f"zones/{zone}/instanceGroupManagers/{group_name}/abandonInstances"
    await w.compute("POST", path, {"instances": [f"zones/{ZONE}/instances/{name}"]})

    async def gone() -> bool:
        return name not in (await w.groups())[group]["instances"]

    await w.until(gone)


async def test_abandoned_vm_is_shown_as_missing_kept_and_replaced_in_its_group(
    tmp_path: Path,
) -> None:
    """No call of the daemon's ever deletes it, and the group is filled up beside it."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        await w.until_states(cataloged=3)
        before = {name: vm["id"] for name, vm in (await w.vms()).items()}
        name = min(before)
        await abandon(w, name)

        async def is_missing() -> bool:
            return any(
                machine["name"] == name and machine["state"] == "missing"
                for machine in await w.machines()
            )

        await w.until(is_missing)
        await w.pass_time(1200.0)
        vms = await w.vms()
        assert {other: vms[other]["id"] for other in before} == before
        assert vms[name]["status"] == "RUNNING"
        [group] = (await w.groups()).values()
        assert len(group["instances"]) == 3
        assert name not in group["instances"]
        calls = await w.calls()
        assert calls["compute.instances.delete"] == 0
        assert calls["compute.instanceGroupManagers.deleteInstances"] == 0


async def test_abandoned_vm_that_is_leased_keeps_its_lease(tmp_path: Path) -> None:
    """Whoever works on it is not disturbed: VM and catalog entry stay until the lease is over."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CALM) as w:
        await w.until_states(cataloged=3)
        name = await w.lease(duration=1800)
        await abandon(w, name)
        await w.pass_time(900.0)
        assert (await w.catalog())[name] == "LEASED"
        assert (await w.vms())[name]["status"] == "RUNNING"
