"""Trouble that takes a part of the fleet: it is carried, told, and over when its cause is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gce_backend.localcloud.cloud import CloudOptions
from support.agents import report
from support.fleet_harness import World, manager, template, world
from support.scraped import scrape

CREATE = "compute.instanceGroupManagers.createInstances"
DELETE = "compute.instanceGroupManagers.deleteInstances"


async def limit_cpus(w: World, cpus: float) -> None:
    """Sets the quota of each region."""
    url = f"{w.cloud.base_url}/_localcloud/quotas"
    async with w.session.put(url, json={"CPUS": cpus}) as response:
        assert response.status == 200


async def vms_running(w: World) -> set[str]:
    """The names of the VMs that run."""
    return {name for name, vm in (await w.vms()).items() if vm["status"] == "RUNNING"}


async def test_a_quota_that_halves_makes_nothing_swing(tmp_path: Path) -> None:
    """What runs stays; what is reclaimed is made again when there is quota, without a storm."""
    managers = manager(minimum=8, maximum=16, spare_size=2)
    async with world(tmp_path, managers=managers, options=CloudOptions()) as w:
        await w.until_states(cataloged=8)
        held = [await w.lease(f"r{number}") for number in range(6)]
        await limit_cpus(w, 8)
        await w.reset_calls()
        before = await vms_running(w)
        for number in range(4):
            await w.release(f"r{number}")
        await w.pass_time(900)
        calls = await w.calls()
        assert before - set(held[:4]) <= await vms_running(w)
        assert len(await vms_running(w)) == 4
        assert calls[CREATE] <= 4
        assert calls[DELETE] <= 4
        assert "QuotaExceeded" in str((await w.get("/api/status"))["problems"])
        await limit_cpus(w, 1000)
        assert await w.until(lambda: w.has_vms(8), within=900) < 700
        await w.pass_time(60)
        assert not (await w.get("/api/status"))["problems"]
        assert (await w.calls())[CREATE] <= 8


async def test_a_third_that_is_preempted_at_once_is_replaced_and_lessees_are_told(
    tmp_path: Path,
) -> None:
    """Spot VMs, which are deleted: with agents within 5 s, without once the daemon knows.

    The daemon learns of preemptions from Compute's operations, by a list or two of the zone.
    """
    spot = template(provisioning_model="SPOT")
    async with world(tmp_path, templates=spot, managers=manager(minimum=9)) as w:
        w.cloud.options = CloudOptions()
        await w.until_states(cataloged=9)
        mute, held = await w.lease(duration=100_000), await w.lease("r2", duration=100_000)
        first = await vms_running(w)
        free = min(first - {held, mute})
        await w.reset_calls()
        for name in (mute, held, free):
            await w.call("POST", f"/_localcloud/vms/{name}/preempt")
        for name in (held, free):
            assert await report(w, name, preempted=True) == 200

        async def leases() -> dict[str, Any]:
            found = (await w.call("GET", "/api/v1/leases"))["leases"]
            return {one["request_id"]: one for one in found}

        async def told(request: str) -> bool:
            return bool((await leases())[request].get("troubles", ()))

        async def over(request: str) -> bool:
            return "ended" in (await leases())[request]

        async def replaced() -> bool:
            found = await vms_running(w)
            return len(found) == 9 and not found & {free, held, mute}

        assert await w.until(lambda: told("r2"), every=0.5) < 5
        assert await w.until(lambda: over("r2")) < 35
        assert await w.until(lambda: over("r1")) < 90
        ended = await leases()
        assert [ended[one]["ended"] for one in ("r1", "r2")] == ["PREEMPTED"] * 2
        for name in (free, mute):
            [shown] = (await w.get(f"/api/explain?name={name}"))["found"]
            assert "preemption" in str([shown["reason"], *shown["events"]])
        assert await w.until(replaced, within=900, every=5) < 90
        assert first - {free, held, mute} <= await vms_running(w)
        await w.pass_time(300)
        calls = await w.calls()
        assert calls[CREATE] <= 3
        assert 1 <= calls["compute.zoneOperations.list"] <= 3
        # The lease of the third ended by its agent's word, and its deletion was asked for then.
        assert (await scrape(w)).sum("preemptions_total") == 2
        assert not {held, mute} & (await w.catalog()).keys()


async def test_a_revision_whose_machines_never_run_costs_one_machine_at_a_time(
    tmp_path: Path,
) -> None:
    """The old machines stay leasable, and the next revision takes their place."""
    managers = manager(minimum=4, boot_seconds=60)
    async with world(tmp_path, managers=managers, options=CloudOptions()) as w:
        await w.until_states(cataloged=4)
        old = set(await w.vms())
        w.cloud.options = msgspec.structs.replace(CloudOptions(), boot_seconds=1e7)
        w.write_config(template(machine_type="e2-medium"), managers)
        made: set[str] = set()
        for _ in range(20):
            await w.pass_time(30)
            new = {machine["name"] for machine in await w.machines()} - old
            made |= new
            assert list((await w.catalog()).values()) == ["AVAILABLE"] * 4
            assert old <= await vms_running(w)
        assert 3 <= len(made) <= 10
        assert "BootFailing" in str((await w.get("/api/status"))["problems"])
        w.cloud.options = CloudOptions()
        w.write_config(template(machine_type="e2-standard-2"), managers)
        await w.until_states(cataloged=4, within=900)

        async def renewed() -> bool:
            return not old & set(await w.vms()) and len(await w.catalog()) == 4

        await w.until(renewed, within=900)
