"""actions.preemptions: which Spot VMs Compute took back, by its operations."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import World, template, world
from support.outside import cataloged, whole

SELDOM = {"import-config": "* * * * *"}
LIST = "compute.zoneOperations.list"
SPOT = template(provisioning_model="SPOT")


async def said(w: World, name: str) -> str:
    """Why a machine is as it is, and what has happened to it."""
    [shown] = (await w.get(f"/api/explain?name={name}"))["found"]
    return str([shown["reason"], *shown["events"]])


async def test_a_spot_vm_that_stops_is_asked_about_until_it_is_answered(tmp_path: Path) -> None:
    """Once for each machine and change; only what Compute took back is called preempted."""
    async with world(tmp_path, templates=SPOT, crons=SELDOM, options=CloudOptions()) as w:
        taken, off, _ = sorted(await cataloged(w, 3))
        await w.pass_time(120)
        await w.reset_calls()
        await w.inject(LIST, status=403, times=2)
        await w.call("POST", f"/_localcloud/vms/{taken}/preempt?action=STOP")
        await w.call("POST", f"/_localcloud/vms/{off}/power-off")

        async def known() -> bool:
            return "preemption" in await said(w, taken)

        await w.until(known, every=5)
        assert await w.fired() == 2
        assert "preemption" not in await said(w, off)
        await w.until(whole(w, 3, without={taken, off}), within=900, every=5)
        await w.pass_time(300)
        assert 3 <= (await w.calls())[LIST] <= 5
