"""VMs vanish again and again: it is told, and they are replaced ever more slowly (fault 47)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.broker_messages import publish, subscribed
from support.deletions import metric
from support.fleet_harness import ZONE, World, manager, world
from support.outside import cataloged, delete_vm, reaper, whole

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
NOON = 1_800_000_000.0
SELDOM = {"import-config": "* * * * *"}
MELTING = 'gce_backend_conditions{job_name="fetch-instances",reason="MeltDown"}'


async def _is_told(w: World) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(found["reason"] == "MeltDown" for found in problems)


async def test_hole_20_a_vm_that_some_job_does_not_find_is_shown_as_missing_at_once(
    tmp_path: Path,
) -> None:
    """Its group's members are listed every ten minutes; the 404 of another job comes first."""
    async with world(tmp_path, crons=SELDOM, options=CloudOptions(), epoch=NOON) as w:
        await cataloged(w, 3)
        await w.pass_time(60)
        machine = (await w.machines())[0]
        name = machine["name"]
        await delete_vm(w, name)
        await w.pass_time(30)
        assert not await w.is_in(name, "missing")  # nobody has looked
        await publish(w, subscribed(machine, "another"))
        assert await w.until(lambda: w.is_in(name, "missing")) < 10
        assert await w.until(whole(w, 3, without={name})) < 180


async def test_hole_20_vms_that_are_deleted_again_and_again_are_replaced_ever_more_slowly(
    tmp_path: Path,
) -> None:
    """At full pace an hour would cost hundreds. Once they live, the group is whole in minutes."""
    managers = manager(minimum=5)
    async with world(
        tmp_path, managers=managers, settings=SOON, crons=SELDOM, options=CloudOptions()
    ) as w:
        await cataloged(w, 5)
        async with reaper(w, 10.0) as deleted:
            await w.until(lambda: _is_told(w))
            assert len(deleted) <= 15
            await w.pass_time(3600)
            first = len(deleted)
            assert first <= 45
            await w.pass_time(1800)
            assert 1 <= len(deleted) - first <= 15
            await w.restart_daemon()  # what it lost is in the store
            await w.pass_time(600)
            assert await _is_told(w)
            assert await metric(w, MELTING) == 1
        names = set(deleted)
        assert await w.until(whole(w, 5, without=names), within=1500) < 1000
        await w.pass_time(4000)
        assert not await _is_told(w)
        assert MELTING not in await _metrics(w)


async def test_hole_20_a_group_that_loses_all_its_vms_once_is_refilled_at_once(
    tmp_path: Path,
) -> None:
    """As fast as one that is made anew."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        for name in before:
            await w.compute("DELETE", f"zones/{ZONE}/instances/{name}")
        assert await w.until(whole(w, 3, without=set(before))) < 180
        assert not await _is_told(w)


async def test_hole_20_a_group_that_is_deleted_again_and_again_is_made_ever_more_slowly(
    tmp_path: Path,
) -> None:
    """With all its VMs, each time."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        await cataloged(w, 3)
        made = set(await w.groups())

        async def delete() -> None:
            while True:
                for group in await w.groups():
                    made.add(group)
                    path = f"zones/{ZONE}/instanceGroupManagers/{group.split('/')[1]}"
                    await w.compute("DELETE", path)
                await asyncio.sleep(5)

        task = asyncio.create_task(delete())
        await w.pass_time(3600)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert 3 <= len(made) <= 20
        await w.until(lambda: w.has_vms(3), within=1500)


async def _metrics(w: World) -> str:
    async with w.session.get(w.daemon.url + "/metrics") as response:
        return await response.text()
