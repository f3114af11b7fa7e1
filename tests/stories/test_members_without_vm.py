"""Members that a group counts and whose VMs are gone: Compute lists them without id and status."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gce_backend.fleet.picture import Change, when_present
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.model.entities import CatalogState, Deletion, Instance, Permit
from gce_backend.model.keys import MachineKey
from gce_backend.settings.settings import FetchSettings, Settings
from support.fleet_harness import ZONE, World, manager, template, world
from support.outside import cataloged, delete_vm, ids, whole

SOON = Settings(fetch=FetchSettings(resync_seconds=30))
SELDOM = {"import-config": "* * * * *"}
DELETE = "compute.instanceGroupManagers.deleteInstances"
LIST = "compute.instanceGroupManagers.listManagedInstances"


def _removed(_: Instance | None) -> None:
    """Its entity is gone."""


def _tombstone(instance: Instance) -> Instance:
    """It is taken to be deleted."""
    deletion = Deletion(Permit.REMOVED, 1.0, 1.0, "r", 2.0)
    return replace(instance, catalog=CatalogState.REMOVED, deletion=deletion, missing_since=1.0)


def _abandoned(instance: Instance) -> Instance:
    """An old list did not show it, and its VM was there then."""
    return replace(instance, missing_since=1.0, abandoned_since=2.0)


@pytest.mark.parametrize("known", ["removed", "tombstone", "abandoned"])
async def test_hole_10_a_member_whose_vm_is_gone_does_not_keep_its_place(
    tmp_path: Path, known: str
) -> None:
    """Whatever the store says of it: the group deletes it, and makes another."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        await w.daemon.stop()
        await delete_vm(w, name)
        await _store(w, name, known)
        await w.broker("catalog.delete_machine", _dimensions(name))
        await w.start_daemon()
        assert await w.until(whole(w, 3, without={name})) < 300
        [group] = (await w.groups()).values()
        assert group["targetSize"] == 3
        await w.pass_time(120)
        assert not (await w.get("/api/status"))["problems"]


async def test_hole_10_a_member_without_vm_and_entity_does_not_keep_a_drained_group(
    tmp_path: Path,
) -> None:
    """A group is deleted only when it is empty."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        [old] = await w.groups()
        await w.daemon.stop()
        await delete_vm(w, name)
        await _store(w, name, "removed")
        await w.broker("catalog.delete_machine", _dimensions(name))
        w.write_config(template(machine_type="e2-medium"), manager())
        await w.start_daemon()

        async def gone() -> bool:
            return old not in await w.groups()

        await w.until(gone, within=900)


async def test_hole_10_a_group_that_keeps_a_member_without_vm_is_told_of(tmp_path: Path) -> None:
    """Compute says yes to its deletion, and nothing comes of it; the condition ends with it."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        [group] = await w.groups()
        done = {
            "kind": "compute#operation",
            "name": "operation-1",
            "operationType": DELETE,
            "status": "DONE",
        }
        await w.inject(DELETE, kind="answer", body=done, times=None)
        await delete_vm(w, name)

        async def told() -> bool:
            problems = (await w.get("/api/status"))["problems"]
            return any(p["reason"] == "MemberWithoutVM" and name in p["message"] for p in problems)

        await w.until(told, within=900)
        assert (await w.groups())[group]["targetSize"] == 3
        await w.clear_faults()
        await w.until(whole(w, 3, without={name}))
        await w.pass_time(120)
        assert not (await w.get("/api/status"))["problems"]


async def test_hole_10_the_entry_of_a_member_without_vm_and_entity_leaves_the_catalog(
    tmp_path: Path,
) -> None:
    """It carries the id of a VM that nobody knows any more: it is the member's own all the same."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        name = min(await cataloged(w, 3))
        await w.daemon.stop()
        await delete_vm(w, name)
        await _store(w, name, "removed")
        await w.start_daemon()
        await w.until(whole(w, 3, without={name}), within=900)
        await w.pass_time(120)
        assert not (await w.get("/api/status"))["problems"]


async def test_hole_10_the_lease_of_an_entry_without_vm_and_entity_is_waited_for(
    tmp_path: Path,
) -> None:
    """The Machine Provider is asked before its place is given to another machine."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        name = await w.lease()
        await w.daemon.stop()
        await delete_vm(w, name)
        await _store(w, name, "removed")
        await w.start_daemon()
        await w.pass_time(600)
        assert (await w.catalog())[name] == "LEASED"
        shown = [one for m in await w.machines() if m["name"] == name for one in m["conditions"]]
        message = "Somebody holds it, but its VM is gone. It is deleted after the lease ends."
        assert ("Leased", message) in [(one["reason"], one["message"]) for one in shown]
        assert (await ids(w)).items() == {n: i for n, i in before.items() if n != name}.items()
        await w.release()
        await w.until(whole(w, 3, without={name}), within=900)


async def test_hole_10_a_list_that_shows_no_vms_destroys_no_machine(tmp_path: Path) -> None:
    """It is wrong for minutes, and one lease is not known here; then all is well."""
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        before = await cataloged(w, 3)
        [group] = await w.groups()
        path = f"zones/{ZONE}/instanceGroupManagers/{group.partition('/')[2]}"
        page = await w.compute("POST", f"{path}/listManagedInstances")
        for member in page["managedInstances"]:
            del member["id"], member["instanceStatus"]
        await w.inject("pubsub.projects.subscriptions.pull", times=None)
        await w.inject("machine_provider.catalog.get", status=503, times=None)
        wanted = {"request_id": "r1", "duration": 7200, "dimensions": {"os_family": "LINUX"}}
        await w.broker("machine_provider.lease", wanted)
        await w.inject(LIST, kind="answer", body=page, times=None)
        await w.until_states(missing=3)
        await w.pass_time(300)
        await w.clear_faults()
        await w.until_states(cataloged=2, leased=1)
        assert await ids(w) == before
        assert (await w.calls())[DELETE] == 0


def _dimensions(name: str) -> dict[str, object]:
    return {"dimensions": {"hostname": name, "backend": "GCE"}}


async def _store(w: World, name: str, known: str) -> None:
    """Stores what is known of a machine, as a restore or an earlier list left it."""
    async with w.fleet() as fleet:
        [key] = [key for key in fleet.instances if key.name == name]
        assert isinstance(key, MachineKey)
        apply = {
            "removed": _removed,
            "tombstone": when_present(_tombstone),
            "abandoned": when_present(_abandoned),
        }[known]
        assert await fleet.change([Change(key, apply)])


async def test_hole_12_a_vm_that_is_made_after_its_deletion_has_begun_is_deleted(
    tmp_path: Path,
) -> None:
    """Its zone had no room, it was taken back, and Compute refused the deletion until it was there.

    Its entity has no numeric id. The VM of its name is its own.
    """
    async with world(tmp_path, settings=SOON, crons=SELDOM, options=CloudOptions()) as w:
        first = await cataloged(w, 3)
        await w.inject("", kind="stockout", zone=ZONE, times=None)
        w.write_config(template(), manager(minimum=5))

        async def size(wanted: int) -> bool:
            sizes = [int(group["targetSize"]) for group in (await w.groups()).values()]
            return sum(sizes) == wanted

        await w.until(lambda: size(5))
        await w.inject(DELETE, status=503, times=None)
        w.write_config(template(), manager(minimum=3))

        async def begun() -> bool:
            async with w.fleet() as fleet:
                ids_of = [one.gce_id for one in fleet.instances.values() if one.deletion]
            return ids_of.count(None) == 2

        await w.until(begun)
        await w.daemon.stop()
        await w.clear_faults()
        await w.pass_time(60)
        assert len(await ids(w)) == 5
        await w.start_daemon()

        async def are_the_first() -> bool:
            return await ids(w) == first

        await w.until(are_the_first, within=900)
