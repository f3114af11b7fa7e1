"""The two delete jobs: what goes, in how many calls, how often, and when it is believed gone."""

from __future__ import annotations

from pathlib import Path

from gce_backend.localcloud.cloud import CloudOptions
from support.deletions import (
    DELETE_INSTANCES,
    LIST_MEMBERS,
    TWO_ZONES,
    delete_outside,
    lease_all,
    listed,
    release_all,
    settings,
)
from support.fleet_harness import world


async def test_reclaimed_machines_of_a_group_are_deleted_in_one_call(tmp_path: Path) -> None:
    """Spec: "Deletes GCE instances for each models.Instance with pending_deletion set."."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=6)
        names = await lease_all(w, 6)
        assert await w.act("/api/pause", {}) == 200
        await release_all(w, 6)
        await w.until_states(pending_deletion=6)
        await w.reset_calls()
        assert await w.act("/api/resume", {}) == 200
        await w.until_states(cataloged=6)
        assert (await w.calls())[DELETE_INSTANCES] == 2  # one for each group
        assert not set(names) & set(await w.vms())


async def test_a_member_without_a_vm_is_deleted_until_its_group_forgets_it(tmp_path: Path) -> None:
    """Somebody deletes the VM while our deletion fails: the group would count it for ever."""
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.inject(DELETE_INSTANCES, kind="operation", reason="INTERNAL_ERROR", times=1)
        await w.release()
        await w.until(lambda: w.is_in(name, "deleting"))
        await delete_outside(w, name)
        await w.until_states(cataloged=3)
        assert await w.fired() == 1
        assert all(name not in group["instances"] for group in (await w.groups()).values())


async def test_hazard_08_the_end_of_the_operation_is_not_the_end_of_the_vm(tmp_path: Path) -> None:
    """The deletion of a VM that takes five minutes is confirmed when it is gone, not before."""
    options = CloudOptions(delete_seconds=300.0, boot_seconds=0.0, operation_seconds=0.5)
    async with world(tmp_path, options=options) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.release()
        await w.until(lambda: w.is_in(name, "deleting"))
        while name in await w.vms():
            assert await w.is_in(name, "deleting")
            await w.pass_time(5)
        await w.until(lambda: w.is_in(name, "deleted"), within=90)
        await w.until_states(cataloged=3)


async def test_hazard_11_fault_39_a_slow_list_does_not_bring_a_deleted_machine_back(
    tmp_path: Path,
) -> None:
    """The group lists the VM for a while after it is gone: its entity stays a tombstone.

    Hazard 11: the ancestor made an entity again of a VM that it had just deleted.
    """
    async with world(tmp_path, settings=settings(resync_seconds=5)) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await listed(w, name)
        await w.release()
        await w.until(lambda: w.is_in(name, "deleted"))
        await w.inject(LIST_MEMBERS, kind="answer", body=page, times=None)
        for _ in range(60):
            await w.pass_time(1)
            assert not await w.is_in(name, "creating", "starting", "running", "cataloged")
        assert await w.fired() >= 1
        await w.clear_faults()
        await w.until_states(cataloged=3)
        assert await w.is_in(name, "deleted")


async def test_a_vm_missed_once_while_it_is_created_is_not_deleted(tmp_path: Path) -> None:
    """Fault 22 for VMs without an id: the next list shows them, and nothing is done about it."""
    options = CloudOptions(boot_seconds=300.0, operation_seconds=0.0, delete_seconds=0.0)
    async with world(tmp_path, options=options, start=False) as w:
        await w.inject(LIST_MEMBERS, kind="empty", skip=2, times=1)
        await w.start_daemon()
        await w.until_states(cataloged=3)
        assert await w.fired() == 1
        assert (await w.calls())[DELETE_INSTANCES] == 0
