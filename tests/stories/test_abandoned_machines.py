"""VMs that somebody took out of their group, and that exist still: fault 45."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import ZONE, World, manager, template, world
from support.outside import abandon, cataloged, ids, whole

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
DELETE = "compute.instances.delete"
SELDOM = {"import-config": "* * * * *"}


@pytest.mark.parametrize("leased", [False, True])
async def test_hole_10_an_abandoned_vm_is_told_apart_from_a_deleted_one(
    tmp_path: Path, leased: bool
) -> None:
    """It leaves the catalog unless somebody holds it; its VM stays; looks at it become seldom."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = await w.lease() if leased else min(before)
        await w.inject(DELETE, status=403, reason="forbidden", times=None)
        await abandon(w, name)
        await w.until(lambda: _is_reported(w, name))
        await w.pass_time(120)
        assert (name in await w.catalog()) is leased
        if leased:
            await w.release()
            await w.pass_time(300)
            assert name not in await w.catalog()
        await w.until(lambda: w.has_vms(4))  # the group has what it is to have
        await w.pass_time(600)
        await w.reset_calls()
        await w.pass_time(600)
        calls = await w.calls()
        assert calls["compute.instances.get"] <= 6
        assert calls[DELETE] <= 3
        assert (await ids(w))[name] == before[name]
        problems = (await w.get("/api/status"))["problems"]
        assert not [p for p in problems if p["reason"] == "Missing"]
        [problem] = [p for p in problems if p["reason"] == "Abandoned"][:1]
        assert f"gcloud compute instances delete {name}" in problem["message"]
        assert f"it exists, costs about {24 * 0.016751:.2f} USD a day" in problem["message"]


@pytest.mark.parametrize("leased", [False, True])
async def test_hole_10_an_abandoned_vm_is_deleted_directly_where_the_role_allows_it(
    tmp_path: Path, leased: bool
) -> None:
    """With the Machine Provider's word, like every other; who holds it keeps it until then."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = await w.lease() if leased else min(before)
        await abandon(w, name)
        if leased:
            await w.until(lambda: _is_reported(w, name))
            await w.pass_time(300)
            assert (await ids(w))[name] == before[name]
            await w.release()
        await w.until(whole(w, 3, without={name}))
        await w.pass_time(60)
        assert (await w.calls())[DELETE] == 1
        assert not (await w.get("/api/status"))["problems"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_hole_10_a_crash_at_the_direct_deletion_does_not_lose_it(
    tmp_path: Path, when: str
) -> None:
    """The deletion was stored first; the next process looks, and asks again where it must."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        await w.inject(DELETE, kind="drop", when=when, times=1)
        await abandon(w, name)
        await w.until(w.has_fired)
        await w.restart_daemon()
        await w.until(whole(w, 3, without={name}))
        await w.pass_time(60)
        assert (await w.calls())[DELETE] <= 2


async def test_hole_10_a_vm_that_lost_our_label_is_not_deleted_directly(tmp_path: Path) -> None:
    """It is reported: whose it is now, nobody here knows."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = min(before)
        path = f"zones/{ZONE}/instances/{name}"
        fingerprint = (await w.compute("GET", path))["labelFingerprint"]
        labels = {"labels": {"owner": "somebody"}, "labelFingerprint": fingerprint}
        await w.compute("POST", f"{path}/setLabels", labels)
        await abandon(w, name)
        await w.until(lambda: _is_reported(w, name))
        await w.pass_time(900)
        assert (await ids(w))[name] == before[name]
        assert (await w.calls())[DELETE] == 0
        assert name not in await w.catalog()


async def test_hole_10_an_abandoned_vm_of_a_draining_revision_is_not_asked_for_through_its_group(
    tmp_path: Path,
) -> None:
    """Its group would ignore the name for ever; the group itself goes."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        [group] = await w.groups()
        await w.inject(DELETE, status=403, reason="forbidden", times=None)
        await abandon(w, name)
        await w.until(lambda: _is_reported(w, name))
        await w.until(lambda: w.has_vms(4))
        await w.reset_calls()
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.until(lambda: _is_rolled(w, name))
        await w.pass_time(600)
        assert (await w.calls())["compute.instanceGroupManagers.deleteInstances"] <= 3
        assert name in await w.vms()
        assert await _is_reported(w, name)
        await w.clear_faults()
        await w.until(whole(w, 3, without={name}), within=900)
        await w.until(lambda: _lacks(w, group))


async def _lacks(w: World, group: str) -> bool:
    return group not in await w.groups()


async def _is_rolled(w: World, abandoned: str) -> bool:
    vms, catalog = await w.vms(), await w.catalog()
    return len(vms) == 4 and catalog == dict.fromkeys(vms.keys() - {abandoned}, "AVAILABLE")


async def _is_reported(w: World, name: str) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(p["reason"] == "Abandoned" and name in p["examples"] for p in problems)
