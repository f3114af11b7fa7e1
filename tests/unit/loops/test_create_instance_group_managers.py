"""create-instance-group-managers: when a group is made, how, and whose it may be."""

from __future__ import annotations

from pathlib import Path

from gce_backend.configuration.naming import group_name
from gce_backend.localcloud.cloud import CloudOptions
from support.fleet_harness import OTHER_ZONE, ZONE, manager, world
from support.fleet_views import manager_in, plain_revision, shown
from support.outside import cataloged, ids, make_group, make_template, whole


async def test_create_instance_group_managers(tmp_path: Path) -> None:
    """What the spec says of create-instance-group-managers.

    "Waits for an instance template to exist for the template the
    manager is configured to use before attempting to create the instance group manager."
    """
    insert = "compute.instanceTemplates.insert"
    async with world(tmp_path, start=False) as w:
        await w.inject(insert, status=503, times=None)
        await w.start_daemon()
        await w.pass_time(120)
        assert await w.fired() > 1
        assert (await w.calls())["compute.instanceGroupManagers.insert"] == 0
        await w.clear_faults()
        await w.until_states(cataloged=3)
        (group,) = (await shown(w, "linux"))["revisions"][0]["managers"]
        assert f"{ZONE}/{group['group']}" in await w.groups()
        assert group["url"].endswith(f"/zones/{ZONE}/instanceGroupManagers/{group['group']}")


async def test_groups_are_paginated_and_never_repair_by_themselves(tmp_path: Path) -> None:
    """A group that repairs would recreate a leased VM; one without pages would not list it."""
    async with world(tmp_path, managers=manager() + manager(zone=OTHER_ZONE, minimum=1)) as w:
        await w.until_states(cataloged=4)
        groups = await w.groups()
        assert {place.partition("/")[0]: g["targetSize"] for place, g in groups.items()} == {
            ZONE: 3,
            OTHER_ZONE: 1,
        }
        for place in groups:
            zone, _, name = place.partition("/")
            found = await w.compute("GET", f"zones/{zone}/instanceGroupManagers/{name}")
            assert found["listManagedInstancesResults"] == "PAGINATED"
            assert found["instanceLifecyclePolicy"]["defaultActionOnFailure"] == "DO_NOTHING"
            assert not found.get("autoHealingPolicies")
            assert found["baseInstanceName"] == name


async def test_hazard_18_group_deleted_outside_is_made_again(tmp_path: Path) -> None:
    """Its machines leave the catalog, and others take their places; the other zone stays."""
    managers = manager() + manager(zone=OTHER_ZONE, minimum=2)
    async with world(tmp_path, managers=managers, options=CloudOptions()) as w:
        before = await cataloged(w, 5)
        zones = {name: vm["zone"] for name, vm in (await w.vms()).items()}
        group = next(name for name in await w.groups() if name.startswith(ZONE))
        await w.compute("DELETE", f"zones/{ZONE}/instanceGroupManagers/{group.split('/')[1]}")
        lost = {name for name, zone in zones.items() if zone == ZONE}
        await w.pass_time(3)
        await w.until(whole(w, 5, without=lost))
        assert {n: i for n, i in before.items() if n not in lost}.items() <= (await ids(w)).items()
        assert len(await w.groups()) == 2


async def test_a_group_of_our_name_that_is_not_ours_is_not_adopted(tmp_path: Path) -> None:
    """NameTaken is shown and no machine is put into it; once they delete it, ours is made."""
    name = group_name("linux", plain_revision(), ZONE)
    two_zones = manager() + manager(zone=OTHER_ZONE, minimum=1)
    async with world(tmp_path, managers=two_zones, start=False) as w:
        await make_template(w, "theirs")
        await make_group(w, name, ZONE, "theirs")
        await w.start_daemon()
        await w.until_states(cataloged=1)
        await w.pass_time(30.0)
        shown = manager_in(await w.get("/api/fleet"), ZONE)
        assert [c["reason"] for c in shown["conditions"]] == ["NameTaken"]
        assert (await w.groups())[f"{ZONE}/{name}"]["targetSize"] == 0
        await w.compute("DELETE", f"zones/{ZONE}/instanceGroupManagers/{name}")
        await w.until_states(cataloged=4)
